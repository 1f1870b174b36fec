"""Solvers of the denoising differential equation: pure generators, one signature, no state."""

from diffuscope.diffusion.samplers.table import TABLE, Found, SamplerInfo, find

__all__ = ["TABLE", "Found", "SamplerInfo", "find"]
