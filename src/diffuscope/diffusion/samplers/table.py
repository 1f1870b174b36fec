"""The table of samplers: function, names elsewhere, and how the reference implementation picks noise levels."""

import difflib
import inspect
import re
import statistics
from dataclasses import dataclass
from typing import Literal, NamedTuple

from diffuscope.config import SPACINGS, FinalSigma, TimeSpacing
from diffuscope.diffusion.samplers.ancestral import ddim, ddpm, euler_ancestral
from diffuscope.diffusion.samplers.consistency import lcm, tcd
from diffuscope.diffusion.samplers.contract import Sampler, network_calls
from diffuscope.diffusion.samplers.deis import deis
from diffuscope.diffusion.samplers.dpmpp_multistep import (
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_2m_sde_heun,
    dpmpp_3m,
    dpmpp_3m_sde,
)
from diffuscope.diffusion.samplers.dpmpp_sde import dpmpp_2s_ancestral, dpmpp_sde
from diffuscope.diffusion.samplers.dpmpp_singlestep import dpmpp_2s
from diffuscope.diffusion.samplers.euler import euler
from diffuscope.diffusion.samplers.heun import heun
from diffuscope.diffusion.samplers.kdpm2 import kdpm2, kdpm2_ancestral
from diffuscope.diffusion.samplers.lms import lms
from diffuscope.diffusion.samplers.pndm import f_pndm, ipndm, pndm
from diffuscope.diffusion.samplers.restart import restart
from diffuscope.diffusion.samplers.unipc import unipc
from diffuscope.errors import LONGEST_NAME, InputError, Unquoted

Timesteps = Literal["fractional", "whole", "drop_last", "distilled"]
"""Which training timesteps a reference visits: fractional ones; whole ones; the whole ones of a grid with one more
point, without its lowest; or some of the 50 at which a network was distilled."""


@dataclass(frozen=True, repr=False)
class SamplerInfo:
    """One row of the table of samplers."""

    function: Sampler
    label: str
    """The name in user interfaces (AUTOMATIC1111's, where it has one)."""
    order: int = 1
    """Global order of convergence of the deterministic part."""
    aliases: tuple[str, ...] = ()
    """Names elsewhere: the class in diffusers, the function in k-diffusion, further spellings."""
    noise: Literal["none", "fresh", "brownian"] = "none"
    """Noise with default options: none, drawn afresh in each step, or a Brownian path (``noise.BrownianNoise``)."""
    timesteps: Timesteps = "fractional"
    final_sigma: FinalSigma | Literal["config"] = "zero"
    """Where the reference ends; "config": see ``ScheduleConfig.ddim_ends_at_zero``."""
    spacing: TimeSpacing | None = None
    """The only timestep spacing of the reference, if it ignores the model's configuration."""

    def __repr__(self) -> str:
        return f"SamplerInfo({self.name!r}, {self.label!r}, order {self.order}, noise {self.noise!r})"

    @property
    def name(self) -> str:
        """Our name: that of the function."""
        return self.function.__name__

    @property
    def calls(self) -> int:
        """Network calls of most steps; ``network_calls`` counts those of a run."""
        return statistics.mode(network_calls(self.function, range(16, 0, -1)))

    @property
    def variance_preserving(self) -> bool:
        """Whether the reference's latents are ours divided by sqrt(1 + sigma^2): those with whole timesteps are."""
        return self.timesteps != "fractional"

    @property
    def distilled(self) -> bool:
        """Whether it is for networks distilled to few steps."""
        return self.timesteps == "distilled"

    @property
    def takes_log_sigmas(self) -> bool:
        """Whether it has the keyword ``log_sigmas``, for ``Levels.log_sigmas``."""
        return "log_sigmas" in inspect.signature(self.function).parameters


_ROWS = (
    SamplerInfo(euler, "Euler", 1, ("EulerDiscreteScheduler", "sample_euler", "k_euler")),
    SamplerInfo(
        euler_ancestral,
        "Euler a",
        1,
        ("EulerAncestralDiscreteScheduler", "sample_euler_ancestral", "k_euler_a", "Euler ancestral"),
        noise="fresh",
    ),
    SamplerInfo(heun, "Heun", 2, ("HeunDiscreteScheduler", "sample_heun", "k_heun")),
    # Order 4 after the first steps, of which the very first is an Euler step.
    SamplerInfo(lms, "LMS", 2, ("LMSDiscreteScheduler", "sample_lms", "k_lms")),
    SamplerInfo(ddim, "DDIM", 1, ("DDIMScheduler",), timesteps="whole", final_sigma="config"),
    SamplerInfo(
        dpmpp_2m, "DPM++ 2M", 2, ("DPMSolverMultistepScheduler", "sample_dpmpp_2m", "k_dpmpp_2m"), timesteps="drop_last"
    ),
    SamplerInfo(ddpm, "DDPM", 1, ("DDPMScheduler",), noise="fresh", timesteps="whole"),
    SamplerInfo(kdpm2, "DPM2", 2, ("KDPM2DiscreteScheduler", "sample_dpm_2", "k_dpm_2")),
    SamplerInfo(
        kdpm2_ancestral,
        "DPM2 a",
        2,
        ("KDPM2AncestralDiscreteScheduler", "sample_dpm_2_ancestral", "k_dpm_2_a", "DPM2 ancestral"),
        noise="fresh",
    ),
    # Order 4 after the first steps.
    SamplerInfo(pndm, "PLMS", 2, ("PNDMScheduler",), timesteps="whole", final_sigma="config"),
    # Order 4 where the levels are evenly spaced.
    SamplerInfo(
        f_pndm,
        "F-PNDM",
        2,
        ("pndm_prk", "PNDMScheduler with skip_prk_steps=False"),
        timesteps="whole",
        final_sigma="config",
    ),
    SamplerInfo(ipndm, "IPNDM", 2, ("IPNDMScheduler", "sample_ipndm")),
    SamplerInfo(unipc, "UniPC", 2, ("UniPCMultistepScheduler", "uni_pc", "uni_pc_bh2"), timesteps="drop_last"),
    SamplerInfo(
        deis, "DEIS", 2, ("DEISMultistepScheduler", "sample_deis"), timesteps="drop_last", final_sigma="sigma_min"
    ),
    SamplerInfo(dpmpp_2s, "DPM++ 2S", 2, ("DPMSolverSinglestepScheduler",), timesteps="drop_last", spacing="linspace"),
    # Order 3 after the first steps, of which the very first is an Euler step.
    SamplerInfo(dpmpp_3m, "DPM++ 3M", 2, timesteps="drop_last"),
    SamplerInfo(
        dpmpp_2s_ancestral,
        "DPM++ 2S a",
        2,
        ("sample_dpmpp_2s_ancestral", "k_dpmpp_2s_a", "DPM++ 2S ancestral"),
        noise="fresh",
    ),
    SamplerInfo(
        dpmpp_sde, "DPM++ SDE", 2, ("DPMSolverSDEScheduler", "sample_dpmpp_sde", "k_dpmpp_sde"), noise="brownian"
    ),
    SamplerInfo(
        dpmpp_2m_sde,
        "DPM++ 2M SDE",
        2,
        ("sample_dpmpp_2m_sde", "k_dpmpp_2m_sde"),
        noise="brownian",
        timesteps="drop_last",
    ),
    SamplerInfo(
        dpmpp_2m_sde_heun, "DPM++ 2M SDE Heun", 2, ("k_dpmpp_2m_sde_heun",), noise="brownian", timesteps="drop_last"
    ),
    # Order 3 after the first steps, of which the very first is an Euler step.
    SamplerInfo(dpmpp_3m_sde, "DPM++ 3M SDE", 2, ("sample_dpmpp_3m_sde", "k_dpmpp_3m_sde"), noise="brownian"),
    SamplerInfo(restart, "Restart", 2, ("restart_sampler",), noise="fresh"),
    SamplerInfo(lcm, "LCM", 1, ("LCMScheduler", "sample_lcm"), noise="fresh", timesteps="distilled"),
    SamplerInfo(
        tcd, "TCD", 1, ("TCDScheduler", "sample_tcd"), noise="fresh", timesteps="distilled", final_sigma="sigma_min"
    ),
)

TABLE: dict[str, SamplerInfo] = {info.name: info for info in _ROWS}
"""Every sampler by our name."""

SAMPLERS: dict[str, Sampler] = {name: info.function for name, info in TABLE.items()}
"""Every sampler's function by our name."""


class SamplerMatch(NamedTuple):
    """A sampler and, from a fused name such as "DPM++ 2M Karras", a spacing."""

    info: SamplerInfo
    spacing: str | None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "p")).removesuffix("scheduler")


_LIKE = 0.4


def _spellings(info: SamplerInfo) -> set[str]:
    return {_plain(spelling) for spelling in (info.name, info.label, *info.aliases)}


_BY_PLAIN_NAME = {spelling: info for info in TABLE.values() for spelling in _spellings(info)}
_OURS = frozenset(TABLE)


def register(info: SamplerInfo | Sampler) -> SamplerInfo:
    """Make a sampler of one's own known by its function's name, by its label and by its aliases, in this process.

    A name that was registered before is replaced, as when a notebook's cell runs again.

    Args:
        info: a row of the table; or the function alone, whose levels are then those of ``euler``.

    Raises:
        InputError: it is no sampler, or one of its names is that of another.
    """
    info = info if isinstance(info, SamplerInfo) else _row_of(info)
    _check_function(info.function)
    old = TABLE.get(info.name)
    for spelling in _spellings(info):
        taken = _BY_PLAIN_NAME.get(spelling)
        if info.name in _OURS or (taken is not None and taken is not old):
            raise InputError("sampler", info.name, "names that no other sampler has", "Give the function another name")
    for spelling in [known for known, row in _BY_PLAIN_NAME.items() if row is old]:
        del _BY_PLAIN_NAME[spelling]
    TABLE[info.name], SAMPLERS[info.name] = info, info.function
    _BY_PLAIN_NAME.update(dict.fromkeys(_spellings(info), info))
    return info


def _row_of(function: Sampler) -> SamplerInfo:
    return SamplerInfo(function, getattr(function, "__name__", "").replace("_", " "), noise="fresh")


def _check_function(function: Sampler) -> None:
    """Refuse what cannot be called as a sampler, or has no name for a receipt."""
    name = getattr(function, "__name__", "")
    try:
        inspect.signature(function).bind(None, None, (), noise=None)
    except (TypeError, ValueError):
        want = "a generator function (denoise, x, sigmas, *, noise=None, **options)"
        raise InputError("sampler", Unquoted(name or "no function"), want) from None
    if not name.isidentifier():
        raise InputError("sampler", Unquoted("a function without a name"), "one made by `def`: receipts name it")


def find(name: str | Sampler) -> SamplerMatch:
    """The sampler of that name in any spelling, and the spacing in a fused name; or the row of a function.

    Upper and lower case, spaces and punctuation do not matter; ``+`` is ``p``. A function need not be registered.

    Raises:
        InputError: no sampler has that name; the message lists all and suggests the nearest. A function is no sampler,
            or has the name of another.
    """
    if not isinstance(name, str):
        _check_function(name)
        known = TABLE.get(name.__name__)
        if known is not None and known.function is not name and known.name in _OURS:
            raise InputError("sampler", name.__name__, "a function whose name no other sampler has")
        return SamplerMatch(known if known is not None and known.function is name else _row_of(name), None)
    plain = _plain(name[:LONGEST_NAME])  # no name is longer, and difflib would take minutes
    if info := _BY_PLAIN_NAME.get(plain):
        return SamplerMatch(info, None)
    for spacing in SPACINGS[1:]:
        if info := _BY_PLAIN_NAME.get(plain.removesuffix(_plain(spacing))):
            return SamplerMatch(info, spacing)
    likeness = {known: difflib.SequenceMatcher(None, known, plain).ratio() for known in _BY_PLAIN_NAME}
    nearest = max(likeness, key=lambda known: likeness[known])  # of equals the first in the table
    hint = f"Did you mean {_BY_PLAIN_NAME[nearest].name!r}?" if likeness[nearest] >= _LIKE else ""
    raise InputError("sampler", name, f"one of {', '.join(TABLE)}", hint)
