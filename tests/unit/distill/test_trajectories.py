"""Recorded runs of the teacher, and a student that learns their parts."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from diffuscope.config import EMOJI
from diffuscope.diffusion.schedules import Schedule
from diffuscope.distill.objectives import rotate, sample
from diffuscope.distill.task import Field, encode_texts
from diffuscope.distill.trajectories import Recording, TrajectoryTask, record
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.recipes.turbo import STUDENT, train_turbo, turbo
from diffuscope.training.loop import LoopConfig, StepContext, train
from diffuscope.weights.store import packing
from distilling import MODEL, unet
from refusals import refused

RECORDING = Recording(steps=2, teacher_steps=3, guidance_scale=2.0, size=8, chunk=5)
EMPTY = torch.full((8,), 49407)


@pytest.fixture(scope="module")
def text_encoder():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return TextEncoder(MODEL.text_encoder)


@pytest.fixture(scope="module")
def field():
    return Field(Schedule(MODEL.schedule), torch.device("cpu"))


def ids(count):
    return torch.randint(49406, (count, 8), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def recorded(field, text_encoder):
    return record(RECORDING, field, unet(), lambda ids: encode_texts(text_encoder, ids), ids(12), EMPTY, seed=3)


def test_no_step_at_all_is_refused():
    with refused("steps"):
        Recording(steps=0)


def test_states_are_those_of_the_guided_teachers_run(recorded, field, text_encoder):
    assert recorded.states.shape == (12, 3, 4, 8, 8)
    assert torch.equal(recorded.ids, ids(12).int())
    texts = encode_texts(text_encoder, ids(12)), encode_texts(text_encoder, EMPTY[None])
    noise = recorded.states[:, 0].float()
    run = sample(lambda z, phi: field.guided(unet(), z, phi, texts, 2.0), noise, list(field.phis(6)))
    torch.testing.assert_close(recorded.states[:, 1].float(), run[3], rtol=0, atol=5e-3)
    torch.testing.assert_close(recorded.states[:, 2].float(), run[6], rtol=0, atol=5e-3)


def test_a_recording_ends_with_its_time(field, text_encoder):
    short = record(
        RECORDING, field, unet(), lambda ids: encode_texts(text_encoder, ids), ids(12), EMPTY, seed=3, seconds=0.0
    )
    assert len(short) == RECORDING.chunk


def test_the_loss_is_the_distance_from_the_next_state(recorded, field, text_encoder):
    """A student that makes the teacher's own steps has none where the recording has one step in each."""
    single = replace(RECORDING, teacher_steps=1, guidance_scale=1.0)
    plain = record(single, field, unet(), lambda ids: encode_texts(text_encoder, ids), ids(12), EMPTY, seed=3)
    context = StepContext(torch.Generator().manual_seed(0), 0, 0, 0.0)
    assert TrajectoryTask(unet(), text_encoder, field, (plain, plain), 16).loss(context)[0] < 1e-4
    assert TrajectoryTask(unet(), text_encoder, field, (recorded, recorded), 16).loss(context)[0] > 1e-3


def test_validation_runs_the_student_from_the_recorded_noise(recorded, field, text_encoder):
    task = TrajectoryTask(unet(3), text_encoder, field, (recorded, recorded), 16)
    z, text = recorded.states[:, 0].float(), encode_texts(text_encoder, ids(12))
    for phi, after in pairwise(task.phis):
        z = rotate(z, field(task.student, z, phi, text), phi - after)
    wanted = (z - recorded.states[:, -1].float()).square().mean().item()
    assert task.validate(task.student)["distance"] == pytest.approx(wanted, rel=1e-4)


def test_a_student_learns_them(recorded, field, text_encoder, tmp_path):
    task = TrajectoryTask(unet(), text_encoder, field, (recorded, recorded), 16)
    before = task.validate(task.student)["distance"]
    trained = train(task, LoopConfig(steps=12, warmup_steps=2, lr=3e-3, ema_decay=0.8, log_every=12), tmp_path)
    assert task.validate(trained)["distance"] < 0.9 * before


def test_the_recipe_leaves_a_packed_student(text_encoder, tmp_path):
    recipe = turbo()
    assert recipe.model is EMOJI
    loop = replace(recipe.loop, seconds=None, steps=2)
    recipe = replace(recipe, model=MODEL, recording=RECORDING, record_seconds=None, batch_size=8, loop=loop)
    trained = train_turbo(recipe, unet().requires_grad_(False), text_encoder, (ids(12), ids(4), EMPTY), tmp_path)
    packed = packing.read(tmp_path / STUDENT)
    assert packed.keys() == trained.state_dict().keys()
    assert (packed["conv_in.weight"] - unet().conv_in.weight).abs().max() > 0
