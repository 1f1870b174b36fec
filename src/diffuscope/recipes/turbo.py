"""The recipe of ``emoji-turbo``: a student of ``emoji`` that makes an image in one to twelve network calls.

It learns to jump along recorded trajectories of the guided teacher, and reads guidance scale and step size. docs/log.md
tells what the runs gave, and what became of progressive distillation (``distill.task``).
"""

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from diffuscope.config import EMOJI, ModelConfig
from diffuscope.diffusion.schedules import Schedule
from diffuscope.distill.task import Field, encode_texts
from diffuscope.distill.trajectories import VALIDATED, Recording, Trajectories, TrajectoryTask, record
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.recipes import ship, stages
from diffuscope.training import distributed
from diffuscope.training.loop import LoopConfig, train
from diffuscope.weights.store import files, headers, packing

STUDENT = "student.safetensors"
EMBEDDING = 256
"""Width of the student's embeddings of guidance scale and step size."""

EMOJI_TURBO = replace(
    EMOJI,
    name="emoji-turbo",
    base="emoji",
    unet=replace(EMOJI.unet, guidance_dim=EMBEDDING, step_dim=EMBEDDING),
    preset=replace(EMOJI.preset, num_inference_steps=4, sampler="ddim"),
)
"""The shipped student."""


@dataclass(frozen=True, kw_only=True)
class TurboRecipe:
    """Trajectories of the teacher, then one run of training on them."""

    model: ModelConfig = EMOJI
    recording: Recording = field(default_factory=Recording)
    batch_size: int = 512
    compiled: bool = False
    rounded_from: float = 0.5
    """Completed part of the run from which the student is trained as its file will store it."""
    loop: LoopConfig


def turbo(seconds: float = 320.0) -> TurboRecipe:
    """One network for 1 to 24 steps and guidance scales 1 to 8, from 24 guided steps of the teacher, of second order.

    ``fd.scenes`` less floor over the teacher's with 50 guided steps, of the file as it ships: 1.10 with four steps
    after 240 s of recording and 700 s of training on two H200s, begun with a student of 1.13 that learned from DDIM's
    trajectories. With fewer trajectories (176,000) it overfitted them.
    """
    loop = LoopConfig(
        lr=4e-4, seconds=seconds, warmup_steps=50, hold=0.05, ema_decay=0.998, validate_every=120.0, save_every=240.0
    )
    return TurboRecipe(loop=loop, compiled=torch.cuda.is_available())


def export_turbo(difference: Path, folder: Path) -> None:
    """Write the folder that ships: the config, which names the base, and the student's difference from it."""
    folder.mkdir(parents=True, exist_ok=True)
    ship.write_config(folder, EMOJI_TURBO)
    stored = headers.read_header(difference)
    files.write(folder / "unet.safetensors", files.read(difference), stored.metadata)


def student_of(teacher: UNet) -> UNet:
    """A network with the teacher's weights that also reads guidance scale and step size, both without effect yet."""
    student = type(teacher)(replace(teacher.config, guidance_dim=EMBEDDING, step_dim=EMBEDDING))
    without_effect = {name: torch.zeros_like(value) for name, value in student.state_dict().items()}
    student.load_state_dict(without_effect | teacher.state_dict())
    return stages.to_device(student, teacher.conv_in.weight.device).requires_grad_(True)


def record_trajectories(
    recipe: TurboRecipe,
    teacher: UNet,
    text_encoder: TextEncoder,
    texts: tuple[Tensor, Tensor, Tensor],
    seconds: float | None = None,
    seed: int = 0,
) -> tuple[Trajectories, Trajectories]:
    """Runs of the teacher to learn from, and held-out ones. Every process takes other noise, and texts of its own.

    Args:
        recipe: what to do.
        teacher: float32, on its device.
        text_encoder: of the model, on the same device.
        texts: token ids [N,T] that this process trains on, [M,T] held out, and [T] of the empty text.
        seconds: None makes one trajectory for each text.
        seed: of the noise to learn from; that of the held-out runs stays.
    """
    device = teacher.conv_in.weight.device
    velocity = Field(Schedule(recipe.model.schedule), device, compiled=recipe.compiled)
    learned, held_out, empty = (ids.to(device) for ids in texts)
    if device.type == "cuda":
        teacher = stages.to_device(copy.deepcopy(teacher).bfloat16(), device)
    rank = distributed.rank()

    def encode(ids: Tensor) -> Tensor:
        return encode_texts(text_encoder, ids)

    checked = replace(recipe.recording, random_scales=0.0)
    return (
        record(
            recipe.recording, velocity, teacher, encode, learned, empty, seed=1 + rank + 4096 * seed, seconds=seconds
        ),
        record(checked, velocity, teacher, encode, held_out[:VALIDATED], empty, seed=0),
    )


def train_turbo(
    recipe: TurboRecipe,
    teacher: UNet,
    text_encoder: TextEncoder,
    trajectories: tuple[Trajectories, Trajectories],
    folder: Path,
    initial: UNet | None = None,
) -> UNet:
    """The averaged student; at every checkpoint its weights go into ``folder/student.safetensors``, packed.

    Args:
        recipe: what to do.
        teacher: float32, on its device.
        text_encoder: of the model, on the same device.
        trajectories: to learn from, and held-out ones, on that device.
        folder: of the run.
        initial: student to begin with; None begins with the teacher.
    """
    velocity = Field(Schedule(recipe.model.schedule), teacher.conv_in.weight.device, compiled=recipe.compiled)
    base = teacher.state_dict()
    task = TrajectoryTask(
        student_of(teacher) if initial is None else initial,
        text_encoder,
        velocity,
        trajectories,
        recipe.batch_size,
        base=base,
        rounded_from=recipe.rounded_from,
    )

    def save(average: nn.Module) -> None:
        packing.write(folder / STUDENT, average.state_dict())

    trained = train(task, recipe.loop, folder, asked=recipe, on_save=save)
    assert isinstance(trained, UNet)
    return trained
