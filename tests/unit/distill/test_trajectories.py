"""Recorded runs of the teacher, and a student that learns to jump along them."""

import pytest
import torch

import distilling
from diffuscope.diffusion.schedules import Schedule
from diffuscope.distill.objectives import rotate, sample
from diffuscope.distill.task import Field, encode_texts
from diffuscope.distill.trajectories import Recording, TrajectoryTask, record, student_inputs
from diffuscope.recipes.turbo import student_of
from distilling import COUNTS, EMPTY, MODEL, RECORDING, context, ids, unet
from refusals import refused


@pytest.fixture(scope="module")
def text_encoder():
    return distilling.text_encoder()


@pytest.fixture(scope="module")
def field():
    return Field(Schedule(MODEL.schedule), torch.device("cpu"))


@pytest.fixture(scope="module")
def recorded(field, text_encoder):
    return record(RECORDING, field, unet(), lambda ids: encode_texts(text_encoder, ids), ids(40), EMPTY, seed=3)


@pytest.mark.parametrize(("argument", "value"), [("steps", 0), ("chunk", 0), ("order", 3), ("random_scales", 1.5)])
def test_an_impossible_recording_is_refused(argument, value):
    with refused("steps" if argument == "chunk" else argument):
        Recording(**{argument: value})


def test_states_are_those_of_the_guided_teachers_run(recorded, field, text_encoder):
    assert recorded.states.shape == (40, 7, 4, 8, 8)
    assert torch.equal(recorded.ids, ids(40).int())
    texts = encode_texts(text_encoder, ids(40)), encode_texts(text_encoder, EMPTY[None])
    noise, scales = recorded.states[:, 0].float(), recorded.scales.view(-1, 1, 1, 1)
    run = sample(lambda z, phi: field.guided(unet(), z, phi, texts, scales), noise, list(field.phis(6)), order=2)
    torch.testing.assert_close(recorded.states.float(), torch.stack(run, 1), rtol=0, atol=5e-3)


def test_most_runs_have_the_preset_scale_and_the_others_any(recorded):
    others = recorded.scales[recorded.scales != 2.0]
    assert 4 < len(others) < 28
    assert 1 <= others.min() < others.max() <= 8


def test_a_recording_ends_with_its_time(field, text_encoder):
    short = record(
        RECORDING, field, unet(), lambda ids: encode_texts(text_encoder, ids), ids(12), EMPTY, seed=3, seconds=0.0
    )
    assert len(short) == RECORDING.chunk


def test_a_student_begins_as_its_teacher_without_guidance(field, text_encoder):
    text, z, phi = encode_texts(text_encoder, ids(3)), torch.randn(3, 4, 8, 8), torch.tensor(0.7)
    extra = student_inputs(field, torch.tensor([1.0, 2.5, 8.0]), torch.tensor([1, 4, 24]))
    torch.testing.assert_close(field(student_of(unet()), z, phi, text, extra=extra), field(unet(), z, phi, text))
    assert extra["step_size"].tolist() == pytest.approx([1000, 250, 1000 / 24])


def test_the_loss_compares_each_number_of_steps_with_its_part_of_the_run(recorded, field, text_encoder):
    """An oracle that knows each run answers every row; the batch holds the numbers of steps in their shares."""
    task = TrajectoryTask(student_of(unet()), text_encoder, field, (recorded, recorded), 16, COUNTS)
    assert task.counts == {1: 4, 3: 8, 6: 4}
    seen = []

    def oracle(_network, z, phi, text, *, extra, fast=True):
        """The state after the span, found by the input among all recorded ones."""
        flat = recorded.states.float().flatten(2)
        where = torch.cdist(z.flatten(1), flat.flatten(0, 1)).argmin(1)
        run, start = where // 7, where % 7
        span = (extra["step_size"] * 6 / 1000).round().long()
        assert torch.equal(extra["guidance"], recorded.scales[run])
        torch.testing.assert_close(phi.flatten(), task.phis[start])
        seen.append(span)
        angle = (task.phis[start] - task.phis[start + span]).view(-1, 1, 1, 1)
        lower = recorded.states[run, start + span].float()
        return (angle.cos() * z - lower) / angle.sin()

    task.field = oracle_field(field, oracle)
    loss, named = task.loss(context())
    assert loss < 1e-6
    assert named.keys() == {"error.1", "error.3", "error.6"}
    assert seen[0].tolist() == [6] * 4 + [2] * 8 + [1] * 4


def oracle_field(field, call):
    """A field whose network is replaced by a function."""
    return type("Oracle", (), {"schedule": field.schedule, "phis": field.phis, "__call__": staticmethod(call)})()


def test_validation_runs_the_student_from_the_recorded_noise(recorded, field, text_encoder):
    task = TrajectoryTask(student_of(unet(3)), text_encoder, field, (recorded, recorded), 16, COUNTS)
    z, text = recorded.states[:, 0].float(), encode_texts(text_encoder, ids(40))
    extra = student_inputs(field, recorded.scales, torch.full((40,), 3))
    phis = field.phis(3)
    for i in range(3):
        z = rotate(z, field(task.student, z, phis[i], text, extra=extra), phis[i] - phis[i + 1])
    wanted = (z - recorded.states[:, -1].float()).square().mean().item()
    assert task.validate(task.student)["distance.3"] == pytest.approx(wanted, rel=1e-4)


def test_steps_that_do_not_divide_the_recorded_ones_are_refused(recorded, field, text_encoder):
    with refused("steps", [4]):
        TrajectoryTask(student_of(unet()), text_encoder, field, (recorded, recorded), 16, {1: 1, 4: 1})
    with refused("batch_size", 2):
        TrajectoryTask(student_of(unet()), text_encoder, field, (recorded, recorded), 2, COUNTS)
