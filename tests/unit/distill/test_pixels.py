"""Every method on a tiny twin: its target is what the paper says, and the student learns it."""

from itertools import pairwise

import pytest
import torch

from diffuscope.data.digits import LabelledImages
from diffuscope.distill.objectives import rotate
from diffuscope.distill.pixels import (
    PixelDistillation,
    PixelDistillTask,
    guided_teacher,
    keep_slow,
    sample,
    sample_renoised,
    student_map,
)
from diffuscope.recipes.turbo import student_of
from diffuscope.training.muon import MuonAdamW
from diffuscope.training.pixels import PixelLatents, PixelTraining, one_hot
from pixel_twin import FIELD, SPREAD, context, network, perfect
from refusals import refused

# Forward-mode derivatives load torch's decompositions, which torch itself compiles with what it deprecates.
pytestmark = pytest.mark.filterwarnings("default:.torch.jit.script. is deprecated:DeprecationWarning")

METHODS = {"guidance": 16, "progressive": 2, "shortcut": 2, "flow_map": 2, "consistency": 1}
"""Method -> steps of its student."""


def task(method, teacher=None, **options):
    pixels = SPREAD * torch.randn(256, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    images = LabelledImages(pixels, torch.arange(256) % 10)
    own = network()
    keep_slow(own)  # as the student: at first it is its teacher
    training = PixelTraining(shift=0, rotation=0.0)
    settings = PixelDistillation(method=method, batch_size=16, training=training, **options)
    student = student_of(own).to(memory_format=torch.contiguous_format)
    teacher = guided_teacher(FIELD, own) if teacher is None else teacher
    return PixelDistillTask(student, teacher, FIELD, images, PixelLatents(mean=0.0, std=1.0, patch=4), settings)


@pytest.mark.parametrize(("method", "steps"), METHODS.items())
def test_a_student_comes_to_where_its_teacher_comes(method, steps):
    """In fewer steps than the teacher's 16, whose latents lose half of their size on the way from noise."""
    one = task(method, perfect, steps={"progressive": steps, "consistency": 2}.get(method, 16))
    noise = torch.randn(32, 16, 7, 7, generator=torch.Generator().manual_seed(1))
    text = one_hot(torch.arange(32) % 10, 10)
    asked = sample(perfect, noise, text, 1.0, FIELD.phis(16))

    @torch.no_grad()
    def gap():
        return (sample(one.map, noise, text, 1.0, FIELD.phis(steps)) - asked).square().mean().item()

    before = gap()
    optimiser = torch.optim.Adam(one.network.parameters(), 3e-3)
    for step in range(150 if method == "consistency" else 60):  # it learns the last step first
        one.loss(context(step, progress=0.5))[0].backward()
        optimiser.step()
        optimiser.zero_grad()
    assert gap() < 0.35 * before


def test_guidance_is_all_that_the_first_student_has_to_learn():
    assert task("guidance", scales=(1.0, 1.0)).loss(context())[0] < 1e-9
    assert task("guidance", scales=(3.0, 3.0)).loss(context())[0] > 1e-6


def test_progressive_distillation_makes_two_guided_steps_in_one():
    one = task("progressive", steps=4)
    rows = torch.arange(4) / 4 + 0.1
    phi, end = (angle.view(-1, 1, 1, 1) for angle in one._angles(rows, rows))
    torch.testing.assert_close(phi.flatten(), FIELD.phis(4)[:-1])
    torch.testing.assert_close(end.flatten(), FIELD.phis(4)[1:])
    z, text, scale = torch.randn(4, 16, 7, 7), one_hot(torch.arange(4), 10), torch.full((4,), 2.5)
    target = one._target(z, phi, end, text, scale, 0.0)
    for row in range(4):
        part = FIELD.phis(8)[2 * row : 2 * row + 3]
        own = slice(row, row + 1)
        two = sample(one.teacher, z[own], text[own], 2.5, part)
        torch.testing.assert_close(rotate(z, target, phi - end)[own], two, rtol=1e-4, atol=1e-4)


def test_most_rows_of_a_flow_map_learn_the_teacher_itself():
    for method, moved in (("shortcut", 4), ("flow_map", 8)):
        one = task(method)
        draws = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
        phi, end = one._angles(*draws.clone())
        assert (phi[:2] == FIELD.phis(1)[0]).all()
        assert (end[:moved] < phi[:moved]).all()
        assert torch.equal(end[moved:], phi[moved:])


def test_fast_sinusoids_stay_away_in_training():
    """Muon moves all that has a gradient equally far, so nothing is left to chance."""
    one = task("flow_map")
    optimiser = MuonAdamW(one.network, 1e-2, adamw_prefixes=one.adamw_prefixes)
    fast = {"time_embed.linear_1": 7, "step_embed": 55, "guidance_embed": 55}  # of 16, 128 and 128 frequencies
    for step in range(2):
        one.loss(context(step))[0].backward()
        optimiser.step(1.0)
    for name, count in fast.items():
        columns = one.network.get_submodule(name).weight.detach().abs().sum(0)
        assert (columns.unflatten(0, (2, -1)).sum(0) == 0).sum() == count


def test_few_steps_of_the_teacher_are_ddim():
    own = network()
    noise, text = torch.randn(2, 16, 7, 7), one_hot(torch.tensor([1, 2]), 10)
    phis = FIELD.phis(3)
    expected = noise
    for phi, after in pairwise(phis):
        v = FIELD(own, expected, phi, text)
        expected = rotate(expected, v, phi - after)
    torch.testing.assert_close(sample(guided_teacher(FIELD, own), noise, text, 1.0, phis), expected)
    untrained = student_map(FIELD, student_of(own))
    torch.testing.assert_close(sample(untrained, noise, text, 1.0, phis), expected)
    one = FIELD.phis(1)
    torch.testing.assert_close(
        sample_renoised(untrained, noise, text, 1.0, one), sample(untrained, noise, text, 1.0, one)
    )


@pytest.mark.parametrize("wrong", [{"method": "magic"}, {"steps": 0}, {"scales": (2.0, 1.0)}, {"scales": (0.0, 1.0)}])
def test_impossible_settings_are_refused(wrong):
    with refused(next(iter(wrong))):
        PixelDistillation(**({"method": "guidance"} | wrong))
