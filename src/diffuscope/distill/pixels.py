"""Distillation of a model on pixels by any of the objectives: the twin, small enough for a CPU, of a large model's.

One student reads class, guidance scale and step size, so what each method teaches can be compared step by step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffuscope.data.digits import LabelledImages
from diffuscope.distill import objectives
from diffuscope.distill.task import Field
from diffuscope.errors import InputError
from diffuscope.models.unet import UNet
from diffuscope.training.loop import StepContext
from diffuscope.training.pixels import PixelLatents, PixelTraining, augment, one_hot

Method = Literal["guidance", "progressive", "shortcut", "flow_map", "consistency"]

Map = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(z, phi, end, text [B,1,K], guidance scale [B]) -> the velocity of the step from ``phi`` to ``end``."""

SLOW = 0.02
"""Highest frequency of the sinusoids that a student reads, in radians a timestep: 13 to a radian of the angle."""


@dataclass(frozen=True, kw_only=True)
class PixelDistillation:
    """One run of one method."""

    method: Method
    steps: int = 16
    """Of the student, in progressive distillation; of the teacher's solver, in consistency distillation."""
    batch_size: int = 64
    scales: tuple[float, float] = (1.0, 4.0)
    """Lowest and highest guidance scale; drawn log-uniformly."""
    warmup: float = 0.3
    """Part of the run in which the second term of the flow map's tangent grows."""
    training: PixelTraining = field(default_factory=PixelTraining)

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError("method", self.method, f"one of {', '.join(get_args(Method))}")
        if self.steps < 1:
            raise InputError("steps", self.steps, "at least 1")
        if not 0 < self.scales[0] <= self.scales[1]:
            raise InputError("scales", self.scales, "two rising numbers above 0")


def guided_teacher(field: Field, unet: UNet) -> Map:
    """The undistilled network: its guided velocity, whatever the end of the step."""

    def velocity(z: Tensor, phi: Tensor, end: Tensor, text: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG001
        return field.guided(unet, z, phi, (text, torch.zeros_like(text[:1])), scale.view(-1, 1, 1, 1))

    return velocity


def student_map(field: Field, unet: nn.Module) -> Map:
    """A network that reads guidance scale and step size."""

    def velocity(z: Tensor, phi: Tensor, end: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        assert isinstance(unet, UNet)
        size = field.timestep_of(phi.flatten()) - field.timestep_of(end.flatten())
        return field(unet, z, phi, text, extra={"guidance": scale, "step_size": size.expand(len(z))})

    return velocity


def sample(network: Map, noise: Tensor, text: Tensor, scale: float | Tensor, phis: Tensor) -> Tensor:
    """[B,C,H,W] at the last of the falling ``phis``, by one call a step; ``scale`` is one number or [B]."""
    scales = torch.as_tensor(scale, device=noise.device).expand(len(noise))
    z = noise
    for phi, end in pairwise(phis):
        z = objectives.rotate(z, network(z, phi, end, text, scales), phi - end)
    return z


def sample_renoised(network: Map, noise: Tensor, text: Tensor, scale: float, phis: Tensor) -> Tensor:
    """The same with a map that always ends at 0: clean latents, and new noise between the steps (Song et al. 2023)."""
    generator = torch.Generator(noise.device).manual_seed(1)
    scales, zero, z = torch.full((len(noise),), scale, device=noise.device), torch.zeros_like(phis[0]), noise
    for phi, after in pairwise(phis):
        x0 = objectives.rotate(z, network(z, phi, zero, text, scales), phi)
        fresh = torch.randn(z.shape, device=z.device, generator=generator)
        z = after.cos() * x0 + after.sin() * fresh
    return z


def keep_slow(unet: UNet) -> None:
    """Take the fast sinusoids of time, step size and guidance scale from a network, for its training too.

    A timestep is 1/636 of a radian, so the fastest turn 636 times faster than the angle. They hold next to nothing, but
    their derivatives drown that of a flow map, and training makes them larger (Lu & Song 2024, section 4.1).
    """
    for layer in (unet.time_embed.linear_1, unet.step_embed, unet.guidance_embed):
        if layer is not None:
            half = layer.in_features // 2
            frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=layer.weight.device) / half)
            slow = (frequencies < SLOW).repeat(2).to(layer.weight)
            with torch.no_grad():
                layer.weight.mul_(slow)
            layer.weight.register_hook(slow.mul)


class PixelDistillTask:
    """The task of ``loop.train`` for one method.

    Args:
        student: what is trained; it reads guidance scale and step size.
        teacher: what it learns from; not trained.
        field: the clock of both.
        images: to noise.
        latents: how pixels enter.
        distillation: method and batches.
    """

    adamw_prefixes: tuple[str, ...] = ("conv_in", "conv_out", "guidance_embed", "step_embed")

    def __init__(
        self,
        student: UNet,
        teacher: Map,
        field: Field,
        images: LabelledImages,
        latents: PixelLatents,
        distillation: PixelDistillation,
    ) -> None:
        keep_slow(student)
        self.network: nn.Module = student
        self.map, self.teacher, self.field = student_map(field, student), teacher, field
        self.images, self.latents, self.distillation = images, latents, distillation
        self.grid = field.phis(distillation.steps * (2 if distillation.method == "progressive" else 1))

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the student's velocity against the method's target."""
        settings, generator = self.distillation, context.generator
        count, device = settings.batch_size, self.grid.device
        batch = self.images[context.rows(count, len(self.images)).to(device)]
        x0 = self.latents.encode(augment(batch.pixels, settings.training, generator))
        noise = torch.randn(x0.shape, device=device, generator=generator)
        text = one_hot(batch.labels, 10)
        draws = torch.rand((3, count), device=device, generator=generator)
        low, high = settings.scales
        scale = low * (draws[0] * math.log(high / low)).exp()
        phi, end = (angle.view(-1, 1, 1, 1) for angle in self._angles(draws[1], draws[2]))
        z = phi.cos() * x0 + phi.sin() * noise
        target = self._target(z, phi, end, text, scale, context.progress)
        if settings.method == "consistency":  # the solver's step ends there, the map's at 0
            end = torch.zeros_like(end)
        error = (self.map(z, phi, end, text, scale) - target).square().mean()
        return error, {}

    def validate(self, network: nn.Module) -> dict[str, float]:  # noqa: ARG002
        """Nothing: a student is measured by what it draws."""
        return {}

    @property
    def _moved(self) -> slice:
        """Rows of a batch with a step of some length, as Frans et al. 2024 and Sabour et al. 2025 have it."""
        return slice(0, self.distillation.batch_size // (4 if self.distillation.method == "shortcut" else 2))

    def _angles(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Start and end of the step of each row, [B], from two uniform draws."""
        method, top, count = self.distillation.method, self.grid[0], len(first)
        if method == "guidance":
            return first * top, first * top
        if method in ("progressive", "consistency"):
            stride = 2 if method == "progressive" else 1
            i = (first * self.distillation.steps).long().clamp(max=self.distillation.steps - 1) * stride
            return self.grid[i], self.grid[i + stride]
        phi = first * top
        phi[: count // 8] = top  # where every run begins, and where a uniform draw never is
        end = phi * second
        end[: count // 8 : 2] = 0
        end[self._moved.stop :] = phi[self._moved.stop :]
        return phi, end

    @torch.no_grad()
    def _target(self, z: Tensor, phi: Tensor, end: Tensor, text: Tensor, scale: Tensor, progress: float) -> Tensor:
        method = self.distillation.method

        def told(network: Map, rows: slice = slice(None)) -> objectives.FlowMap:
            return lambda z, phi, end: network(z, phi, end, text[rows], scale[rows])

        teacher, student = told(self.teacher), told(self.map)
        if method == "progressive":
            middle = self.grid[torch.searchsorted(-self.grid, -phi.flatten().contiguous()) + 1].view_as(phi)
            ends = iter((middle, end))  # a distilled teacher knows only its own steps
            return objectives.several_steps(lambda z, phi: teacher(z, phi, next(ends)), z, (phi, middle, end))
        velocity = teacher(z, phi, phi)
        if method == "consistency":
            return objectives.consistency_target(student, velocity, z, phi, end)
        if method == "guidance":
            return velocity
        moved = self._moved
        rows = z[moved], phi[moved], end[moved]
        if method == "shortcut":
            velocity[moved] = objectives.shortcut_target(told(self.map, moved), *rows)
            return velocity
        with sdpa_kernel(SDPBackend.MATH):  # the others have no forward derivative
            ratio = min(1.0, progress / self.distillation.warmup) * 0.99
            velocity[moved] = objectives.flow_map_target(told(self.map, moved), velocity[moved], *rows, ratio=ratio)
        return velocity
