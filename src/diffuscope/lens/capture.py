"""Capture: inner values of a run, reduced as they come so that memory stays bounded, and counted before it starts."""

import os
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from diffuscope.errors import InputError
from diffuscope.lens.run_tap import RunTap, shapes
from diffuscope.pipeline.request import Request
from diffuscope.pipeline.taps import matching
from diffuscope.types import Tap

Reduce = Literal["mean", "sum", "last", "all"]
"""Over the calls of one run: their mean, their sum, the last alone, or each."""

SPARE = 0.5
"""How much of the free memory a watch takes unless told otherwise."""

_UNKNOWN = 1 << 31  # bytes, where the system does not tell how much is free
_PER_HEAD = ("query", "key", "value", "weights", "mixed")


class Capture(RunTap):
    """A Tap that stores and changes nothing: ``pipe(..., tap=capture)``, then ``capture["unet.out"]``.

    Values are float32 on the CPU. A run starts with nothing stored; another run forgets the one before.
    """

    def __init__(
        self,
        names: str | Sequence[str],
        *,
        reduce: Reduce = "mean",
        heads: Literal["mean", "each"] = "each",
        budget: int | None = None,
    ) -> None:
        """Capture the values of these names or globs; ``tap_points(component)`` lists them.

        Args:
            names: one or several.
            reduce: over the calls of a run. "all" stores each and makes one more axis, the first.
            heads: "mean" takes the mean over the heads of attention's values [B,N,T,...], which become [B,T,...].
            budget: bytes that may be stored; None is half of what is free.

        Raises:
            InputError: no name, an unknown reduction, or a budget below 1.
        """
        patterns = (names,) if isinstance(names, str) else tuple(names)
        if not patterns:
            raise InputError('nothing to watch: give a name or a glob, such as "unet.*.cross.weights"')
        if reduce not in get_args(Reduce) or heads not in ("mean", "each"):
            raise InputError(
                f"reduce is {reduce!r} and heads {heads!r}; reduce is one of {', '.join(get_args(Reduce))}, "
                "heads is mean or each"
            )
        if budget is not None and budget < 1:
            raise InputError(f"a budget of {budget} bytes; give at least 1, or None for half of what is free")
        super().__init__(*patterns)
        self.reduce = reduce
        self.heads = heads
        self.budget = budget
        self._sums: dict[str, Tensor] = {}
        self._all: dict[str, list[Tensor]] = {}
        self._counts: dict[str, int] = {}

    def prepare(self, components: Sequence[nn.Module], request: Request | None) -> None:
        """Find the names, count the bytes, and start anew.

        Raises:
            InputError: a name that means no value, or values that would not fit into the budget.
        """
        super().prepare(components, request)
        self._sums, self._all, self._counts = {}, {}, {}
        needed = self.estimate(components, request)
        budget = int(free_memory() * SPARE) if self.budget is None else self.budget
        if needed > budget:
            raise InputError(
                f"watching {', '.join(self.patterns)} would store {needed:,} bytes in {self.calls} network calls and "
                f"{budget:,} are granted; watch fewer names, reduce over calls ({self.reduce!r} now) or heads, or make "
                "a smaller picture"
            )

    def estimate(self, components: Sequence[nn.Module], request: Request | None) -> int:
        """Bytes that a run of ``request`` would store, by the shapes alone; no network computes anything."""
        asked = [name for pattern in self.patterns for name in matching(pattern, components)]
        parts = {name.partition(".")[0] for name in asked}
        known = shapes(components, request, parts)
        total = 0
        for name in set(asked):
            shape = self._kept_shape(name, known[name])
            times = self.calls if self.reduce == "all" and name.startswith("unet.") else 1
            total += 4 * shape.numel() * times
        return total

    def change(self, name: str, value: Tensor) -> Tensor:
        """``value``, of which the reduction is stored."""
        kept = value.detach().float()
        if self._averages(name, kept.shape):
            kept = kept.mean(1)
        kept = kept.cpu()
        if kept.data_ptr() == value.data_ptr():
            kept = kept.clone()  # what follows may write into the network's own tensor
        self._counts[name] = self._counts.get(name, 0) + 1
        if self.reduce == "all":
            self._all.setdefault(name, []).append(kept)
        elif self.reduce == "last" or name not in self._sums:
            self._sums[name] = kept
        else:
            self._sums[name] += kept
        return value

    def __getitem__(self, name: str) -> Tensor:
        """The stored value of one name: [B,...], with "all" [calls,B,...].

        Raises:
            InputError: nothing of that name was stored.
        """
        if name not in self._counts:
            stored = ", ".join(sorted(self._counts)[:4]) or "nothing yet: make a picture with tap=capture first"
            raise InputError(f"{name!r} is not stored; what is: {stored}")
        if self.reduce == "all":
            return torch.stack(self._all[name])
        return self._sums[name] / self._counts[name] if self.reduce == "mean" else self._sums[name]

    def keys(self) -> list[str]:
        """The names of what is stored, in the order in which the networks made them first."""
        return list(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def _averages(self, name: str, shape: torch.Size) -> bool:
        return self.heads == "mean" and len(shape) == 4 and name.rpartition(".")[2] in _PER_HEAD

    def _kept_shape(self, name: str, shape: torch.Size) -> torch.Size:
        return torch.Size([shape[0], *shape[2:]]) if self._averages(name, shape) else shape


class ComposedTap(RunTap):
    """Several taps as one: each sees what the one before it left."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        """Apply ``taps`` in turn."""
        super().__init__()
        self.taps = tuple(taps)

    def prepare(self, components: Sequence[nn.Module], request: Request | None) -> None:
        """Prepare each that has it."""
        for tap in self.taps:
            if isinstance(tap, RunTap):
                tap.prepare(components, request)

    def wants(self, name: str) -> bool:
        """Whether one of them does."""
        return any(tap.wants(name) for tap in self.taps)

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The value after all of those that want it."""
        for tap in self.taps:
            if tap.wants(name):
                value = tap(name, value)
        return value


def compose(*taps: Tap) -> ComposedTap:
    """Several taps as one, for ``pipe(..., tap=compose(edit, capture))``: each sees what those before it left."""
    return ComposedTap(taps)


def free_memory() -> int:
    """Bytes of main memory that nobody uses; 2 GiB where the system does not tell."""
    if hasattr(os, "sysconf") and {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _UNKNOWN
