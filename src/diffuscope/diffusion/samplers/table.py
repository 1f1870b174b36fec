"""What each sampler is, what others call it, and how its reference picks noise levels: data, no mathematics."""

import difflib
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from diffuscope.errors import InputError

Grid = Literal["fractional", "whole", "inner"]
"""Which training times a reference visits: "fractional" ones, "whole" ones, or the whole ones "inner" to a grid of
one point more, whose lowest point is left out."""


@dataclass(frozen=True, kw_only=True)
class SamplerInfo:
    """One row of the table of samplers."""

    name: str
    label: str
    """The name that user interfaces show (AUTOMATIC1111's, where it has one)."""
    order: int
    """Global order of convergence of its deterministic part."""
    calls: int = 1
    """Network calls per step; the step to noise level zero needs only one."""
    draws_noise: bool = False
    """Whether a plain call needs ``noise``."""
    aliases: tuple[str, ...] = ()
    """Names elsewhere: the class in diffusers, the function in k-diffusion, further spellings."""
    grid: Grid = "fractional"
    variance_preserving: bool = False
    """Whether the reference keeps latents at unit variance, ours divided by sqrt(1 + sigma^2)."""
    ends_as_configured: bool = False
    """Whether the reference may end at the lowest trained level (``ScheduleConfig.ddim_ends_at_zero``)."""


TABLE: dict[str, SamplerInfo] = {
    info.name: info
    for info in (
        SamplerInfo(
            name="euler",
            label="Euler",
            order=1,
            aliases=("EulerDiscreteScheduler", "sample_euler", "k_euler"),
        ),
        SamplerInfo(
            name="euler_ancestral",
            label="Euler a",
            order=1,
            draws_noise=True,
            aliases=("EulerAncestralDiscreteScheduler", "sample_euler_ancestral", "k_euler_a", "Euler ancestral"),
        ),
        SamplerInfo(
            name="heun",
            label="Heun",
            order=2,
            calls=2,
            aliases=("HeunDiscreteScheduler", "sample_heun", "k_heun"),
        ),
        SamplerInfo(
            name="lms",
            label="LMS",
            order=2,  # order 4 after the first steps, of which the first is Euler's
            aliases=("LMSDiscreteScheduler", "sample_lms", "k_lms"),
        ),
        SamplerInfo(
            name="ddim",
            label="DDIM",
            order=1,
            aliases=("DDIMScheduler",),
            grid="whole",
            variance_preserving=True,
            ends_as_configured=True,
        ),
        SamplerInfo(
            name="dpmpp_2m",
            label="DPM++ 2M",
            order=2,
            aliases=("DPMSolverMultistepScheduler", "sample_dpmpp_2m", "k_dpmpp_2m"),
            grid="inner",
            variance_preserving=True,
        ),
        SamplerInfo(
            name="ddpm",
            label="DDPM",
            order=1,
            draws_noise=True,
            aliases=("DDPMScheduler",),
            grid="whole",
            variance_preserving=True,
        ),
    )
}
"""Every sampler by our name."""

SPACINGS = ("model", "karras", "exponential")
"""The spacings of noise levels that have a name."""


class Found(NamedTuple):
    """What a name means: a sampler and, for a fused name such as "DPM++ 2M Karras", a spacing."""

    info: SamplerInfo
    spacing: str | None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "p")).removesuffix("scheduler")


_BY_PLAIN_NAME = {
    _plain(spelling): info for info in TABLE.values() for spelling in (info.name, info.label, *info.aliases)
}


def find(name: str) -> Found:
    """The sampler of that name in any spelling, and the spacing that a fused name asks for.

    Upper and lower case, spaces and punctuation do not matter; ``+`` is ``p``.

    Raises:
        InputError: no sampler is called so; the message tells which exist and the nearest name.
    """
    plain = _plain(name)
    if info := _BY_PLAIN_NAME.get(plain):
        return Found(info, None)
    for spacing in SPACINGS[1:]:
        if info := _BY_PLAIN_NAME.get(plain.removesuffix(spacing)):
            return Found(info, spacing)
    near = difflib.get_close_matches(plain, _BY_PLAIN_NAME, n=1, cutoff=0.4)
    hint = f" Did you mean {_BY_PLAIN_NAME[near[0]].name!r}?" if near else ""
    raise InputError(f"there is no sampler {name!r}.{hint} There are: {', '.join(TABLE)}")
