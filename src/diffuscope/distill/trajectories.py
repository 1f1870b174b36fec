"""Distillation from recorded trajectories: the teacher runs once from noise, and the student learns to jump along it.

The inputs are the states that occur in use, and no images are needed: texts are enough. The teacher's calls are paid
once, where progressive distillation pays them at every step. The student reads the size of its step and the guidance
scale, so one network makes one step or many: a flow map (Boffi et al. 2024) learned from its definition, by regression.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle, pairwise

import torch
from torch import Tensor, nn

from diffuscope.distill.objectives import sample, velocity_between
from diffuscope.distill.task import Field, encode_texts
from diffuscope.errors import InputError
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.training.loop import StepContext
from diffuscope.training.rounding import Rounding, round_weights

VALIDATED = 256
"""Held-out trajectories that are validated on."""

STEPS: Mapping[int, float] = {1: 0.16, 2: 0.27, 3: 0.04, 4: 0.33, 6: 0.03, 8: 0.1, 12: 0.05, 24: 0.02}
"""Numbers of steps that a student learns -> its share of the batch."""


@dataclass(frozen=True)
class Trajectories:
    """N runs of the teacher."""

    states: Tensor
    """[N,S+1,C,h,w] float16 at the S+1 angles of S steps: pure noise first, the result last."""
    scales: Tensor
    """[N] float32 guidance scales."""
    ids: Tensor
    """[N,T] int32 token ids."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def steps(self) -> int:
        """S, the teacher's steps."""
        return self.states.shape[1] - 1


@dataclass(frozen=True, kw_only=True)
class Recording:
    """How trajectories are made."""

    steps: int = 24
    """Of the teacher, in each run."""
    order: int = 2
    """Of its sampler, ``objectives.sample``: for as many calls, order 2 is far nearer to the limit than 1, DDIM."""
    guidance_scale: float = 2.5
    """Of the runs that have no random scale."""
    random_scales: float = 0.4
    """Part of the runs whose scale is log-uniform from 1 to ``largest_scale``."""
    largest_scale: float = 8.0
    size: int = 16
    """Height and width of the latents."""
    chunk: int = 1024
    """Runs made at once."""

    def __post_init__(self) -> None:
        if min(self.steps, self.chunk) < 1:
            raise InputError("steps", (self.steps, self.chunk), "steps and chunk of at least 1")
        if self.order not in {1, 2}:
            raise InputError("order", self.order, "1 or 2")
        if not 0 <= self.random_scales <= 1:
            raise InputError("random_scales", self.random_scales, "a part of the runs, 0 to 1")


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
    """Run the guided teacher for each text, or over and over, with other noise, for as long as the seconds allow.

    Args:
        recording: steps and guidance.
        field: the teacher's velocity.
        teacher: on its device, best in bfloat16 where that is fast.
        encode: [B,T] ids to text states.
        ids: [N,T] token ids, on that device.
        empty: [T] ids of the empty text.
        seed: of noise and guidance scales.
        seconds: None runs all.
    """
    generator = torch.Generator(ids.device).manual_seed(seed)
    phis = list(field.phis(recording.steps))
    nothing = encode(empty.to(ids.device)[None])
    states: list[Tensor] = []
    scales: list[Tensor] = []
    used: list[Tensor] = []
    end = None if seconds is None else time.monotonic() + seconds
    parts = ids.split(recording.chunk)
    for part in parts if end is None else cycle(parts):
        texts = encode(part), nothing
        shape = (len(part), teacher.config.in_channels, recording.size, recording.size)
        noise = torch.randn(shape, device=ids.device, generator=generator)
        scale = _scales(recording, len(part), generator)
        velocity = partial(
            field.guided, teacher, texts=texts, scale=scale.view(-1, 1, 1, 1), fast=len(part) == recording.chunk
        )
        states.append(torch.stack(sample(velocity, noise, phis, recording.order), 1).half())
        scales.append(scale)
        used.append(part.int())
        if end is not None and _now(ids.device) > end:
            break
    return Trajectories(torch.cat(states), torch.cat(scales), torch.cat(used))


def _scales(recording: Recording, count: int, generator: torch.Generator) -> Tensor:
    chance, place = torch.rand((2, count), device=generator.device, generator=generator)
    random = (place * math.log(recording.largest_scale)).exp()
    return torch.where(chance < recording.random_scales, random, recording.guidance_scale)


class TrajectoryTask:
    """The task of ``loop.train``.

    Args:
        student: what is trained, on its device; it reads guidance scale and step size.
        text_encoder: of the teacher; not trained.
        field: the student's velocity.
        trajectories: to learn from, and held-out ones.
        batch_size: rows of a step.
        steps: numbers of steps to learn, which divide the recorded ones -> share of the batch.
        base: the tensors that the stored difference is taken from; None stores the student whole.
        rounded_from: completed part of the run from which the student is trained with rounded weights.
    """

    adamw_prefixes: tuple[str, ...] = ("conv_in", "conv_out", "guidance_embed", "step_embed")

    def __init__(
        self,
        student: UNet,
        text_encoder: TextEncoder,
        field: Field,
        trajectories: tuple[Trajectories, Trajectories],
        batch_size: int = 512,
        steps: Mapping[int, float] = STEPS,
        *,
        base: Mapping[str, Tensor] | None = None,
        rounded_from: float = 0.5,
    ) -> None:
        self.network: nn.Module = student
        self.student, self.field = student, field
        self.base, self.rounded_from = base, rounded_from
        self.rounding = None if base is None else Rounding(student, base, compiled=field.compiled)
        self.text_encoder = text_encoder.requires_grad_(False).eval()
        self.trajectories, self.held_out = trajectories
        recorded = self.trajectories.steps
        if odd := [count for count in steps if count < 1 or recorded % count]:
            raise InputError("steps", odd, f"divisors of the {recorded} recorded steps")
        self.phis = field.phis(recorded)
        self.counts = _allotted(steps, batch_size)
        rows = torch.tensor(list(self.counts)).repeat_interleave(torch.tensor(list(self.counts.values())))
        self.rows = rows.to(self.phis.device)

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the velocity that takes a state to a later one of its trajectory."""
        if self.rounding is not None and context.progress >= self.rounded_from:
            self.rounding.round()
        device, generator, count = self.phis.device, context.generator, len(self.rows)
        rows = torch.randint(len(self.trajectories), (count,), device=device, generator=generator)
        span = self.trajectories.steps // self.rows
        start = (torch.rand(count, device=device, generator=generator) * self.rows).long() * span
        z, lower = (self.trajectories.states[rows, i].float() for i in (start, start + span))
        phi, after = (self.phis[i].view(-1, 1, 1, 1) for i in (start, start + span))
        text = encode_texts(self.text_encoder, self.trajectories.ids[rows])
        extra = self._extra(self.trajectories.scales[rows], self.rows)
        velocity = self.field(self.student, z, phi, text, extra=extra)
        errors = (velocity - velocity_between(z, lower, phi - after)).square().mean((1, 2, 3))
        parts = errors.detach().split(list(self.counts.values()))
        return errors.mean(), {f"error.{n}": part.mean() for n, part in zip(self.counts, parts, strict=True)}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Mean squared distance, in latents, of the student's results from the teacher's for the same noise."""
        assert isinstance(network, UNet)
        numbers = self._distances(network, "distance")
        if self.base is not None:
            stored = copy.deepcopy(network)
            round_weights(stored, self.base)
            numbers |= self._distances(stored, "stored")
        return numbers

    def _distances(self, network: UNet, name: str) -> dict[str, float]:
        states = self.held_out.states[:VALIDATED].float()
        text = encode_texts(self.text_encoder, self.held_out.ids[:VALIDATED])
        return {
            f"{name}.{n}": (self._run(network, states[:, 0], text, n) - states[:, -1]).square().mean().item()
            for n in self.counts
        }

    def _run(self, network: UNet, noise: Tensor, text: Tensor, steps: int) -> Tensor:
        extra = self._extra(self.held_out.scales[: len(noise)], torch.full_like(self.rows[:1], steps))
        velocity = partial(self.field, network, text=text, extra=extra, fast=False)
        return sample(velocity, noise, list(self.phis[:: self.held_out.steps // steps]))[-1]

    def _extra(self, scales: Tensor, steps: Tensor) -> dict[str, Tensor]:
        return student_inputs(self.field, scales, steps.expand(len(scales)))


def student_inputs(field: Field, scales: Tensor, steps: Tensor) -> dict[str, Tensor]:
    """What the student reads beside latents and text, from guidance scales and numbers of steps, [B] each."""
    return {"guidance": scales, "step_size": field.schedule.config.train_steps / steps}


def _allotted(shares: Mapping[int, float], batch: int) -> dict[int, int]:
    """Number of steps -> rows of a batch, at least one."""
    total, bounds = sum(shares.values()), [0.0]
    for share in shares.values():
        bounds.append(bounds[-1] + share / total)
    ends = [round(bound * batch) for bound in bounds]
    counts = [after - before for before, after in pairwise(ends)]
    if min(counts) < 1:
        raise InputError("batch_size", batch, "enough rows for every number of steps")
    return dict(zip(shares, counts, strict=True))


def _now(device: torch.device) -> float:
    """Seconds on the clock when the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
