"""Capture of activations: reduced on the fly, so that memory stays bounded and is known before the run."""

import os
from collections.abc import Sequence
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

from diffuscope.errors import InputError, Unquoted
from diffuscope.lens.run_tap import RunTap, has_heads
from diffuscope.lens.shapes import shapes
from diffuscope.pipeline.plan import Plan

Reduce = Literal["mean", "sum", "last", "all"]
"""Over the network calls of a run; "all" keeps each."""

SHARE_OF_FREE_MEMORY = 0.5
"""The default budget."""

_UNKNOWN = 1 << 31  # bytes, where the system does not tell how much is free


@final
class Capture(RunTap):
    """A Tap that stores activations: ``pipe(..., tap=capture)``, then ``capture["unet.conv_out"]``.

    Values are float32 on the CPU. Each run starts empty. Nothing is changed.
    """

    def __init__(
        self,
        names: str | Sequence[str],
        *,
        reduce: Reduce = "mean",
        heads: Literal["mean", "each"] = "each",
        budget: int | None = None,
    ) -> None:
        """Capture the activations of some names or globs; ``tap_points(component)`` lists them.

        Args:
            names: one or several.
            reduce: over the network calls of a run. "all" keeps each and adds a first axis.
            heads: "mean" averages attention's [B,N,T,...] over its N heads, to [B,T,...].
            budget: bytes that may be stored; None is half of the free memory.

        Raises:
            InputError: no name, an unknown reduction, or a budget below 1.
        """
        patterns = (names,) if isinstance(names, str) else tuple(names)
        if not patterns:
            raise InputError("names", patterns, 'at least one name or glob, such as "unet.*.cross_attn.weights"')
        if reduce not in get_args(Reduce):
            raise InputError("reduce", reduce, f"one of {', '.join(get_args(Reduce))}")
        if heads not in ("mean", "each"):
            raise InputError("heads", heads, "mean or each")
        if budget is not None and budget < 1:
            raise InputError("budget", budget, "at least 1 byte, or None for half of the free memory")
        super().__init__(*patterns)
        self.reduce = reduce
        self.heads = heads
        self.budget = budget
        self._reduced: dict[str, Tensor] = {}
        self._all: dict[str, list[Tensor]] = {}
        self._counts: dict[str, int] = {}

    def prepare(self, components: Sequence[nn.Module], plan: Plan | None) -> None:
        """Find the names, forget an earlier run, and refuse one whose values do not fit into the budget."""
        super().prepare(components, plan)
        self._reduced, self._all, self._counts = {}, {}, {}
        needed = self.estimate(components, plan)
        budget = int(free_memory() * SHARE_OF_FREE_MEMORY) if self.budget is None else self.budget
        if needed > budget:
            raise InputError(
                "budget",
                Unquoted(f"{budget:,} bytes"),
                f"at least {needed:,} for {', '.join(self.patterns)} in {self.calls} network calls",
                "Capture fewer names, reduce over calls or heads, or make a smaller image.",
            )

    def estimate(self, components: Sequence[nn.Module], plan: Plan | None) -> int:
        """Bytes that a run of ``plan`` will store, from shapes alone; call after ``prepare``."""
        known = shapes(components, plan, {name.partition(".")[0] for name in self.names})
        total = 0
        for name in self.names:
            shape = known[name]
            calls = self.calls if self.reduce == "all" and name.startswith("unet.") else 1
            total += 4 * calls * shape.numel() // (shape[1] if self._averages_heads(name, shape) else 1)
        return total

    def change(self, name: str, value: Tensor) -> Tensor:
        """Store the value, reduced, and return it as it is."""
        kept = value.detach().float()
        if self._averages_heads(name, kept.shape):
            kept = kept.mean(1)
        kept = kept.cpu()
        if kept.data_ptr() == value.data_ptr():
            kept = kept.clone()  # what follows may write into the network's own tensor
        self._counts[name] = self._counts.get(name, 0) + 1
        if self.reduce == "all":
            self._all.setdefault(name, []).append(kept)
        elif self.reduce == "last" or name not in self._reduced:
            self._reduced[name] = kept
        else:
            self._reduced[name] += kept
        return value

    def __getitem__(self, name: str) -> Tensor:
        """The stored value of one name: [B,...], or [calls,B,...] with reduce="all"."""
        if name not in self._counts:
            raise InputError("name", name, f"a captured name: {', '.join(sorted(self._counts)[:4]) or 'none yet'}")
        if self.reduce == "all":
            return torch.stack(self._all[name])
        return self._reduced[name] / self._counts[name] if self.reduce == "mean" else self._reduced[name]

    def keys(self) -> list[str]:
        """The names of what is stored, in the order of the first network call."""
        return list(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def _averages_heads(self, name: str, shape: Sequence[int]) -> bool:
        return self.heads == "mean" and has_heads(name, shape)


def free_memory() -> int:
    """Bytes of free main memory; 2 GiB where the system does not tell."""
    if hasattr(os, "sysconf") and {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _UNKNOWN
