"""Distribution matching on a tiny twin: whose turn it is, where it rests, and that it gets there."""

import pytest
import torch

from diffuscope.distill.matching import Matching, MatchingTask
from diffuscope.distill.pixels import sample
from diffuscope.recipes.turbo import student_of
from diffuscope.training.pixels import one_hot
from pixel_twin import FIELD, SPREAD, context, gaussian, network, perfect
from refusals import refused


def task(teacher=perfect, **options):
    student, fake = (student_of(network()) for _ in range(2))
    return MatchingTask(student, fake, teacher, FIELD, Matching(batch_size=16, scales=(1.0, 1.0), **options))


def moved(one):
    """The parts that have a gradient."""
    return {name.split(".")[0] for name, value in one.network.named_parameters() if value.grad is not None}


def test_every_last_turn_is_the_students():
    one = task(fake_updates=2)
    for step, part in enumerate(("fake", "fake", "student", "fake")):
        one.loss(context(step))[0].backward()
        assert moved(one) == {part}
        one.network.zero_grad()


def test_a_student_rests_where_the_fake_sees_what_the_teacher_sees():
    one = task(fake_updates=1)
    assert one.loss(context(1))[0] > 1e-6
    one.teacher = one.fake
    assert one.loss(context(1))[0] == 0


def test_only_the_last_step_has_a_gradient():
    one = task()
    noise, text = torch.randn(2, 16, 7, 7), one_hot(torch.tensor([1, 2]), 10)
    drawn = one._drawn(noise, text, torch.ones(2), 3)
    torch.testing.assert_close(drawn.detach(), sample(one.map, noise, text, 1.0, FIELD.phis(3)).detach())
    asked = []
    one.map = lambda z, *_: asked.append(z.requires_grad) or z * one.network["student"].conv_in.weight.sum()
    assert one._drawn(noise, text, torch.ones(2), 3).requires_grad
    assert asked == [False] * 3  # nothing comes from the steps before


def test_pictures_become_as_varied_as_the_teachers():
    """One number is learned, and the fake always knows what the student draws."""
    one, spread = task(fake_updates=1, steps=(1,)), torch.tensor(1.0, requires_grad=True)
    one.map = lambda z, *_: -spread * z  # a turn by a right angle leaves the spread times the noise
    spreads = []
    for step in range(1, 161, 2):
        one.fake = gaussian(spread.detach())
        one.loss(context(step))[0].backward()
        with torch.no_grad():
            spread -= 0.1 * spread.grad
        spread.grad = None
        spreads.append(spread.item())
    assert spreads[0] < 1
    assert sum(spreads[-20:]) / 20 == pytest.approx(SPREAD, abs=0.05)


@pytest.mark.parametrize("wrong", [{"steps": ()}, {"steps": (0,)}, {"fake_updates": 0}])
def test_impossible_settings_are_refused(wrong):
    with refused(next(iter(wrong))):
        Matching(**wrong)
