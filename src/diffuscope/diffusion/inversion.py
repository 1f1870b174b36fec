"""From a picture back to its noise: the sampler's equation, run upwards."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.types import Denoiser, Step


def ddim_inversion(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, refine: int = 0) -> Iterator[Step]:
    """DDIM (Song et al. 2021, section 4.3) from clean latents up to noise.

    Each step goes up by the noise predicted where it starts; so the way down comes back up to a first-order error.
    With ``refine`` the step is solved for the point from which DDIM itself comes down to where it started, by fixed
    points (Pan et al. 2023): each costs a call, and enough of them invert exactly.

    Args:
        denoise: estimates clean latents; called ``1 + refine`` times a step.
        x: [B,C,H,W] latents at noise level ``sigmas[-1]``, clean where that is 0. Not modified.
        sigmas: strictly decreasing, as the sampler has them; they are gone through from the last to the first.
        refine: fixed-point iterations a step.

    Yields:
        One Step per interval, whose ``sigma`` rises; the last one's ``x`` is at noise level ``sigmas[0]``.

    Raises:
        InputError: fewer than two levels, levels that do not fall, or ``refine`` below 0.
    """
    check_inversion(sigmas, refine)
    return _inversion(denoise, x, sigmas, refine)


def check_inversion(sigmas: Sequence[float], refine: int) -> None:
    """Refuse what cannot be inverted along.

    Raises:
        InputError: fewer than two levels, levels that do not fall, or ``refine`` below 0.
    """
    if len(sigmas) < 2 or sigmas[-1] < 0 or any(high <= low for high, low in pairwise(sigmas)):
        raise InputError(f"noise levels {list(sigmas)}: give at least two, strictly decreasing to at least 0")
    if refine < 0:
        raise InputError(f"refine is {refine}; give 0 or a number of fixed-point iterations")


def _inversion(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], refine: int) -> Iterator[Step]:
    for i, (sigma, above) in enumerate(pairwise(reversed(sigmas))):
        known = sigma if sigma > 0 else above  # clean latents show no noise: they are asked at the first level
        x0 = denoise(x, known)
        noise = (x - x0) / known
        higher = x + (above - sigma) * noise
        for _ in range(refine):
            x0 = denoise(higher, above)
            higher = x + (above - sigma) * (higher - x0) / above
        step = Step(i, above, higher, x0)
        yield step
        x = step.x
