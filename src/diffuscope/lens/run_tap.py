"""Taps that are prepared for a run: names checked before the first network call, and the number of each U-Net call."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from diffuscope.diffusion.samplers import network_calls
from diffuscope.pipeline.plan import Plan
from diffuscope.pipeline.taps import matching
from diffuscope.types import Tap

CALL = "unet.x"
"""The first activation of every U-Net call: a tap that wants it can count the calls."""

_PER_HEAD = ("query", "key", "value", "weights", "head_out")


class RunTap(ABC):
    """A Tap that a Pipeline prepares for its run before any network is called: ``pipe(..., tap=...)``.

    Attributes:
        names: the activations that it wants.
        call: number of the current U-Net call, from 0; -1 before the first.
        calls: how many the run will make; 1 where no plan is known.
        images: how many the run makes. In a guided run the U-Net's last ``images`` rows are the conditional ones.
    """

    def __init__(self, *patterns: str) -> None:
        """Want the activations of these names or globs, such as ``"unet.*.cross_attn.weights"``."""
        self.patterns = patterns
        self.names: frozenset[str] = frozenset()
        self.call = -1
        self.calls = 1
        self.images = 1

    def prepare(self, components: Sequence[nn.Module], plan: Plan | None) -> None:
        """Find the names, and forget an earlier run."""
        self.names = frozenset(name for pattern in self.patterns for name in matching(pattern, components))
        self.call, self.calls, self.images = -1, 1, 1
        if plan is not None:
            steps = len(plan.levels.sigmas) - 1  # of those planned: a run may hand over to another model
            first = 0 if plan.branch is None else plan.branch.step  # it sees the steps after the branch
            calls = network_calls(plan.sampler.function, plan.planned_sigmas, **plan.preset.sampler_options)
            self.calls, self.images = sum(calls[first:steps]), plan.images

    def wants(self, name: str) -> bool:
        """Whether a pattern matches; the U-Net's input too, to count its calls."""
        return name in self.names or name == CALL

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """What ``change`` returns for the activations of ``names``."""
        if name == CALL:
            self.call += 1
        return self.change(name, value) if name in self.names else value

    @abstractmethod
    def change(self, name: str, value: Tensor) -> Tensor:
        """The activation, or a tensor of its shape to replace it."""

    def conditional(self, value: Tensor) -> Tensor:
        """The rows [images,...] of ``value`` with the prompts, as a view."""
        return value[-self.images :]


@final
class ComposedTap:
    """Several taps as one."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        self.taps = tuple(taps)

    def prepare(self, components: Sequence[nn.Module], plan: Plan | None) -> None:
        """Prepare those that have ``prepare``."""
        for tap in self.taps:
            if hasattr(tap, "prepare"):
                tap.prepare(components, plan)

    def wants(self, name: str) -> bool:
        """Whether one of them does."""
        return any(tap.wants(name) for tap in self.taps)

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The activation after all taps that want it."""
        for tap in self.taps:
            if tap.wants(name):
                value = tap(name, value)
        return value


def compose(*taps: Tap) -> ComposedTap:
    """Several taps as one, applied in this order: ``pipe(..., tap=compose(edit, capture))``."""
    return ComposedTap(taps)


def has_heads(name: str, shape: Sequence[int]) -> bool:
    """Whether an activation is attention's [B,heads,...]."""
    return len(shape) == 4 and name.rpartition(".")[2] in _PER_HEAD
