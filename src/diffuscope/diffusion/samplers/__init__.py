"""Solvers of the denoising differential equation: pure generators, one signature, no state.

``sampler(denoise, x, sigmas, *, noise=None) -> Iterator[Step]``. After each step a sampler continues from ``step.x``,
which the caller may assign; the history of a multistep sampler keeps its earlier estimates.
"""

from collections import deque
from collections.abc import Callable, Iterator

from torch import Tensor

from diffuscope.diffusion.samplers.ancestral import ddim, ddpm, euler_ancestral
from diffuscope.diffusion.samplers.dpmpp_2m import dpmpp_2m
from diffuscope.diffusion.samplers.euler import euler
from diffuscope.diffusion.samplers.heun import heun
from diffuscope.diffusion.samplers.lms import lms
from diffuscope.diffusion.samplers.table import TABLE, Found, SamplerInfo, find
from diffuscope.errors import InputError
from diffuscope.types import Step

__all__ = ["SAMPLERS", "TABLE", "Found", "Sampler", "SamplerInfo", "final", "find"]

Sampler = Callable[..., Iterator[Step]]
"""``(denoise, x [B,C,H,W], sigmas, *, noise=None)`` -> one Step per interval of ``sigmas``."""

SAMPLERS: dict[str, Sampler] = {
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "lms": lms,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "ddpm": ddpm,
}
"""Every sampler by our name; ``TABLE`` tells about each."""


def final(steps: Iterator[Step]) -> Tensor:
    """The latents [B,C,H,W] after the last step: runs a sampler to its end.

    Raises:
        InputError: the sampler made no step.
    """
    last = deque(steps, maxlen=1)
    if not last:
        raise InputError("the sampler made no step: give at least two noise levels")
    return last[0].x
