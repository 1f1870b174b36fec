"""Solvers of the denoising differential equation: pure generators, one signature, no state.

``sampler(denoise, x, sigmas, *, noise=None) -> Iterator[Step]``. After each step a sampler continues from ``step.x``,
which the caller may assign; the history of a multistep sampler keeps its earlier estimates.
"""

import inspect

from diffuscope.diffusion.samplers.contract import Sampler, final, network_calls
from diffuscope.diffusion.samplers.table import SAMPLERS, TABLE, Found, SamplerInfo, find

__all__ = ["SAMPLERS", "TABLE", "Found", "Sampler", "SamplerInfo", "final", "find", "network_calls", "options"]


def options(name: str) -> dict[str, float | str]:
    """The options of the sampler of that name with their defaults: keywords of ``SAMPLERS[name]`` such as ``eta``."""
    parameters = inspect.signature(SAMPLERS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("noise", "log_sigmas")}
