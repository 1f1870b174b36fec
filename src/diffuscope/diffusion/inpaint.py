"""Inpainting with a network that was not trained for it: the known area is put back after every network call."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffuscope.types import Denoiser, Levels, Step


class KnownArea:
    """What a run keeps of its image; its unmasked area is put back at the noise level of the latents.

    So the network sees a whole image: Lugmayr et al. 2022, equation 8, with one noise for the whole run. Only the first
    call of a run sees what it starts from. One object is for one run.
    """

    def __init__(self, clean: Tensor, noise: Tensor, mask: Tensor, levels: Levels) -> None:
        """Take the image and its mask.

        Args:
            clean: [B,C,H,W] latents of the image.
            noise: [B,C,H,W] of unit variance.
            mask: [B,1,H,W], 1 in the area to repaint, 0 in the area to keep.
            levels: of the run.
        """
        self._clean, self._noise, self._masked, self._levels = clean, noise, mask > 0, levels
        self._is_within = False  # whether the current step has called the network

    def denoiser(self, denoise: Denoiser) -> Denoiser:
        """The Denoiser for the sampler: a call within a step, of a sampler with several, sees the image too."""

        def call(x: Tensor, sigma: float) -> Tensor:
            if self._is_within:
                x = self._put_back(x, self._clean + sigma * self._noise)
            self._is_within = True
            return denoise(x, sigma)

        return call

    def steps(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps of the sampler, with the image put back in ``step.x``."""
        for step in steps:
            # A run that ends above zero still ends in the clean latents: its end scale is undone.
            is_end = step.sigma == self._levels.sigmas[-1]
            known = self._clean / self._levels.end_scale if is_end else self._clean + step.sigma * self._noise
            step.x = self._put_back(step.x, known)
            self._is_within = False
            yield step

    def _put_back(self, x: Tensor, known: Tensor) -> Tensor:
        return torch.where(self._masked, x, known)
