"""Distillation from recorded trajectories: the teacher runs once from noise, and the student learns each part of it.

The inputs are the states that occur in use, and no pictures are needed: texts are enough. The teacher's calls are paid
once, where progressive distillation pays them at every step.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from diffuscope.distill.objectives import sample, velocity_between
from diffuscope.distill.task import Field, encode_texts
from diffuscope.errors import InputError
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.training.loop import StepContext

VALIDATED = 256
"""Held-out trajectories that are validated on."""


@dataclass(frozen=True)
class Trajectories:
    """N runs of the teacher, as the student's few steps see them."""

    states: Tensor
    """[N,S+1,C,h,w] float16 at the student's angles: pure noise first, the result last."""
    ids: Tensor
    """[N,T] int32 token ids."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """How trajectories are made."""

    steps: int = 4
    """Of the student."""
    teacher_steps: int = 4
    """Of the teacher in each of the student's."""
    guidance_scale: float = 2.5
    """Of the teacher; the student has it within."""
    size: int = 16
    """Height and width of the latents."""
    chunk: int = 1024
    """Runs made at once."""

    def __post_init__(self) -> None:
        if min(self.steps, self.teacher_steps, self.chunk) < 1:
            got = (self.steps, self.teacher_steps, self.chunk)
            raise InputError("steps", got, "steps, teacher_steps and chunk of at least 1")


@torch.no_grad()
def record(
    recording: Recording,
    field: Field,
    teacher: UNet,
    encode: Callable[[Tensor], Tensor],
    ids: Tensor,
    empty: Tensor,
    *,
    seed: int,
    seconds: float | None = None,
) -> Trajectories:
    """Run the guided teacher for each text, or for as many as the seconds allow.

    Args:
        recording: steps and guidance.
        field: the teacher's velocity.
        teacher: on its device, best in bfloat16 where that is fast.
        encode: [B,T] ids to text states.
        ids: [N,T] token ids, on that device.
        empty: [T] ids of the empty text.
        seed: of the noise.
        seconds: None runs all.
    """
    generator = torch.Generator(ids.device).manual_seed(seed)
    phis = list(field.phis(recording.steps * recording.teacher_steps))
    nothing = encode(empty.to(ids.device)[None])
    states: list[Tensor] = []
    end = None if seconds is None else time.monotonic() + seconds
    for part in ids.split(recording.chunk):
        texts = encode(part), nothing
        shape = (len(part), teacher.config.in_channels, recording.size, recording.size)
        noise = torch.randn(shape, device=ids.device, generator=generator)
        velocity = partial(field.guided, teacher, texts=texts, scale=recording.guidance_scale, fast=False)
        run = sample(velocity, noise, phis)
        states.append(torch.stack(run[:: recording.teacher_steps], 1).half())
        if end is not None and _now(ids.device) > end:
            break
    joined = torch.cat(states)
    return Trajectories(joined, ids[: len(joined)].int())


class TrajectoryTask:
    """The task of ``loop.train``.

    Args:
        student: what is trained, on its device.
        text_encoder: of the teacher; not trained.
        field: the student's velocity.
        trajectories: to learn from, and held-out ones.
        batch_size: rows of a step.
    """

    adamw_prefixes: tuple[str, ...] = ("conv_in", "conv_out")

    def __init__(
        self,
        student: UNet,
        text_encoder: TextEncoder,
        field: Field,
        trajectories: tuple[Trajectories, Trajectories],
        batch_size: int = 512,
    ) -> None:
        self.network: nn.Module = student
        self.student, self.field, self.batch_size = student, field, batch_size
        self.text_encoder = text_encoder.requires_grad_(False).eval()
        self.trajectories, self.held_out = trajectories
        self.phis = field.phis(self.trajectories.states.shape[1] - 1)

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the velocity that takes each state to the next one of its trajectory."""
        device = self.trajectories.ids.device
        rows = torch.randint(len(self.trajectories), (self.batch_size,), device=device, generator=context.generator)
        part = torch.arange(self.batch_size, device=device) % (len(self.phis) - 1)
        z, lower = (self.trajectories.states[rows, part + i].float() for i in (0, 1))
        phi, after = (self.phis[part + i].view(-1, 1, 1, 1) for i in (0, 1))
        text = encode_texts(self.text_encoder, self.trajectories.ids[rows])
        error = (self.field(self.student, z, phi, text) - velocity_between(z, lower, phi - after)).square().mean()
        return error, {"error": error.detach()}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Mean squared distance, in latents, of the student's results from the teacher's for the same noise."""
        assert isinstance(network, UNet)
        states = self.held_out.states[:VALIDATED].float()
        text = encode_texts(self.text_encoder, self.held_out.ids[:VALIDATED])
        run = sample(lambda z, phi: self.field(network, z, phi, text, fast=False), states[:, 0], list(self.phis))
        return {"distance": (run[-1] - states[:, -1]).square().mean().item()}


def _now(device: torch.device) -> float:
    """Seconds on the clock when the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
