"""Churn: fresh noise before each step, to remove the errors of earlier steps."""

import math
from dataclasses import dataclass

from torch import Tensor

from diffuscope.types import Noise

_MAX_GAMMA = math.sqrt(2) - 1


@dataclass(frozen=True)
class Churn:
    """How much noise is added, and at which levels: Karras et al. 2022, Algorithm 2, in its notation."""

    s_churn: float
    s_tmin: float
    s_tmax: float
    s_noise: float

    def apply(self, x: Tensor, sigma: float, steps: int, noise: Noise | None) -> tuple[Tensor, float]:
        """``x`` with the noise of one of ``steps`` steps, and its new level; both unchanged if there is no churn."""
        if noise is None or self.s_churn == 0 or not self.s_tmin <= sigma <= self.s_tmax:
            return x, sigma
        raised = sigma * (1 + min(self.s_churn / steps, _MAX_GAMMA))
        return x + noise(x, sigma, raised) * (self.s_noise * math.sqrt(raised**2 - sigma**2)), raised
