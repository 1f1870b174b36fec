"""The network's clock: which training time a noise level belongs to."""

import math
from bisect import bisect_right
from collections.abc import Sequence


def sigma_to_t(log_sigmas: Sequence[float], sigma: float) -> float:
    """Training time of ``sigma`` by its place in the ascending table ``log_sigmas``, clamped to the table's ends."""
    last = len(log_sigmas) - 1
    level = math.log(sigma) if sigma > 0 else -math.inf
    if level <= log_sigmas[0]:
        return 0.0
    if level >= log_sigmas[last]:
        return float(last)
    low = bisect_right(log_sigmas, level) - 1
    return low + (level - log_sigmas[low]) / (log_sigmas[low + 1] - log_sigmas[low])


def t_to_log_sigma(log_sigmas: Sequence[float], time: float) -> float:
    """Log noise level at ``time``, linear between whole times: the inverse of ``sigma_to_t`` within the table."""
    low = min(int(time), len(log_sigmas) - 2)
    start, end = log_sigmas[low], log_sigmas[low + 1]
    return start + (time - low) * (end - start)
