"""What is known of each sampler besides its function: its names here and elsewhere, and how its reference picks noise
levels. Imports no torch, so that a misspelt name is answered at once.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeVar

from diffuscope.config import SPACINGS, FinalSigma, TimeSpacing
from diffuscope.errors import LONGEST_NAME, InputError

Timesteps = Literal["fractional", "whole", "drop_last", "distilled"]
"""Which training timesteps a reference visits: fractional ones; whole ones; the whole ones of a grid with one more
point, without its lowest; or some of the 50 at which a network was distilled."""


@dataclass(frozen=True, kw_only=True)
class SamplerFacts:
    """One row of the table of samplers, without the function."""

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

    @property
    def variance_preserving(self) -> bool:
        """Whether the reference's latents are ours divided by sqrt(1 + sigma^2): those with whole timesteps are."""
        return self.timesteps != "fractional"

    @property
    def distilled(self) -> bool:
        """Whether it is for networks distilled to few steps."""
        return self.timesteps == "distilled"


FACTS: dict[str, SamplerFacts] = {
    "euler": SamplerFacts(label="Euler", aliases=("EulerDiscreteScheduler", "sample_euler", "k_euler")),
    "euler_ancestral": SamplerFacts(
        label="Euler a",
        aliases=("EulerAncestralDiscreteScheduler", "sample_euler_ancestral", "k_euler_a", "Euler ancestral"),
        noise="fresh",
    ),
    "heun": SamplerFacts(label="Heun", order=2, aliases=("HeunDiscreteScheduler", "sample_heun", "k_heun")),
    # Order 4 after the first steps, of which the very first is an Euler step.
    "lms": SamplerFacts(label="LMS", order=2, aliases=("LMSDiscreteScheduler", "sample_lms", "k_lms")),
    "ddim": SamplerFacts(label="DDIM", aliases=("DDIMScheduler",), timesteps="whole", final_sigma="config"),
    "dpmpp_2m": SamplerFacts(
        label="DPM++ 2M",
        order=2,
        aliases=("DPMSolverMultistepScheduler", "sample_dpmpp_2m", "k_dpmpp_2m"),
        timesteps="drop_last",
    ),
    "ddpm": SamplerFacts(label="DDPM", aliases=("DDPMScheduler",), noise="fresh", timesteps="whole"),
    "kdpm2": SamplerFacts(label="DPM2", order=2, aliases=("KDPM2DiscreteScheduler", "sample_dpm_2", "k_dpm_2")),
    "kdpm2_ancestral": SamplerFacts(
        label="DPM2 a",
        order=2,
        aliases=("KDPM2AncestralDiscreteScheduler", "sample_dpm_2_ancestral", "k_dpm_2_a", "DPM2 ancestral"),
        noise="fresh",
    ),
    # Order 4 after the first steps.
    "pndm": SamplerFacts(label="PLMS", order=2, aliases=("PNDMScheduler",), timesteps="whole", final_sigma="config"),
    # Order 4 where the levels are evenly spaced.
    "f_pndm": SamplerFacts(
        label="F-PNDM",
        order=2,
        aliases=("pndm_prk", "PNDMScheduler with skip_prk_steps=False"),
        timesteps="whole",
        final_sigma="config",
    ),
    "ipndm": SamplerFacts(label="IPNDM", order=2, aliases=("IPNDMScheduler", "sample_ipndm")),
    "unipc": SamplerFacts(
        label="UniPC", order=2, aliases=("UniPCMultistepScheduler", "uni_pc", "uni_pc_bh2"), timesteps="drop_last"
    ),
    "deis": SamplerFacts(
        label="DEIS",
        order=2,
        aliases=("DEISMultistepScheduler", "sample_deis"),
        timesteps="drop_last",
        final_sigma="sigma_min",
    ),
    "dpmpp_2s": SamplerFacts(
        label="DPM++ 2S", order=2, aliases=("DPMSolverSinglestepScheduler",), timesteps="drop_last", spacing="linspace"
    ),
    # Order 3 after the first steps, of which the very first is an Euler step.
    "dpmpp_3m": SamplerFacts(label="DPM++ 3M", order=2, timesteps="drop_last"),
    "dpmpp_2s_ancestral": SamplerFacts(
        label="DPM++ 2S a",
        order=2,
        aliases=("sample_dpmpp_2s_ancestral", "k_dpmpp_2s_a", "DPM++ 2S ancestral"),
        noise="fresh",
    ),
    "dpmpp_sde": SamplerFacts(
        label="DPM++ SDE",
        order=2,
        aliases=("DPMSolverSDEScheduler", "sample_dpmpp_sde", "k_dpmpp_sde"),
        noise="brownian",
    ),
    "dpmpp_2m_sde": SamplerFacts(
        label="DPM++ 2M SDE",
        order=2,
        aliases=("sample_dpmpp_2m_sde", "k_dpmpp_2m_sde"),
        noise="brownian",
        timesteps="drop_last",
    ),
    "dpmpp_2m_sde_heun": SamplerFacts(
        label="DPM++ 2M SDE Heun", order=2, aliases=("k_dpmpp_2m_sde_heun",), noise="brownian", timesteps="drop_last"
    ),
    # Order 3 after the first steps, of which the very first is an Euler step.
    "dpmpp_3m_sde": SamplerFacts(
        label="DPM++ 3M SDE", order=2, aliases=("sample_dpmpp_3m_sde", "k_dpmpp_3m_sde"), noise="brownian"
    ),
    "restart": SamplerFacts(label="Restart", order=2, aliases=("restart_sampler",), noise="fresh"),
    "lcm": SamplerFacts(label="LCM", aliases=("LCMScheduler", "sample_lcm"), noise="fresh", timesteps="distilled"),
    "tcd": SamplerFacts(
        label="TCD",
        aliases=("TCDScheduler", "sample_tcd"),
        noise="fresh",
        timesteps="distilled",
        final_sigma="sigma_min",
    ),
}
"""Every sampler that ships, by our name: that of its function."""

Facts = TypeVar("Facts", bound=SamplerFacts)

_LIKE = 0.4


def spellings(name: str, facts: SamplerFacts) -> set[str]:
    """The plain forms of a sampler's name, label and aliases."""
    return {_plain(spelling) for spelling in (name, facts.label, *facts.aliases)}


def match(name: str, table: Mapping[str, SamplerFacts] = FACTS) -> tuple[str, str | None]:
    """Our name of a sampler that is named in any spelling, and the spacing in a fused name ("DPM++ 2M Karras").

    Upper and lower case, spaces and punctuation do not matter; ``+`` is ``p``.

    Raises:
        InputError: no sampler has that name; the message lists all and suggests the nearest.
    """
    names = {spelling: known for known, facts in table.items() for spelling in spellings(known, facts)}
    plain = _plain(name[:LONGEST_NAME])  # no name is longer, and difflib would take minutes
    if plain in names:
        return names[plain], None
    for spacing in SPACINGS[1:]:
        if (sampler := plain.removesuffix(_plain(spacing))) in names:
            return names[sampler], spacing
    likeness = {known: difflib.SequenceMatcher(None, known, plain).ratio() for known in names}
    nearest = max(likeness, key=lambda known: likeness[known])  # of equals the first in the table
    hint = f"Did you mean {names[nearest]!r}?" if likeness[nearest] >= _LIKE else ""
    raise InputError("sampler", name, f"one of {', '.join(table)}", hint)


@lru_cache(1024)  # the table is spelled out in every call
def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "p")).removesuffix("scheduler")
