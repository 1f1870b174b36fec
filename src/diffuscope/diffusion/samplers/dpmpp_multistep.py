"""DPM-Solver++, multistep: second and third order, deterministic and stochastic. One solver, five names."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor

from diffuscope.diffusion.samplers.checks import check_choice, check_eta, check_noise
from diffuscope.types import Denoiser, Noise, Step

Solver = Literal["midpoint", "heun"]
"""How the second order weighs its difference: as the midpoint rule does, or as the exact integral of a line."""

_SHORT_RUN = 15


@dataclass(frozen=True)
class _Kind:
    """What tells the members of the family apart."""

    order: int
    solver: Solver
    eta: float = 0.0
    careful: bool = False
    """Whether a run of fewer than 15 steps lowers the order of its last steps."""

    def order_at(self, index: int, steps: int) -> int:
        """The highest order of step ``index``."""
        return min(self.order, steps - index) if self.careful and steps < _SHORT_RUN else self.order


def dpmpp_2m(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    solver: Solver = "midpoint",
) -> Iterator[Step]:
    """Second-order multistep solver in log sigma: Lu et al. 2022 (DPM-Solver++), Algorithm 2.

    In ``x = x0 + sigma * noise`` it is Euler's step towards an estimate extrapolated from this one and the last. The
    first step is Euler's; so is the last one where it goes to level 0, or where there are fewer than 15 steps, which
    the reference found to be more stable.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: not used.
        solver: "midpoint", or "heun" for the exact integral of the extrapolated line.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: no such ``solver``. At the call, before any step.
    """
    check_choice("solver", solver, get_args(Solver))
    return _multistep(denoise, x, sigmas, noise, _Kind(2, solver, careful=True))


def dpmpp_3m(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None) -> Iterator[Step]:
    """Third-order multistep solver in log sigma: ``dpmpp_2m`` with one estimate more (Lu et al. 2022, appendix D).

    The first step is Euler's and the second one of second order, so the global order is 2. In runs of fewer than 15
    steps the last two steps are of second and first order.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: not used.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.
    """
    return _multistep(denoise, x, sigmas, noise, _Kind(3, "midpoint", careful=True))


def dpmpp_2m_sde(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    eta: float = 1.0,
    solver: Solver = "midpoint",
) -> Iterator[Step]:
    """``dpmpp_2m`` on the reverse stochastic equation: Lu et al. 2022, appendix E (SDE-DPM-Solver++), with an eta.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: drawn once per step to a level above 0. Needed unless ``eta`` is 0.
        eta: how much noise is fresh. 0 is the deterministic solver, 1 the reverse equation itself.
        solver: "midpoint", or "heun" for the exact integral of the extrapolated line.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: no ``noise``, no such ``solver``, or an impossible ``eta``. At the call, before any step.
    """
    check_eta(eta)
    check_noise(noise, eta, "eta")
    check_choice("solver", solver, get_args(Solver))
    return _multistep(denoise, x, sigmas, noise, _Kind(2, solver, eta))


def dpmpp_2m_sde_heun(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None, eta: float = 1.0
) -> Iterator[Step]:
    """``dpmpp_2m_sde`` with ``solver="heun"``."""
    return dpmpp_2m_sde(denoise, x, sigmas, noise=noise, eta=eta, solver="heun")


def dpmpp_3m_sde(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None, eta: float = 1.0
) -> Iterator[Step]:
    """``dpmpp_2m_sde`` with one estimate more, as k-diffusion has it.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: drawn once per step to a level above 0. Needed unless ``eta`` is 0.
        eta: how much noise is fresh. 0 is the deterministic solver, 1 the reverse equation itself.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: no ``noise``, or an impossible ``eta``. At the call, before any step.
    """
    check_eta(eta)
    check_noise(noise, eta, "eta")
    return _multistep(denoise, x, sigmas, noise, _Kind(3, "heun", eta))


def _multistep(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise | None, kind: _Kind
) -> Iterator[Step]:
    steps = len(sigmas) - 1
    past: deque[tuple[Tensor, float]] = deque(maxlen=kind.order - 1)  # newest first: estimate, its log sigma
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        x_next = x0
        if sigma_next > 0:
            width = math.log(sigma / sigma_next)
            kept = (sigma_next / sigma) ** (1 + kind.eta)
            x_next = x0 + (x - x0) * kept
            known = list(past)[: kind.order_at(i, steps) - 1]
            if known:
                x_next = x_next + _correction(x0, known, math.log(sigma), (width, width * (1 + kind.eta)), kind.solver)
            if noise is not None and kind.eta > 0:
                fresh = math.sqrt(1 - (sigma_next / sigma) ** (2 * kind.eta))
                x_next = x_next + noise(x, sigma, sigma_next) * (sigma_next * fresh)
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x
        past.appendleft((x0, math.log(sigma)))


def _correction(
    x0: Tensor, past: Sequence[tuple[Tensor, float]], level: float, widths: tuple[float, float], solver: Solver
) -> Tensor:
    """What one or two earlier estimates add to Euler's step from log sigma ``level``.

    ``widths`` are those of the step in log sigma and of its exponential decay, (1 + eta) times as wide.
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
