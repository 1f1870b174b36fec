"""The recipe of a student of ``emoji`` with four network calls: it learns the guided teacher's recorded trajectories.

docs/log.md tells what the runs gave, and what became of progressive distillation (``distill.task``).
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from diffuscope.config import EMOJI, ModelConfig
from diffuscope.diffusion.schedules import Schedule
from diffuscope.distill.task import Field, encode_texts
from diffuscope.distill.trajectories import VALIDATED, Recording, TrajectoryTask, record
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.training import distributed
from diffuscope.training.loop import LoopConfig, train
from diffuscope.weights.store import packing

STUDENT = "student.safetensors"


@dataclass(frozen=True, kw_only=True)
class TurboRecipe:
    """Trajectories of the teacher, then one run of training on them."""

    model: ModelConfig = EMOJI
    recording: Recording = field(default_factory=Recording)
    record_seconds: float | None = None  # None makes one trajectory for each text
    batch_size: int = 512
    loop: LoopConfig


def turbo(record_seconds: float = 40.0, seconds: float = 90.0) -> TurboRecipe:
    """Four steps with guidance 2.5 within, from 16 guided steps of the teacher.

    ``fd.scenes`` less floor is 1.04 times the teacher's with 50 guided steps, after 460 steps (90 s, two H200s).
    """
    loop = LoopConfig(
        lr=5e-4, seconds=seconds, warmup_steps=20, hold=0.15, ema_decay=0.99, validate_every=30.0, save_every=45.0
    )
    return TurboRecipe(record_seconds=record_seconds, loop=loop)


def train_turbo(
    recipe: TurboRecipe,
    teacher: UNet,
    text_encoder: TextEncoder,
    texts: tuple[Tensor, Tensor, Tensor],
    folder: Path,
) -> UNet:
    """The averaged student; at every checkpoint its weights go into ``folder/student.safetensors``, packed.

    Every process records trajectories of its own, of other texts and noise.

    Args:
        recipe: what to do.
        teacher: float32, on its device.
        text_encoder: of the model, on the same device.
        texts: token ids [N,T] to train on, [M,T] held out, and [T] of the empty text.
        folder: of the run.
    """
    device = teacher.conv_in.weight.device
    velocity = Field(Schedule(recipe.model.schedule), device)
    learned, held_out, empty = (ids.to(device) for ids in texts)
    student = copy.deepcopy(teacher).requires_grad_(True)
    fast = copy.deepcopy(teacher).bfloat16() if device.type == "cuda" else teacher
    rank = distributed.rank()

    def encode(ids: Tensor) -> Tensor:
        return encode_texts(text_encoder, ids)

    checked = record(recipe.recording, velocity, fast, encode, held_out[:VALIDATED], empty, seed=0)
    trajectories = record(
        recipe.recording,
        velocity,
        fast,
        encode,
        learned[rank :: distributed.world_size()],
        empty,
        seed=1 + rank,
        seconds=recipe.record_seconds,
    )
    task = TrajectoryTask(student, text_encoder, velocity, (trajectories, checked), recipe.batch_size)

    def save(average: nn.Module) -> None:
        packing.write(folder / STUDENT, average.state_dict())

    trained = train(task, recipe.loop, folder, on_save=save)
    assert isinstance(trained, UNet)
    return trained
