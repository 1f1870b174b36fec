"""Churn: a little fresh noise before each step, to wash out what earlier steps got wrong."""

import math
from dataclasses import dataclass

from torch import Tensor

from diffuscope.diffusion.samplers.checks import check_noise
from diffuscope.errors import InputError
from diffuscope.types import Noise

_MOST = math.sqrt(2) - 1


@dataclass(frozen=True)
class Churn:
    """How much noise is added, and where: Karras et al. 2022, Algorithm 2, in its own letters."""

    s_churn: float
    s_tmin: float
    s_tmax: float
    s_noise: float

    def check(self, noise: Noise | None) -> None:
        """Raise InputError where a value is impossible, or noise is needed and there is none."""
        for name in ("s_churn", "s_tmin", "s_tmax", "s_noise"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} {getattr(self, name)} is not a number of at least 0")
        check_noise(noise, self.s_churn, "s_churn")

    def apply(self, x: Tensor, sigma: float, steps: int, noise: Noise | None) -> tuple[Tensor, float]:
        """``x`` with the noise of one of ``steps`` steps, and its new level; both as they were where none is due."""
        if noise is None or self.s_churn == 0 or not self.s_tmin <= sigma <= self.s_tmax:
            return x, sigma
        raised = sigma * (1 + min(self.s_churn / steps, _MOST))
        return x + noise(x, sigma, raised) * (self.s_noise * math.sqrt(raised**2 - sigma**2)), raised
