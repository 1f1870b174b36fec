"""Progressive distillation in the training loop: a student learns several steps of its teacher in one.

With a guided teacher the student learns guidance in the same round (Meng et al. 2023, for one fixed scale).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffuscope.diffusion.schedules import Schedule
from diffuscope.distill.objectives import Weighting, angle_of, guided, loss_weight, sample, several_steps
from diffuscope.errors import InputError
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.training.examples import Examples
from diffuscope.training.loop import StepContext

REFERENCE_STEPS = 48
"""Of the guided teacher whose results validation compares with."""

VALIDATED = 256
"""Held-out texts that are validated on."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """One round."""

    steps: int
    """Of the student."""
    teacher_steps: int = 2
    """Of the teacher in each of the student's; 2 is progressive distillation."""
    guidance_scale: float = 1.0
    """Of the teacher; 1 where the teacher has learned guidance itself."""
    batch: int = 512
    rollout: float = 0.0
    """Part of a batch that begins on the student's own trajectories instead of noisy pictures: what it meets in use."""
    weighting: Weighting = "snr+1"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.teacher_steps < 1:
            raise InputError("steps", (self.steps, self.teacher_steps), "at least one step of student and teacher")
        if not 0 <= self.rollout <= 1:
            raise InputError("rollout", self.rollout, "a part of the batch, 0 to 1")


class Field:
    """A U-Net as a velocity field over angles.

    Args:
        schedule: of v-prediction; its table says which training time belongs to an angle.
        device: of the latents.
        compiled: whether forwards are compiled and recorded.

    Raises:
        InputError: the network predicts something else. At zero terminal SNR an epsilon says nothing of x0.
    """

    def __init__(self, schedule: Schedule, device: torch.device, *, compiled: bool = False) -> None:
        if schedule.config.prediction != "v":
            raise InputError("prediction", schedule.config.prediction, "'v'", "Distil a model of v-prediction.")
        self.schedule = schedule
        self.table = angle_of(schedule.sigmas).to(device, torch.float32)
        self.compiled = compiled
        self.forward = torch.compile(_forward, mode="reduce-overhead", dynamic=False) if compiled else _forward

    def phis(self, steps: int) -> Tensor:
        """[steps+1] falling angles of DDIM with trailing times (Lin et al. 2024, table 2), the last 0."""
        levels = self.schedule.levels(steps, sampler="ddim", sigmas="trailing", final_sigma="zero")
        return angle_of(torch.tensor(levels.sigmas, dtype=torch.float64)).to(self.table)

    def timestep_of(self, phi: Tensor) -> Tensor:
        """Training timestep of angles, linear in the angle between whole ones."""
        above = torch.searchsorted(self.table, phi.contiguous()).clamp(1, len(self.table) - 1)
        low, high = self.table[above - 1], self.table[above]
        return (above - 1 + ((phi - low) / (high - low)).clamp(0, 1)).to(phi)

    def __call__(
        self,
        unet: UNet,
        z: Tensor,
        phi: Tensor,
        text: Tensor,
        *,
        extra: Mapping[str, Tensor] | None = None,
        fast: bool = True,
    ) -> Tensor:
        """[B,C,H,W] float32 velocity at ``phi``, [B,1,1,1] or []; ``fast`` uses the compiled network."""
        time = self.timestep_of(phi.flatten()).expand(len(z))
        dtype = unet.conv_in.weight.dtype
        forward = self.forward if fast else _forward
        with torch.autocast(z.device.type, torch.bfloat16, enabled=z.is_cuda and dtype == torch.float32):
            output: Tensor = forward(unet, z.to(dtype), time, text.to(dtype), extra)
        return output.float()

    def guided(
        self,
        unet: UNet,
        z: Tensor,
        phi: Tensor,
        texts: tuple[Tensor, Tensor],
        scale: float | Tensor,
        *,
        fast: bool = True,
    ) -> Tensor:
        """The velocity with guidance, in one call of a doubled batch. ``texts``: [B,T,D], and [1,T,D] of no text."""
        text, empty = texts
        if isinstance(scale, float | int) and scale == 1:
            return self(unet, z, phi, text, fast=fast)
        phi = phi.flatten().expand(len(z)).repeat(2).view(-1, 1, 1, 1)
        both = torch.cat([text, empty.expand(len(z), -1, -1)])
        conditional, unconditional = self(unet, torch.cat([z, z]), phi, both, fast=fast).chunk(2)
        return guided(conditional, unconditional, scale)


class DistillTask:
    """The task of ``loop.train`` for one round after the other.

    Args:
        student: what is trained, on its device.
        teacher: same architecture; ``begin`` gives it the student's weights for the next round.
        text_encoder: of both; not trained.
        examples: latents and texts.
        held_out: examples never trained on.
        schedule: noise levels, v-prediction.
        empty: [T] token ids of the empty text.
        distillation: the first round.
        compiled: whether the networks are compiled.
    """

    adamw_prefixes: tuple[str, ...] = ("conv_in", "conv_out")

    def __init__(
        self,
        student: UNet,
        teacher: UNet,
        text_encoder: TextEncoder,
        examples: tuple[Examples, Examples],
        schedule: Schedule,
        empty: Tensor,
        distillation: Distillation,
        *,
        compiled: bool = False,
    ) -> None:
        self.network: nn.Module = student
        self.student, self.teacher = student, teacher.requires_grad_(False).eval()
        self.text_encoder = text_encoder.requires_grad_(False).eval()
        self.examples, self.held_out = examples
        device = self.examples.latents.device
        self.field = Field(schedule, device, compiled=compiled)
        self.empty = self.encode(empty.to(device)[None])
        self.begin(distillation)
        scale = distillation.guidance_scale
        self.reference = self._run(self.teacher, self.field.phis(REFERENCE_STEPS), scale)

    def begin(self, distillation: Distillation, teacher: nn.Module | None = None) -> None:
        """Start a round; where ``teacher`` is given, its weights become the teacher's, in place."""
        self.distillation = distillation
        self.phis = self.field.phis(distillation.steps * distillation.teacher_steps)
        if teacher is not None:
            self.teacher.load_state_dict(teacher.state_dict())

    def replace_student(self, student: UNet) -> None:
        """Train another network from now on, of the same teacher and round."""
        self.network = self.student = student

    def encode(self, ids: Tensor) -> Tensor:
        """[B,T,D] text states."""
        return encode_texts(self.text_encoder, ids)

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted squared error of the student's velocity against several steps of the teacher."""
        settings = self.distillation
        z, segment, text = self._states(context.generator)
        first = segment * settings.teacher_steps
        phis = [self.phis[first + i].view(-1, 1, 1, 1) for i in range(settings.teacher_steps + 1)]
        with torch.no_grad():
            scale = settings.guidance_scale
            texts = text, self.empty
            target = several_steps(lambda z, phi: self.field.guided(self.teacher, z, phi, texts, scale), z, phis)
        error = (self.field(self.student, z, phis[0], text) - target).square().mean((1, 2, 3))
        loss = (error * loss_weight(phis[0].flatten(), settings.weighting)).mean()
        return loss, {"error": error.detach().mean()}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Mean squared distance, in latents, of the student's results from the first teacher's for the same noise."""
        assert isinstance(network, UNet)
        result = self._run(network, self.field.phis(self.distillation.steps), 1.0)
        return {"distance": (result - self.reference).square().mean().item()}

    @torch.no_grad()
    def _states(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Where a batch begins: z [B,C,H,W], which of the student's steps is next [B], text [B,T,D]."""
        settings, steps = self.distillation, self.distillation.steps
        runs = round(settings.rollout * settings.batch / steps)
        fresh = settings.batch - runs * steps
        batch = self.examples.sample(fresh + runs, generator)
        text = self.encode(batch.ids)
        noise = torch.randn(batch.latents.shape, device=text.device, generator=generator)
        # Every step equally often: rows go through the steps in turn.
        segment = torch.arange(settings.batch, device=text.device) % steps
        phi = self.phis[segment[:fresh] * settings.teacher_steps].view(-1, 1, 1, 1)
        z = phi.cos() * batch.latents[:fresh] + phi.sin() * noise[:fresh]
        if not runs:
            return z, segment, text
        own = text[fresh:]
        phis = self.phis[:: settings.teacher_steps]
        states = sample(lambda z, phi: self.field(self.student, z, phi, own, fast=False), noise[fresh:], [*phis[:-1]])
        segment[fresh:] = torch.arange(steps, device=text.device).repeat_interleave(runs)
        return torch.cat([z, *states]), segment, torch.cat([text[:fresh], own.repeat(steps, 1, 1)])

    @torch.no_grad()
    def _run(self, unet: UNet, phis: Tensor, scale: float) -> Tensor:
        """[N,C,H,W] results for held-out texts and fixed noise."""
        texts = self.encode(self.held_out.ids[:VALIDATED, 0]), self.empty
        generator = torch.Generator(phis.device).manual_seed(0)
        noise = torch.randn(self.held_out.latents[:VALIDATED].shape, device=phis.device, generator=generator)
        return sample(lambda z, phi: self.field.guided(unet, z, phi, texts, scale, fast=False), noise, list(phis))[-1]


@torch.no_grad()
def encode_texts(text_encoder: TextEncoder, ids: Tensor) -> Tensor:
    """[B,T,D] text states of token ids [B,T]."""
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.is_cuda):
        return text_encoder(ids.long()).last_hidden_state


def _forward(unet: UNet, z: Tensor, time: Tensor, text: Tensor, extra: Mapping[str, Tensor] | None) -> Tensor:
    return unet(z, time, text, extra=extra)
