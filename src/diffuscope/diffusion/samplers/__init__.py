"""Solvers of the denoising differential equation: pure generators, one signature, no state.

``sampler(denoise, x, sigmas, *, noise=None) -> Iterator[Step]``. After each step a sampler continues from ``step.x``,
which the caller may assign; the history of a multistep sampler keeps its earlier estimates.
"""

import inspect

from diffuscope.diffusion.samplers.ancestral import ddim, ddpm, euler_ancestral
from diffuscope.diffusion.samplers.consistency import lcm, tcd
from diffuscope.diffusion.samplers.contract import Sampler, final, network_calls
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
from diffuscope.diffusion.samplers.table import TABLE, Found, SamplerInfo, find
from diffuscope.diffusion.samplers.unipc import unipc

__all__ = ["SAMPLERS", "TABLE", "Found", "Sampler", "SamplerInfo", "final", "find", "network_calls", "options"]

SAMPLERS: dict[str, Sampler] = {
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "lms": lms,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "ddpm": ddpm,
    "kdpm2": kdpm2,
    "kdpm2_ancestral": kdpm2_ancestral,
    "pndm": pndm,
    "f_pndm": f_pndm,
    "ipndm": ipndm,
    "unipc": unipc,
    "deis": deis,
    "dpmpp_2s": dpmpp_2s,
    "dpmpp_3m": dpmpp_3m,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_2m_sde_heun": dpmpp_2m_sde_heun,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "restart": restart,
    "lcm": lcm,
    "tcd": tcd,
}
"""Every sampler by our name; ``TABLE`` tells about each."""


def options(name: str) -> dict[str, float | str]:
    """The options of the sampler of that name with their defaults: keywords of ``SAMPLERS[name]`` such as ``eta``."""
    parameters = inspect.signature(SAMPLERS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("noise", "table")}
