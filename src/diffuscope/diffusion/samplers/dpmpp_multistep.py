"""DPM-Solver++, multistep: second and third order, deterministic and stochastic. One solver, five names."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Interval
from torch import Tensor

from diffuscope.diffusion.samplers.contract import Eta, checked
from diffuscope.types import Denoiser, Noise, Step

Solver = Literal["midpoint", "heun"]
"""How the second order weights its difference: by the midpoint rule, or by the exact integral of a line."""

_SHORT_RUN = 15


@checked()
def dpmpp_2m(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    order: Annotated[int, Interval(ge=1, le=2)] = 2,
    solver: Solver = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
) -> Iterator[Step]:
    """Second-order multistep method in log sigma: Lu et al. 2022 (DPM-Solver++), Algorithm 2.

    In ``x = x0 + sigma * noise`` it is an Euler step towards an estimate extrapolated from this one and the last. The
    first step is an Euler step; so is the last one if it goes to level 0, or if there are fewer than 15 steps, which
    the reference found to be more stable.

    Args:
        order: 2, or 1 for Euler steps.
        solver: "midpoint", or "heun" for the exact integral of the extrapolated line.
        lower_order_final: whether runs of fewer than 15 steps lower the order of their last steps.
        euler_at_final: whether the last step of every run is an Euler step.
    """
    return _multistep(denoise, x, sigmas, noise, _Method(order, solver, 0.0, lower_order_final, euler_at_final))


@checked()
def dpmpp_3m(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    solver: Solver = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
) -> Iterator[Step]:
    """Third-order multistep method in log sigma: ``dpmpp_2m`` with one more estimate (Lu et al. 2022, appendix D).

    The first step is an Euler step and the second of second order, so the global order is 2. In runs of fewer than 15
    steps the last two steps are of second and first order. Options as in ``dpmpp_2m``; ``solver`` is that of the
    steps of second order.
    """
    return _multistep(denoise, x, sigmas, noise, _Method(3, solver, 0.0, lower_order_final, euler_at_final))


@checked(noise="eta")
def dpmpp_2m_sde(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    eta: Eta = 1.0,
    solver: Solver = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
) -> Iterator[Step]:
    """``dpmpp_2m`` on the reverse stochastic equation: Lu et al. 2022, appendix E (SDE-DPM-Solver++), with an eta.

    Args:
        eta: amount of fresh noise; 0 is the deterministic method.
        solver: "midpoint", or "heun" for the exact integral of the extrapolated line.
        lower_order_final: as in ``dpmpp_2m``.
        euler_at_final: as in ``dpmpp_2m``.
    """
    return _multistep(denoise, x, sigmas, noise, _Method(2, solver, eta, lower_order_final, euler_at_final))


@checked(noise="eta")
def dpmpp_2m_sde_heun(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    eta: Eta = 1.0,
    lower_order_final: bool = True,
    euler_at_final: bool = False,
) -> Iterator[Step]:
    """``dpmpp_2m_sde`` with ``solver="heun"``."""
    return _multistep(denoise, x, sigmas, noise, _Method(2, "heun", eta, lower_order_final, euler_at_final))


@checked(noise="eta")
def dpmpp_3m_sde(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None, eta: Eta = 1.0
) -> Iterator[Step]:
    """``dpmpp_2m_sde`` with one more estimate, as in k-diffusion."""
    return _multistep(denoise, x, sigmas, noise, _Method(3, "heun", eta))


@dataclass(frozen=True)
class _Method:
    """A member of the family."""

    order: int
    solver: Solver
    eta: float = 0.0
    lower_order_final: bool = False
    euler_at_final: bool = False

    def order_at(self, index: int, steps: int) -> int:
        """The highest order of step ``index``."""
        if self.euler_at_final and index == steps - 1:
            return 1
        return min(self.order, steps - index) if self.lower_order_final and steps < _SHORT_RUN else self.order


def _multistep(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise | None, method: _Method
) -> Iterator[Step]:
    steps = len(sigmas) - 1
    past: deque[tuple[Tensor, float]] = deque(maxlen=method.order - 1)  # newest first: estimate, its log sigma
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        x_next = x0
        if sigma_next > 0:
            width = math.log(sigma / sigma_next)
            decay = (sigma_next / sigma) ** (1 + method.eta)
            x_next = x0 + (x - x0) * decay
            older = list(past)[: method.order_at(i, steps) - 1]
            if older:
                x_next = x_next + _correction(
                    x0, older, math.log(sigma), (width, width * (1 + method.eta)), method.solver
                )
            if noise is not None and method.eta > 0:
                fresh = math.sqrt(1 - (sigma_next / sigma) ** (2 * method.eta))
                x_next = x_next + noise(x, sigma, sigma_next) * (sigma_next * fresh)
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x
        past.appendleft((x0, math.log(sigma)))


def _correction(
    x0: Tensor, past: Sequence[tuple[Tensor, float]], level: float, widths: tuple[float, float], solver: Solver
) -> Tensor:
    """What one or two earlier estimates add to the Euler step from log sigma ``level``.

    ``widths``: of the step in log sigma, and of its exponential decay, (1 + eta) times as wide.
    """
    width, decay = widths
    phi_2 = math.expm1(-decay) / decay + 1
    first, first_level = past[0]
    ratio = (first_level - level) / width
    slope = (x0 - first) / ratio
    if len(past) == 1:
        return slope * (phi_2 if solver == "heun" else -math.expm1(-decay) / 2)
    second, second_level = past[1]
    ratio_2 = (second_level - first_level) / width
    change = (slope - (first - second) / ratio_2) / (ratio + ratio_2)
    return (slope + change * ratio) * phi_2 - change * (phi_2 / decay - 0.5)
