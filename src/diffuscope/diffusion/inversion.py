"""DDIM inversion: from an image back to its noise."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.types import Denoiser, Step


def ddim_inversion(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, refine: int = 0) -> Iterator[Step]:
    """DDIM (Song et al. 2021, section 4.3) from clean latents up to noise.

    Each step uses the noise predicted at its start, so DDIM returns to the start up to a first-order error. With
    ``refine``, fixed-point iterations solve for the point from which DDIM comes back exactly (Pan et al. 2023).

    Args:
        denoise: estimates clean latents; called ``1 + refine`` times per step.
        x: [B,C,H,W] latents at noise level ``sigmas[-1]``, clean if that is 0. Not modified.
        sigmas: strictly decreasing, as for a sampler; visited from the last to the first.
        refine: fixed-point iterations per step, one call each.

    Yields:
        One Step per interval, with increasing ``sigma``; the last ``x`` is at noise level ``sigmas[0]``.

    Raises:
        InputError: fewer than two levels, levels that do not decrease, or ``refine`` below 0. At the call.
    """
    check_inversion(sigmas, refine)

    def steps(x: Tensor) -> Iterator[Step]:
        for i, (sigma, sigma_next) in enumerate(pairwise(reversed(sigmas))):
            seen = sigma if sigma > 0 else sigma_next  # there is no noise to predict in clean latents
            x0 = denoise(x, seen)
            x_next = x + (sigma_next - sigma) * ((x - x0) / seen)
            for _ in range(refine):
                x0 = denoise(x_next, sigma_next)
                x_next = x + (sigma_next - sigma) * (x_next - x0) / sigma_next
            step = Step(i, sigma_next, x_next, x0)
            yield step
            x = step.x

    return steps(x)


def check_inversion(sigmas: Sequence[float], refine: int) -> None:
    """Refuse levels or a number of iterations that ``ddim_inversion`` refuses."""
    if len(sigmas) < 2 or sigmas[-1] < 0 or any(high <= low for high, low in pairwise(sigmas)):
        raise InputError("sigmas", list(sigmas), "at least two noise levels, strictly decreasing to at least 0")
    if refine < 0:
        raise InputError("refine", refine, "a whole number of at least 0")
