"""What each sampler is, what others call it, and how its reference picks noise levels: data, no mathematics."""

import difflib
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from diffuscope.config import TimeSpacing
from diffuscope.errors import InputError

Grid = Literal["fractional", "whole", "inner", "distilled"]
"""Which training times a reference visits: "fractional" ones, "whole" ones, the whole ones "inner" to a grid of one
point more, whose lowest point is left out, or some of the 50 that a network was "distilled" at."""

Final = Literal["zero", "sigma_min"]
"""Where a run ends: without noise, or at the lowest trained level."""


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
    euler_from_noise: bool = False
    """Whether a step from pure noise (``euler.PURE_NOISE``) is Euler's, and needs only one as well."""
    further_calls: int = 0
    """Network calls beyond those, in each of the first ``further_steps`` steps of several that end above level 0.

    Steps from pure noise are none of these.
    """
    further_steps: int = 1
    """How many first steps have ``further_calls``."""
    draws_noise: bool = False
    """Whether a plain call needs ``noise``."""
    aliases: tuple[str, ...] = ()
    """Names elsewhere: the class in diffusers, the function in k-diffusion, further spellings."""
    grid: Grid = "fractional"
    variance_preserving: bool = False
    """Whether the reference keeps latents at unit variance, ours divided by sqrt(1 + sigma^2)."""
    final: Final | Literal["configured"] = "zero"
    """Where the reference ends; "configured" is as ``ScheduleConfig.ddim_ends_at_zero`` says."""
    spacing: TimeSpacing | None = None
    """The only spacing of times that the reference knows, whatever the model's configuration says."""
    path_noise: bool = False
    """Whether its noise is a Brownian path (``noise.BrownianNoise``) and not drawn afresh each time."""
    distilled: bool = False
    """Whether it is for networks distilled to few steps."""
    wants_table: bool = False
    """Whether it is to be given ``Levels.table``, as ``table``."""


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
            euler_from_noise=True,
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
            final="configured",
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
        SamplerInfo(
            name="kdpm2",
            label="DPM2",
            order=2,
            calls=2,
            euler_from_noise=True,
            aliases=("KDPM2DiscreteScheduler", "sample_dpm_2", "k_dpm_2"),
        ),
        SamplerInfo(
            name="kdpm2_ancestral",
            label="DPM2 a",
            order=2,
            calls=2,
            euler_from_noise=True,
            draws_noise=True,
            aliases=("KDPM2AncestralDiscreteScheduler", "sample_dpm_2_ancestral", "k_dpm_2_a", "DPM2 ancestral"),
        ),
        SamplerInfo(
            name="pndm",
            label="PLMS",
            order=2,  # order 4 after the first steps
            further_calls=1,
            aliases=("PNDMScheduler",),
            grid="whole",
            variance_preserving=True,
            final="configured",
        ),
        SamplerInfo(
            name="f_pndm",
            label="F-PNDM",
            order=2,  # order 4 where the levels are evenly spaced
            further_calls=3,
            further_steps=3,
            aliases=("pndm_prk", "PNDMScheduler with skip_prk_steps=False"),
            grid="whole",
            variance_preserving=True,
            final="configured",
            wants_table=True,
        ),
        SamplerInfo(
            name="ipndm",
            label="IPNDM",
            order=2,  # the first step is Euler's
            aliases=("IPNDMScheduler", "sample_ipndm"),
        ),
        SamplerInfo(
            name="unipc",
            label="UniPC",
            order=2,
            aliases=("UniPCMultistepScheduler", "uni_pc", "uni_pc_bh2"),
            grid="inner",
            variance_preserving=True,
        ),
        SamplerInfo(
            name="deis",
            label="DEIS",
            order=2,
            aliases=("DEISMultistepScheduler", "sample_deis"),
            grid="inner",
            variance_preserving=True,
            final="sigma_min",
        ),
        SamplerInfo(
            name="dpmpp_2s",
            label="DPM++ 2S",
            order=2,
            aliases=("DPMSolverSinglestepScheduler",),
            grid="inner",
            variance_preserving=True,
            spacing="linspace",
        ),
        SamplerInfo(
            name="dpmpp_3m",
            label="DPM++ 3M",
            order=2,  # order 3 after the first steps, of which the first is Euler's
            grid="inner",
            variance_preserving=True,
        ),
        SamplerInfo(
            name="dpmpp_2s_ancestral",
            label="DPM++ 2S a",
            order=2,
            calls=2,
            draws_noise=True,
            aliases=("sample_dpmpp_2s_ancestral", "k_dpmpp_2s_a", "DPM++ 2S ancestral"),
        ),
        SamplerInfo(
            name="dpmpp_sde",
            label="DPM++ SDE",
            order=2,
            calls=2,
            draws_noise=True,
            aliases=("DPMSolverSDEScheduler", "sample_dpmpp_sde", "k_dpmpp_sde"),
            path_noise=True,
        ),
        SamplerInfo(
            name="dpmpp_2m_sde",
            label="DPM++ 2M SDE",
            order=2,
            draws_noise=True,
            aliases=("sample_dpmpp_2m_sde", "k_dpmpp_2m_sde"),
            grid="inner",
            variance_preserving=True,
            path_noise=True,
        ),
        SamplerInfo(
            name="dpmpp_2m_sde_heun",
            label="DPM++ 2M SDE Heun",
            order=2,
            draws_noise=True,
            aliases=("k_dpmpp_2m_sde_heun",),
            grid="inner",
            variance_preserving=True,
            path_noise=True,
        ),
        SamplerInfo(
            name="dpmpp_3m_sde",
            label="DPM++ 3M SDE",
            order=2,  # order 3 after the first steps, of which the first is Euler's
            draws_noise=True,
            aliases=("sample_dpmpp_3m_sde", "k_dpmpp_3m_sde"),
            path_noise=True,
        ),
        SamplerInfo(
            name="restart",
            label="Restart",
            order=2,
            calls=2,  # and so in each repeated step
            euler_from_noise=True,
            draws_noise=True,
            aliases=("restart_sampler",),
        ),
        SamplerInfo(
            name="lcm",
            label="LCM",
            order=1,
            draws_noise=True,
            aliases=("LCMScheduler", "sample_lcm"),
            grid="distilled",
            variance_preserving=True,
            distilled=True,
            wants_table=True,
        ),
        SamplerInfo(
            name="tcd",
            label="TCD",
            order=1,
            draws_noise=True,
            aliases=("TCDScheduler", "sample_tcd"),
            grid="distilled",
            variance_preserving=True,
            final="sigma_min",
            distilled=True,
            wants_table=True,
        ),
    )
}
"""Every sampler by our name."""

TIME_SPACINGS: tuple[TimeSpacing, ...] = get_args(TimeSpacing)
"""The spacings of training times."""

SPACINGS = ("model", *TIME_SPACINGS, "karras", "exponential", "beta", "sgm_uniform")
"""The spacings of noise levels that have a name."""


class Found(NamedTuple):
    """What a name means: a sampler and, for a fused name such as "DPM++ 2M Karras", a spacing."""

    info: SamplerInfo
    spacing: str | None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "p")).removesuffix("scheduler")


_LIKE = 0.4

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
        if info := _BY_PLAIN_NAME.get(plain.removesuffix(_plain(spacing))):
            return Found(info, spacing)
    likeness = {known: difflib.SequenceMatcher(None, known, plain).ratio() for known in _BY_PLAIN_NAME}
    nearest = max(likeness, key=lambda known: likeness[known])  # of equals the first in the table
    hint = f" Did you mean {_BY_PLAIN_NAME[nearest].name!r}?" if likeness[nearest] >= _LIKE else ""
    raise InputError(f"there is no sampler {name!r}.{hint} There are: {', '.join(TABLE)}")
