"""Ablation: take one inner value away, whole or in part, and measure what that does to the picture."""

import math
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffuscope.errors import InputError
from diffuscope.lens.functions import decoder
from diffuscope.lens.run_tap import RunTap
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.request import Request
from diffuscope.pipeline.taps import matching

How = Literal["zero", "mean"] | float
"""What takes the value's place: nothing; its mean over places, channel by channel; or itself times a number."""

_PER_HEAD = ("query", "key", "value", "weights", "mixed")


class Ablation(RunTap):
    """A Tap that zeroes, averages or scales inner values: whole, or of one head, token or network call.

    "mean" is over the pixels of [B,C,H,W], the tokens of [B,T,D] and of [B,N,T,H], and the context tokens of attention
    weights [B,N,T,S], which makes them even.
    """

    def __init__(
        self,
        names: str | Sequence[str],
        how: How = "zero",
        *,
        heads: Collection[int] | None = None,
        tokens: Collection[int] | None = None,
        calls: Collection[int] | None = None,
    ) -> None:
        """Ablate the values of these names or globs.

        Args:
            names: one or several.
            how: "zero", "mean", or a factor, of which 1 changes nothing.
            heads: of attention's values [B,N,...]; None is all.
            tokens: of the next to last axis, [B,T,D]; of attention weights the context tokens, the last axis: prompt
                positions in cross-attention. None is all.
            calls: of the U-Net, from 0, such as ``range(3)`` for the first three steps of a one-call sampler.

        Raises:
            InputError: ``how`` is none of these.
        """
        super().__init__(*((names,) if isinstance(names, str) else names))
        if how not in ("zero", "mean") and not (isinstance(how, int | float) and math.isfinite(how)):
            raise InputError(f'how is {how!r}; give "zero", "mean" or a finite factor')
        self.how = how
        self.heads = None if heads is None else sorted(heads)
        self.tokens = None if tokens is None else sorted(tokens)
        self.only = calls

    def prepare(self, components: Sequence[nn.Module], request: Request | None) -> None:
        """Find the names, and the calls.

        Raises:
            InputError: a name that means no value, or a run that has none of the calls.
        """
        super().prepare(components, request)
        if request is not None and self.only is not None and not any(0 <= call < self.calls for call in self.only):
            raise InputError(f"none of the calls {list(self.only)[:8]} comes; this run's go from 0 to {self.calls - 1}")

    def change(self, name: str, value: Tensor) -> Tensor:
        """The value, of which the chosen part is replaced.

        Raises:
            InputError: it has no such head or token.
        """
        if self.only is not None and name.startswith("unet.") and self.call not in self.only:
            return value
        return torch.where(self._chosen(name, value), self._replacement(name, value), value)

    def _replacement(self, name: str, value: Tensor) -> Tensor:
        if self.how == "zero":
            return torch.zeros_like(value)
        if self.how != "mean":
            return value * float(self.how)
        last = name.rpartition(".")[2]
        if last == "weights":
            return value.mean(-1, keepdim=True).expand_as(value)
        if value.ndim == 4 and last not in _PER_HEAD:
            return value.mean((-2, -1), keepdim=True).expand_as(value)
        return value.mean(-2, keepdim=True).expand_as(value) if value.ndim > 2 else value.mean(-1, keepdim=True)

    def _chosen(self, name: str, value: Tensor) -> Tensor:
        """Of a shape that broadcasts to ``value``: True where it is replaced."""
        last = name.rpartition(".")[2]
        chosen = torch.ones((1,) * value.ndim, dtype=torch.bool, device=value.device)
        if self.heads is not None:
            if value.ndim != 4 or last not in _PER_HEAD:
                raise InputError(f"{name!r} of shape {list(value.shape)} has no heads; choose {', '.join(_PER_HEAD)}")
            chosen = chosen & _among(self.heads, value.shape[1], f"head of {name!r}", value.device)[:, None, None]
        if self.tokens is not None:
            if (value.ndim == 4 and last not in _PER_HEAD) or value.ndim < 3:
                raise InputError(f"{name!r} of shape {list(value.shape)} has no tokens; choose a value [B,T,D]")
            axis = -1 if last == "weights" else -2
            row = _among(self.tokens, value.shape[axis], f"token of {name!r}", value.device)
            chosen = chosen & (row if axis == -1 else row[:, None])
        return chosen


def _among(indices: Iterable[int], size: int, what: str, device: torch.device) -> Tensor:
    """[size] bool: which are among ``indices``."""
    chosen = torch.zeros(size, dtype=torch.bool, device=device)
    for index in indices:
        if not 0 <= index < size:
            raise InputError(f"there is no {what} {index}; they go from 0 to {size - 1}")
        chosen[index] = True
    return chosen


@dataclass(frozen=True, slots=True)
class Effect:
    """What one ablation did, against the same run without it."""

    name: str
    latents: float
    """Root of the mean square difference of the final latents, in units of their deviation."""
    pixels: float
    """The same of the pictures in [0,1], clamped."""
    seconds: float


def effects(
    pipe: Pipeline, points: Sequence[str | Ablation], prompt: str | Sequence[str], *, how: How = "zero", **call: Any
) -> list[Effect]:
    """The effect of ablating each point, the largest on the latents first.

    One run for each point and one without, all of the same seed.

    Args:
        pipe: the model.
        points: names or globs, each name a point by itself; or Ablations, of a head, token or step.
        prompt: what is painted.
        how: for the names; see ``Ablation``.
        call: further arguments of ``pipe(...)``. Without ``seed`` it is 0.

    Raises:
        InputError: a name that means no value, or an impossible argument; before the first network call.
    """
    ablations = _ablations(pipe, points, how)
    settings: dict[str, Any] = {"seed": 0, "upscale": 1, **call}
    if "tap" in settings:
        raise InputError("effects makes the taps itself; leave tap out")
    decode = decoder(pipe)

    @torch.no_grad()
    def run(tap: Ablation | None) -> tuple[Tensor, Tensor]:
        run = pipe.steps(prompt, tap=tap, **settings)
        for step in run:
            latents = step.x * run.levels.end_scale
        return latents, decode(latents).clamp(0, 1)

    base, picture = run(None)
    found = []
    for name, ablation in ablations:
        start = time.perf_counter()
        latents, pixels = run(ablation)
        seconds = time.perf_counter() - start
        found.append(Effect(name, float(_rms(latents - base) / base.std()), float(_rms(pixels - picture)), seconds))
    return sorted(found, key=lambda effect: effect.latents, reverse=True)


def _ablations(pipe: Pipeline, points: Sequence[str | Ablation], how: How) -> list[tuple[str, Ablation]]:
    components: list[nn.Module] = list(pipe.components.networks.values())
    found: list[tuple[str, Ablation]] = []
    for point in points:
        if isinstance(point, Ablation):
            found.append((label(point), point))
        else:
            found += [(name, Ablation(name, how)) for name in matching(point, components)]
    if not found:
        raise InputError("no point to ablate: give names, globs or Ablations")
    for _, ablation in found:
        ablation.prepare(components, None)
    return found


def label(ablation: Ablation) -> str:
    """A name for an Ablation in lists and figures."""
    parts = [", ".join(ablation.patterns)]
    for word, chosen in (("head", ablation.heads), ("token", ablation.tokens), ("call", ablation.only)):
        if chosen is not None:
            parts.append(f"{word} {', '.join(map(str, chosen))}")
    return " · ".join(parts)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()
