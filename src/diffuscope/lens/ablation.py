"""Ablation: zero, average or scale an activation, whole or in part, and measure the effect on the image."""

import math
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.errors import InputError
from diffuscope.lens.attention_maps import token_grid
from diffuscope.lens.functions import decoder
from diffuscope.lens.run_tap import RunTap, has_heads
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.plan import Plan
from diffuscope.pipeline.taps import matching

Mode = Literal["zero", "mean"] | float
"""What replaces an activation: zeros, its mean, or itself times a factor."""


@final
class Ablation(RunTap):
    """A Tap that zeroes, averages or scales activations: whole, or of some heads, tokens, network calls or an area.

    "mean" is over the pixels of [B,C,H,W], the tokens of [B,T,D] and of [B,N,T,H], and the context tokens of attention
    weights [B,N,T,S], which makes them uniform.
    """

    def __init__(
        self,
        names: str | Sequence[str],
        mode: Mode = "zero",
        *,
        heads: Collection[int] | None = None,
        tokens: Collection[int] | None = None,
        calls: Collection[int] | None = None,
        area: Tensor | None = None,
    ) -> None:
        """Ablate the activations of some names or globs.

        Args:
            names: one or several.
            mode: "zero", "mean", or a finite factor.
            heads: of attention's activations [B,N,...]; None is all.
            tokens: along T of [B,T,D] and [B,N,T,H]; of attention weights along the context tokens S, which in
                cross-attention are token positions of the prompt. None is all.
            calls: of the U-Net, from 0, such as ``range(3)``: the first three steps of a one-call sampler.
            area: [h,w] from 0 to 1, stretched over the image: how much is replaced at each position of the U-Net's
                maps; of attention weights at the positions that attend. None is all.

        Raises:
            InputError: an unknown mode, or an area that is no matrix of numbers from 0 to 1.
        """
        super().__init__(*((names,) if isinstance(names, str) else names))
        if mode not in ("zero", "mean") and not (isinstance(mode, int | float) and math.isfinite(mode)):
            raise InputError("mode", mode, "zero, mean or a finite factor")
        self.mode = mode
        self.heads = None if heads is None else sorted(heads)
        self.tokens = None if tokens is None else sorted(tokens)
        self.only = calls
        if area is not None and (area.ndim != 2 or not area.numel() or not bool(((area >= 0) & (area <= 1)).all())):
            raise InputError("area", tuple(area.shape), "a matrix [h,w] of numbers from 0 to 1")
        self.area = area
        self._image_size: tuple[int, int] | None = None

    def prepare(self, components: Sequence[nn.Module], plan: Plan | None) -> None:
        """Find the names; refuse a run that makes none of the calls."""
        super().prepare(components, plan)
        self._image_size = None if plan is None else (plan.preset.height, plan.preset.width)
        if plan is not None and self.only is not None and not any(0 <= call < self.calls for call in self.only):
            raise InputError("calls", list(self.only)[:8], f"network calls of the run, 0 to {self.calls - 1}")

    def change(self, name: str, value: Tensor) -> Tensor:
        """The activation with the selected part replaced; refuses heads or tokens that it does not have."""
        if self.only is not None and name.startswith("unet.") and self.call not in self.only:
            return value
        replacement = self._replacement(name, value)
        if self.area is not None:
            replacement = torch.lerp(value, replacement, self._share(name, value, self.area))
        return torch.where(self._selection(name, value), replacement, value)

    def _share(self, name: str, value: Tensor, area: Tensor) -> Tensor:
        """The area at the positions of an activation, of a shape that broadcasts to it."""
        pixels = value.ndim == 4 and not has_heads(name, value.shape)
        of_text = name.endswith((".cross_attn.key", ".cross_attn.value", "unet.context"))
        if of_text or not name.startswith("unet.") or value.ndim < 3:
            raise InputError("area", tuple(area.shape), f"None for {name!r}, which has no positions of the image")
        size = (
            value.shape[-2:]
            if pixels
            else token_grid(value.shape[-2], self._image_size or (area.shape[0], area.shape[1]))
        )
        share = F.interpolate(area[None, None].to(value), size=tuple(size), mode="area")[0, 0]
        return share if pixels else share.flatten()[:, None]

    def _replacement(self, name: str, value: Tensor) -> Tensor:
        if self.mode == "zero":
            return torch.zeros_like(value)
        if self.mode != "mean":
            return value * float(self.mode)
        if name.endswith(".weights"):
            return value.mean(-1, keepdim=True).expand_as(value)
        if value.ndim == 4 and not has_heads(name, value.shape):
            return value.mean((-2, -1), keepdim=True).expand_as(value)
        return value.mean(-2, keepdim=True).expand_as(value) if value.ndim > 2 else value.mean(-1, keepdim=True)

    def _selection(self, name: str, value: Tensor) -> Tensor:
        """A mask that broadcasts to ``value``: True where it is replaced."""
        selection = torch.ones((1,) * value.ndim, dtype=torch.bool, device=value.device)
        per_head = has_heads(name, value.shape)
        if self.heads is not None:
            if not per_head:
                raise InputError("heads", self.heads, f"None for {name!r}, which has no attention heads")
            selection = selection & _mask("heads", self.heads, value.shape[1], value.device)[:, None, None]
        if self.tokens is not None:
            if value.ndim < 3 or (value.ndim == 4 and not per_head):
                raise InputError("tokens", self.tokens, f"None for {name!r}, which has no tokens")
            weights = name.endswith(".weights")
            row = _mask("tokens", self.tokens, value.shape[-1 if weights else -2], value.device)
            selection = selection & (row if weights else row[:, None])
        return selection


def _mask(argument: str, indices: Iterable[int], size: int, device: torch.device) -> Tensor:
    """[size] bool, True at ``indices``."""
    mask = torch.zeros(size, dtype=torch.bool, device=device)
    for index in indices:
        if not 0 <= index < size:
            raise InputError(argument, index, f"0 to {size - 1}")
        mask[index] = True
    return mask


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect of one ablation, against the same run without it."""

    name: str
    latents: float
    """RMS difference of the final latents, divided by their standard deviation."""
    pixels: float
    """RMS difference of the images, in [0,1] and clamped."""
    seconds: float


def effects(
    pipe: Pipeline, points: Sequence[str | Ablation], prompt: str | Sequence[str], *, mode: Mode = "zero", **call: Any
) -> list[Effect]:
    """The effect of each ablation, the largest on the latents first.

    Runs once for each point and once without, all with the same seed.

    Args:
        pipe: the model.
        points: names or globs, of which each name is a point of its own; or Ablations.
        prompt: one or several texts.
        mode: of the names' ablation; see ``Ablation``.
        call: further arguments of ``pipe(...)``. Without ``seed`` it is 0.

    Raises:
        InputError: an unknown name or an impossible argument; before the first network call.
    """
    ablations = _ablations(pipe, points, mode)
    settings: dict[str, Any] = {"seed": 0, "upscale": 1, **call}
    if "tap" in settings:
        raise InputError("tap", settings["tap"], "none: effects makes the taps itself")
    decode = decoder(pipe)

    @torch.no_grad()
    def run(tap: Ablation | None) -> tuple[Tensor, Tensor]:
        run = pipe.steps(prompt, tap=tap, **settings)
        for step in run:
            latents = step.x * run.levels.end_scale
        return latents, decode(latents).clamp(0, 1)

    plain, plain_pixels = run(None)
    measured = []
    for name, ablation in ablations:
        start = time.perf_counter()
        latents, pixels = run(ablation)
        seconds = time.perf_counter() - start
        differences = float(_rms(latents - plain) / plain.std()), float(_rms(pixels - plain_pixels))
        measured.append(Effect(name, *differences, seconds))
    return sorted(measured, key=lambda effect: effect.latents, reverse=True)


def _ablations(pipe: Pipeline, points: Sequence[str | Ablation], mode: Mode) -> list[tuple[str, Ablation]]:
    components: list[nn.Module] = list(pipe.components.networks.values())
    named: list[tuple[str, Ablation]] = []
    for point in points:
        if isinstance(point, Ablation):
            named.append((label(point), point))
        else:
            named += [(name, Ablation(name, mode)) for name in matching(point, components)]
    if not named:
        raise InputError("points", list(points), "at least one name, glob or Ablation")
    for _, ablation in named:
        ablation.prepare(components, None)
    return named


def label(ablation: Ablation) -> str:
    """A name for an Ablation in lists and figures."""
    parts = [", ".join(ablation.patterns)]
    for kind, indices in (("head", ablation.heads), ("token", ablation.tokens), ("call", ablation.only)):
        if indices is not None:
            parts.append(f"{kind} {', '.join(map(str, indices))}")
    return " · ".join(parts if ablation.area is None else [*parts, "area"])


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()
