"""Inpainting with a network that knows no masks: what is to stay is put back after every step."""

from collections.abc import Iterator

from torch import Tensor

from diffuscope.types import Levels, Step


def blend_known(steps: Iterator[Step], clean: Tensor, noise: Tensor, mask: Tensor, levels: Levels) -> Iterator[Step]:
    """The steps of a run in which every place that is not masked comes out as it was.

    After each step those places get the picture's latents at the noise level that was reached, so that the network
    sees a whole picture: Lugmayr et al. 2022, equation 8, with one noise for the whole run.

    Args:
        steps: a sampler's.
        clean: [B,C,H,W] the picture's latents.
        noise: [B,C,H,W] of unit variance.
        mask: [B,1,H,W], 1 where the picture is made anew, 0 where it stays.
        levels: those of the run.
    """
    for step in steps:
        # A run that ends above zero ends in the clean latents all the same: its own end scale is undone.
        is_end = step.sigma == levels.sigmas[-1]
        known = clean / levels.end_scale if is_end else clean + step.sigma * noise
        step.x = known + mask * (step.x - known)
        yield step
