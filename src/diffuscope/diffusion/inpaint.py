"""Inpainting with a network that was not trained for it: the known area is put back after every step."""

from collections.abc import Iterator

from torch import Tensor

from diffuscope.types import Levels, Step


def blend_known(steps: Iterator[Step], clean: Tensor, noise: Tensor, mask: Tensor, levels: Levels) -> Iterator[Step]:
    """The steps of a sampler, with the unmasked area replaced by the image at the same noise level.

    So the network always sees a whole image: Lugmayr et al. 2022, equation 8, with one noise for the whole run.

    Args:
        steps: of a sampler.
        clean: [B,C,H,W] latents of the image.
        noise: [B,C,H,W] of unit variance.
        mask: [B,1,H,W], 1 in the area to repaint, 0 in the area to keep.
        levels: of the run.
    """
    for step in steps:
        # A run that ends above zero still ends in the clean latents: its end scale is undone.
        is_end = step.sigma == levels.sigmas[-1]
        known = clean / levels.end_scale if is_end else clean + step.sigma * noise
        step.x = known + mask * (step.x - known)
        yield step
