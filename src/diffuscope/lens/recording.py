"""Copies of what a run computes: every estimate, and every step."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from diffuscope.types import Brief, Denoiser, Step


@dataclass(repr=False)
class Record(Brief):
    """Keeps every estimate of a run: ``pipe(..., guidance=record)``. Values are copies, float32 on the CPU.

    ``guidance=(record, change)`` records the guided network; ``(change, record)`` what ``change`` makes of it.
    """

    sigmas: list[float] = field(default_factory=list)
    x: list[Tensor] = field(default_factory=list)
    """[B,C,H,W] noisy latents of each call."""
    x0: list[Tensor] = field(default_factory=list)
    """[B,C,H,W] denoised latents of each call."""

    @property
    def noise(self) -> list[Tensor]:
        """[B,C,H,W] noise prediction of each call, (x - x0) / sigma."""
        return [(x - x0) / sigma for x, x0, sigma in zip(self.x, self.x0, self.sigmas, strict=True)]

    def __call__(self, denoise: Denoiser) -> Denoiser:
        """The same Denoiser, recorded; an earlier run is forgotten."""
        self.sigmas, self.x, self.x0 = [], [], []

        def recorded(x: Tensor, sigma: float) -> Tensor:
            x0 = denoise(x, sigma)
            self.sigmas.append(sigma)
            self.x.append(x.detach().float().cpu().clone())
            self.x0.append(x0.detach().float().cpu().clone())
            return x0

        return recorded


def snapshots(steps: Iterator[Step]) -> list[Step]:
    """Copies of the steps of a run: a sampler may reuse the tensors that it yields."""
    return [Step(step.index, step.sigma, step.x.detach().clone(), step.x0.detach().clone()) for step in steps]
