"""What a run computes at each step, kept for whoever asks: latents, clean estimates, and both sides of guidance."""

from collections.abc import Collection
from typing import Literal

from torch import Tensor

from diffuscope.serve.beside import beside
from diffuscope.serve.store import Store
from diffuscope.types import Step

Kept = Literal["x", "x0", "cond", "uncond"]
"""Latents after the step; the clean estimate of the step; and the two that guidance combined first in it."""

GUIDANCE: tuple[Kept, ...] = ("cond", "uncond")


class Recorder:
    """Keeps arrays [C,h,w], float32 on the CPU, of one image of a job.

    Args:
        arrays: where they go, under (job, image, step, kind).
        job: its id.
        image: index of the image in the job.
        kinds: which are kept.
    """

    def __init__(self, arrays: Store[Tensor], job: str, image: int, kinds: Collection[Kept]) -> None:
        self._arrays, self._name, self._kinds = arrays, (job, image), kinds
        self._step, self._combined = 0, -1

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return bool(self._kinds)

    @property
    def sees_guidance(self) -> bool:
        """Whether a side of guidance is kept."""
        return "cond" in self._kinds or "uncond" in self._kinds

    def step(self, step: Step) -> None:
        """Keep a step that is done."""
        self._keep(step.index, "x", step.x)
        self._keep(step.index, "x0", step.x0)
        self._step = step.index + 1

    def guidance(self, uncond: Tensor, cond: Tensor, x: Tensor, sigma: float) -> None:  # noqa: ARG002
        """Keep both sides, of the first network call of a step."""
        if self._combined < self._step:
            self._combined = self._step
            self._keep(self._step, "cond", cond)
            self._keep(self._step, "uncond", uncond)

    def inherit(self, origin: tuple[str, int], steps: int) -> None:
        """Keep what another job's image had of guidance in its first steps, in which this one calls no network."""
        for step in range(steps):
            for kind in GUIDANCE:
                if kind in self._kinds and (kept := self._arrays.get((*origin, step, kind))) is not None:
                    self._arrays.put((*self._name, step, kind), kept, kept.nbytes)

    def _keep(self, step: int, kind: Kept, value: Tensor) -> None:
        if kind in self._kinds:
            with beside(value.device):
                copy = value[0].detach().float().cpu().clone()
            self._arrays.put((*self._name, step, kind), copy, copy.nbytes)
