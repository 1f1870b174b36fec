"""The task that the loop runs: what it compares, where it begins, and that a round is learned."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from diffuscope.diffusion.schedules import Schedule
from diffuscope.distill.objectives import guided, rotate, sample
from diffuscope.distill.task import Distillation, Field
from distilling import MODEL, context, task, unet
from narrow import random_model
from refusals import refused


@pytest.fixture
def field():
    return Field(Schedule(MODEL.schedule), torch.device("cpu"))


def test_the_clock_is_that_of_training(field):
    times = torch.tensor([0, 1, 249, 500, 998, 999])
    torch.testing.assert_close(field.timestep_of(field.table[times]), times.float(), rtol=0, atol=2e-3)
    halfway = (field.table[249] + field.table[250]) / 2
    assert field.timestep_of(halfway[None]).item() == pytest.approx(249.5, abs=1e-2)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
def test_few_steps_are_among_many(field, steps):
    """So a student's steps are where its teacher's were."""
    many = field.phis(32)
    torch.testing.assert_close(field.phis(steps), many[:: 32 // steps])
    assert many[-1] == 0
    assert (many.diff() < 0).all()


def test_an_epsilon_model_is_refused():
    with refused("prediction", "epsilon"):
        Field(Schedule(replace(MODEL.schedule, prediction="epsilon", zero_snr=False)), torch.device("cpu"))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": 4, "teacher_steps": 0}])
def test_less_than_a_step_is_refused(wrong):
    with refused("steps"):
        Distillation(**wrong)


def test_a_part_outside_of_the_batch_is_refused():
    with refused("rollout", 1.5):
        Distillation(steps=4, rollout=1.5)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_of_single_steps():
    loss, _ = task(Distillation(steps=4, teacher_steps=1, batch=16)).loss(context())
    assert loss.item() < 1e-12


def test_the_guided_teacher_is_two_predictions_in_one():
    made = task(Distillation(steps=2, guidance_scale=2.5, batch=4))
    z, text = torch.randn(4, 4, 8, 8), made.encode(made.held_out.ids[:4, 0])
    phi = made.phis[1]
    one = made.field.guided(made.teacher, z, phi, (text, made.empty), 2.5)
    parts = [made.field(made.teacher, z, phi, states) for states in (text, made.empty.expand(4, -1, -1))]
    torch.testing.assert_close(one, guided(*parts, 2.5), rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_distance_from_where_the_teacher_ends():
    made = task(Distillation(steps=2, teacher_steps=3, batch=8), student=unet(3))
    z, segment, text = made._states(torch.Generator().manual_seed(0))
    assert segment.tolist() == [0, 1] * 4
    squares = []
    for row in range(8):
        phis = made.phis[3 * segment[row] : 3 * segment[row] + 4]
        one, own = z[row : row + 1], text[row : row + 1]
        lower = one
        for phi, after in pairwise(phis):
            lower = rotate(lower, made.field(made.teacher, lower, phi, own), phi - after)
        missed = rotate(one, made.field(made.student, one, phis[0], own), phis[0] - phis[-1]) - lower
        squares.append((missed / (phis[0] - phis[-1]).sin()).square().mean())
    loss, _ = made.loss(context())
    assert loss.item() == pytest.approx(torch.stack(squares).mean().item(), rel=1e-3)


def test_rows_begin_on_noisy_latents_at_the_students_steps(monkeypatch):
    made = task(Distillation(steps=4, batch=400))
    z, segment, _ = made._states(torch.Generator().manual_seed(0))
    spread = z.flatten(1).square().mean(1)
    assert [(segment == i).sum().item() for i in range(4)] == [100] * 4
    torch.testing.assert_close(spread.mean(), torch.tensor(1.0), rtol=0, atol=0.05)


def test_rolled_out_rows_are_the_students_own_states():
    made = task(Distillation(steps=4, batch=16, rollout=0.5), student=unet(3))
    z, segment, text = made._states(torch.Generator().manual_seed(0))
    assert len(z) == len(segment) == len(text) == 16
    own = z[8:].view(4, 2, 4, 8, 8)
    assert segment[8:].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    phis = made.phis[::2]
    for i in range(3):
        velocity = made.field(made.student, own[i], phis[i], text[8:10])
        torch.testing.assert_close(own[i + 1], rotate(own[i], velocity, phis[i] - phis[i + 1]), rtol=1e-4, atol=1e-5)


def test_the_pipeline_samples_as_the_task_does(field):
    """Its DDIM at a scale of 1 makes a student's steps, one network call each."""
    pipe = random_model(MODEL)
    noise = torch.randn(1, 4, 4, 4)
    result = pipe("a cat", num_inference_steps=4, guidance_scale=1.0, sampler="ddim", latents=noise, upscale=1)
    text = pipe.encode_prompt("a cat").embeddings
    with torch.no_grad():
        states = sample(lambda z, phi: field(pipe.unet, z, phi, text), noise, list(field.phis(4)))
    torch.testing.assert_close(result.latents, states[-1], rtol=1e-3, atol=1e-4)
