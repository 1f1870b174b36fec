"""Distribution matching without an adversary: a student of few steps draws what its teacher could have drawn.

A third network, the fake, learns what the student draws. Where it and the teacher differ in what they see in the same
noisy picture, the student moves (Yin et al. 2024). No real pictures are needed, and none of the teacher's own.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffuscope.distill import objectives
from diffuscope.distill.pixels import Map, keep_slow, sample, student_map
from diffuscope.distill.task import Field
from diffuscope.errors import InputError
from diffuscope.models.class_unet import ClassUNet
from diffuscope.training.loop import StepContext
from diffuscope.training.pixels import one_hot


@dataclass(frozen=True, kw_only=True)
class Matching:
    """One run."""

    steps: tuple[int, ...] = (1, 2, 4)
    """Numbers of steps of the student, in turn."""
    fake_updates: int = 4
    """Of the fake, for each of the student's (Yin et al. 2024b, two time scales)."""
    batch_size: int = 64
    scales: tuple[float, float] = (1.0, 4.0)
    """Lowest and highest guidance scale; drawn log-uniformly."""

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1:
            raise InputError("steps", self.steps, "numbers of at least 1")
        if self.fake_updates < 1:
            raise InputError("fake_updates", self.fake_updates, "at least 1")


class MatchingTask:
    """The task of ``loop.train``, whose network has two parts: "student" and "fake".

    Args:
        student: what is trained; it reads guidance scale and step size.
        fake: of the same shape; best begun with the weights of a student of guidance, which knows the teacher.
        teacher: what the student's pictures shall be like; not trained.
        field: the clock of all.
        settings: numbers of steps and batches.
    """

    adamw_prefixes: tuple[str, ...] = tuple(
        f"{part}.{layer}"
        for part in ("student", "fake")
        for layer in ("conv_in", "conv_out", "guidance_embed", "step_embed")
    )

    def __init__(self, student: ClassUNet, fake: ClassUNet, teacher: Map, field: Field, settings: Matching) -> None:
        for network in (student, fake):
            keep_slow(network)
        self.network: nn.Module = nn.ModuleDict({"student": student, "fake": fake})
        self.map, self.fake, self.teacher = student_map(field, student), student_map(field, fake), teacher
        self.field, self.settings = field, settings
        self.config = student.config

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """That of the fake, or in every last turn that of the student."""
        settings, generator = self.settings, context.generator
        turn, own = divmod(context.step, settings.fake_updates + 1)
        count, device = settings.batch_size, generator.device
        labels = torch.randint(10, (count,), device=device, generator=generator)
        low, high = settings.scales
        scale = low * (torch.rand(count, device=device, generator=generator) * math.log(high / low)).exp()
        side = 28 // int(self.config.in_channels**0.5)
        noise, fresh = torch.randn(
            (2, count, self.config.in_channels, side, side), device=device, generator=generator
        ).unbind()
        # log tan(phi) is normal, of standard deviation 1.6: all noise levels, the middle ones more often.
        phi = (1.6 * torch.randn((count, 1, 1, 1), device=device, generator=generator)).exp().atan()
        text, steps = one_hot(labels, 10), settings.steps[turn % len(settings.steps)]
        if own < settings.fake_updates:
            return self._fake_loss(self._drawn(noise, text, scale, steps).detach(), fresh, phi, text, scale), {}
        return self._student_loss(self._drawn(noise, text, scale, steps), fresh, phi, text, scale), {}

    def validate(self, network: nn.Module) -> dict[str, float]:  # noqa: ARG002
        """Nothing: a student is measured by what it draws."""
        return {}

    def _drawn(self, noise: Tensor, text: Tensor, scale: Tensor, steps: int) -> Tensor:
        """What the student makes of noise; the gradient is that of the last step."""
        phis = self.field.phis(steps)
        with torch.no_grad():
            before = sample(self.map, noise, text, scale, phis[:-1])
        return sample(self.map, before, text, scale, phis[-2:])

    def _fake_loss(self, x0: Tensor, noise: Tensor, phi: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        """Squared error of the velocity: what every diffusion model learns, of the student's pictures."""
        z, velocity = phi.cos() * x0 + phi.sin() * noise, phi.cos() * noise - phi.sin() * x0
        return (self.fake(z, phi, phi, text, scale) - velocity).square().mean()

    def _student_loss(self, x0: Tensor, noise: Tensor, phi: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        with torch.no_grad():
            z = phi.cos() * x0 + phi.sin() * noise
            fake, real = (
                objectives.rotate(z, network(z, phi, phi, text, scale), phi) for network in (self.fake, self.teacher)
            )
            target = x0 + objectives.matching_direction(x0, fake, real)
        return 0.5 * (x0 - target).square().mean()
