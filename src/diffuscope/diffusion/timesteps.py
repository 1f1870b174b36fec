"""Conversion between noise levels and training timesteps."""

import math
from bisect import bisect_right
from collections.abc import Sequence


def sigma_to_t(log_sigmas: Sequence[float], sigma: float) -> float:
    """Timestep of ``sigma``, linear in log sigma between whole ones and clamped to the ends of ``log_sigmas``."""
    last = len(log_sigmas) - 1
    level = math.log(sigma) if sigma > 0 else -math.inf
    if level <= log_sigmas[0]:
        return 0.0
    if level >= log_sigmas[last]:
        return float(last)
    low = bisect_right(log_sigmas, level) - 1
    return low + (level - log_sigmas[low]) / (log_sigmas[low + 1] - log_sigmas[low])


def edm_time(sigma: float, sigma_data: float) -> float:
    """What a network trained as Karras et al. 2022 reads for a level of unit data: their c_noise, Table 1."""
    return math.log(sigma * sigma_data) / 4 if sigma > 0 else -math.inf


def t_to_log_sigma(log_sigmas: Sequence[float], t: float) -> float:
    """Log sigma of a timestep: the inverse of ``sigma_to_t`` in the trained range."""
    low = min(int(t), len(log_sigmas) - 2)
    start, end = log_sigmas[low], log_sigmas[low + 1]
    return start + (t - low) * (end - start)
