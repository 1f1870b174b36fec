"""Samplers: pure generators with one signature, which integrate the denoising differential equation.

``sampler(denoise, x, sigmas, *, noise=None, **options) -> Iterator[Step]``

Args:
    denoise: ``(x, sigma)`` -> estimate of the clean latents. Called once per step, or as the sampler's docstring says.
    x: [B,C,H,W] latents ``x0 + sigmas[0] * noise``. Never modified.
    sigmas: noise levels, strictly decreasing; the last may be 0.
    noise: ``(like, sigma, sigma_next)`` -> unit-variance noise, the only source of randomness. Deterministic samplers
        ignore it; those with an ``eta`` need it unless that is 0, those with an ``s_churn`` if that is above 0.
    options: keywords of the sampler, each with a default. Three are shared: ``eta`` (amount of fresh noise in each
        step; 0 is the deterministic method), ``order`` (number of estimates or slopes that a step uses), and
        ``log_sigmas`` (``Levels.log_sigmas``, for samplers whose formula has training timesteps in it).

Yields:
    One Step per interval of ``sigmas``, with the noise level after it. The sampler continues from ``step.x``, which
    the caller may assign; the history of a multistep sampler keeps its earlier estimates. The last ``x`` is the sample.

Raises:
    InputError: an option is out of its range, or noise is needed and missing. At the call, before any step.

A sampler keeps no state outside its generator, and works with any batch: image i does not depend on the others.
"""

from diffuscope.diffusion.samplers.contract import Sampler, checked, final, network_calls, options
from diffuscope.diffusion.samplers.table import SAMPLERS, TABLE, SamplerInfo, SamplerMatch, find, register

__all__ = [
    "SAMPLERS",
    "TABLE",
    "Sampler",
    "SamplerInfo",
    "SamplerMatch",
    "checked",
    "final",
    "find",
    "network_calls",
    "options",
    "register",
]
