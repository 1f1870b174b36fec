"""Students that learn: a round of distillation, and one that jumps along recorded runs."""

from dataclasses import replace

import pytest
import torch

from diffuscope.config import EMOJI
from diffuscope.diffusion.schedules import Schedule
from diffuscope.distill.task import Distillation, Field, encode_texts
from diffuscope.distill.trajectories import STEPS, TrajectoryTask, record
from diffuscope.recipes.turbo import STUDENT, record_trajectories, student_of, train_turbo, turbo
from diffuscope.training.loop import LoopConfig, train
from diffuscope.weights.store import packing
from distilling import COUNTS, EMPTY, MODEL, RECORDING, context, ids, task, text_encoder, unet

LOOP = LoopConfig(steps=12, warmup_steps=2, lr=3e-3, ema_decay=0.8, log_every=12)


@pytest.mark.parametrize("rollout", [0.0, 0.5])
def test_a_round_is_learned(tmp_path, rollout):
    """The student's few steps come nearer to the guided teacher's many."""
    made = task(Distillation(steps=2, teacher_steps=2, guidance_scale=2.0, batch=16, rollout=rollout))
    before = made.validate(made.student)["distance"]
    trained = train(made, LOOP, tmp_path)
    after = made.validate(trained)["distance"]
    assert after < 0.9 * before
    made.student.load_state_dict(trained.state_dict())
    made.begin(Distillation(steps=1, batch=16), teacher=trained)
    assert made.loss(context())[0].isfinite()
    assert torch.equal(made.teacher.conv_out.weight, trained.conv_out.weight)


def test_a_student_learns_trajectories(tmp_path):
    field, encoder = Field(Schedule(MODEL.schedule), torch.device("cpu")), text_encoder()
    recorded = record(RECORDING, field, unet(), lambda ids: encode_texts(encoder, ids), ids(40), EMPTY, seed=3)
    made = TrajectoryTask(student_of(unet()), encoder, field, (recorded, recorded), 16, COUNTS)
    before = made.validate(made.student)
    after = made.validate(train(made, LOOP, tmp_path))
    assert all(after[name] < 0.9 * before[name] for name in ("distance.1", "distance.3"))


def test_the_recipe_leaves_a_packed_student(tmp_path):
    recipe = turbo()
    assert recipe.model is EMOJI
    assert all(recipe.recording.steps % steps == 0 for steps in STEPS)
    loop = replace(recipe.loop, seconds=None, steps=2)
    recipe = replace(recipe, model=MODEL, recording=replace(RECORDING, steps=24), batch_size=32, loop=loop)
    teacher, encoder = unet().requires_grad_(False), text_encoder()
    recorded = record_trajectories(recipe, teacher, encoder, (ids(12), ids(4), EMPTY))
    assert (recorded[1].scales == 2.0).all()
    trained = train_turbo(recipe, teacher, encoder, recorded, tmp_path)
    packed = packing.read(tmp_path / STUDENT)
    assert packed.keys() == trained.state_dict().keys()
    assert packed["step_embed.weight"].abs().max() > 0
