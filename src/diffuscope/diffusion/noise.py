"""Noise that belongs to its image: one seed, one generator, one order of draws."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffuscope.errors import InputError


class PerImageNoise:
    """One CPU generator per image, so that image i depends neither on its batch mates nor on the device.

    Numbers are drawn in float32 and in the order of the calls, the same count for each image. It is a ``Noise``:
    samplers call it; ``draw`` serves what comes before (the encoder's sample, the start noise).
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        """Seed one generator per image.

        Raises:
            InputError: no seed, or one outside 0 to 2^64 - 1.
        """
        if not seeds:
            raise InputError("no seeds: give one per image")
        if wrong := [seed for seed in seeds if not 0 <= seed < 2**64]:
            raise InputError(f"seed {wrong[0]} is outside 0 to 2^64 - 1")
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def draw(self, shape: Sequence[int]) -> Tensor:
        """The next unit-variance noise of all images, stacked; float32 on the CPU. ``shape`` is that of one image."""
        return torch.stack([torch.randn(*shape, generator=each, dtype=torch.float32) for each in self._generators])

    def __call__(self, like: Tensor, sigma: float, sigma_next: float) -> Tensor:  # noqa: ARG002
        """The next noise [B,C,H,W] with the dtype and on the device of ``like``; the noise levels do not matter.

        Raises:
            InputError: ``like`` holds another number of images than there are seeds.
        """
        if len(like) != len(self._generators):
            raise InputError(f"batch of {len(like)} images but {len(self._generators)} seeds: give one seed per image")
        return self.draw(like.shape[1:]).to(like)
