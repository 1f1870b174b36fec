"""The few types that every layer shares: what a denoiser is, what a sampler yields, what a tap is.

Shape letters: B images in a batch, C latent channels, H W latent height and width, T text positions, D text width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Protocol

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, float], Tensor]
"""(noisy latents [B,C,H,W] = x0 + sigma * noise, sigma) -> estimate of the clean latents x0 [B,C,H,W]."""

Noise = Callable[[Tensor, float, float], Tensor]
"""(like [B,C,H,W], sigma, sigma_next) -> unit-variance noise of that shape, for the step between the two levels."""


class Tap(Protocol):
    """Reads activations by name, and may replace them. It is an argument of each call; there are no hooks."""

    def wants(self, name: str) -> bool:
        """Whether to compute and pass on the activation ``name`` (attention weights cost memory)."""

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The value itself or its replacement, of the same shape."""


TapArgument = Mapping[str, Callable[[Tensor], Tensor | None]] | Callable[[str, Tensor], Tensor | None] | Tap
"""Name or glob -> function of the activation; or one function of name and activation, for all; or a Tap."""


def tapped(tap: Tap | None, name: str, value: Tensor) -> Tensor:
    """``value``, or what ``tap`` puts in its place. Without a tap this is no operation at all."""
    if tap is None or not tap.wants(name):
        return value
    return tap(name, value)


class Brief:
    """A dataclass whose repr shows tensors by their shapes."""

    __slots__ = ()

    def __repr__(self) -> str:
        parts = [f"{each.name}={_brief(getattr(self, each.name))}" for each in fields(self) if each.repr]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(parts)})"


def _brief(value: object) -> str:
    if isinstance(value, Tensor):
        return str(list(value.shape))
    if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
        return f"{len(value)} x {list(value[0].shape)}"
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


@dataclass(slots=True, repr=False)
class Step(Brief):
    """One finished sampler step, for progress bars, previews and cancelling. The sampler continues from ``x``."""

    index: int
    sigma: float
    """Noise level of ``x``, so after this step; the step began at ``run.levels.sigmas[index]``."""
    x: Tensor
    """[B,C,H,W] latents at that noise level. May be assigned: the sampler continues from it."""
    x0: Tensor
    """[B,C,H,W] clean estimate from which the step was computed."""


@dataclass(frozen=True, slots=True)
class Levels:
    """Noise levels of one run: made once for a schedule, a sampler and a spacing.

    ``x_start = noise * start_scale`` begins a run and ``x_end * end_scale`` are its latents; both scales are those of
    the sampler's reference implementation.
    """

    sigmas: tuple[float, ...]
    """Strictly decreasing; the last may be 0. One step per interval."""
    timesteps: tuple[float, ...]
    """The training timestep of each of ``sigmas``, an input of the network; fractions allowed."""
    start_scale: float
    end_scale: float = 1.0
    log_sigmas: tuple[float, ...] = field(default=(), repr=False)
    """log sigma of every training timestep, increasing: for the timesteps of levels between ``sigmas``."""
    sigma_data: float | None = None
    """Of a network whose time is that of Karras et al. 2022: log(sigma * sigma_data) / 4."""


@dataclass(frozen=True, repr=False)
class Conditioning(Brief):
    """The encoded prompt, as the U-Net reads it. Edit with ``dataclasses.replace``."""

    embeddings: Tensor
    """[B,T,D] output of the text encoder."""
    ids: Tensor | None = None
    """[B,T] int64 token ids, where the embeddings come from tokens."""
    pooled: Tensor | None = None
    """[B,P] one vector per text (CLIP: the state at the end-of-text token)."""


AT_ONCE = 1 << 16
"""Bytes that CUDA takes from any memory of the host before the call returns."""


def sent(values: Tensor, device: torch.device) -> Tensor:
    """``values`` of the host on a device; the host does not wait for what the device has still to do."""
    if device.type == "cuda" and not values.is_cuda:
        small = values.nbytes <= AT_ONCE
        return (values if small else values.pin_memory()).to(device, non_blocking=True)
    return values.to(device)
