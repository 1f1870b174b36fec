"""Noise that belongs to its image: one seed, one generator, one order of draws; or one path."""

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from diffuscope.errors import InputError

_FINEST = 1e-6
"""Noise levels nearer than this are not told apart on a Brownian path."""


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
        _check(seeds)
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


class BrownianNoise:
    """Noise along one Brownian path per image: a ``Noise`` whose draws belong together.

    The path W lives on noise levels 0 to ``high``, and the noise between two levels is its difference divided by the
    root of their distance. So a seed's path is the same whatever the number of steps, and what a sampler sees in the
    middle of a step agrees with what it sees at the end. The path is a virtual tree (Li et al. 2020): each interval's
    middle is drawn, in float32 on the CPU, from a generator of its own that the seed and the place in the tree make,
    so nothing is stored and the order of the calls does not matter. Independent of ``PerImageNoise`` of equal seeds.
    """

    def __init__(self, seeds: Sequence[int], high: float) -> None:
        """A path per image up to level ``high``; the model's highest makes it independent of the run.

        Raises:
            InputError: no seed, one outside 0 to 2^64 - 1, or ``high`` is no finite number above 0.
        """
        _check(seeds)
        if not (math.isfinite(high) and high > 0):
            raise InputError(f"the path's highest level {high} is not a finite number above 0")
        self._seeds = tuple(seeds)
        self._high = high
        self._depth = max(1, math.ceil(math.log2(high / _FINEST)))
        self._known: deque[tuple[float, Tensor]] = deque(maxlen=3)  # the last values of W: a step asks again for them

    def __call__(self, like: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """Unit-variance noise [B,C,H,W] between two levels, with the dtype and on the device of ``like``.

        Raises:
            InputError: ``like`` holds another number of images than there are seeds, the levels are equal, or one is
                outside the path.
        """
        if len(like) != len(self._seeds):
            raise InputError(f"batch of {len(like)} images but {len(self._seeds)} seeds: give one seed per image")
        if sigma == sigma_next or not all(0 <= level <= self._high for level in (sigma, sigma_next)):
            raise InputError(f"noise from {sigma:g} to {sigma_next:g}: give two levels from 0 to {self._high:g}")
        shape = like.shape[1:]
        difference = self._path(shape, sigma_next) - self._path(shape, sigma)
        return (difference / math.sqrt(abs(sigma_next - sigma))).to(like)

    def _path(self, shape: Sequence[int], sigma: float) -> Tensor:
        """W at a level [B,C,H,W], float64: 0 at level 0."""
        for level, value in self._known:
            if level == sigma and value.shape[1:] == shape:
                return value
        low, high, node = 0.0, self._high, 1
        end = self._draw(shape, 0) * math.sqrt(high)
        start = torch.zeros_like(end)
        for _ in range(self._depth):
            middle = (low + high) / 2
            bridge = (start + end) / 2 + self._draw(shape, node) * (math.sqrt(high - low) / 2)
            if sigma < middle:
                high, end, node = middle, bridge, 2 * node
            else:
                low, start, node = middle, bridge, 2 * node + 1
        value = start + (end - start) * ((sigma - low) / (high - low))
        self._known.append((sigma, value))
        return value

    def _draw(self, shape: Sequence[int], node: int) -> Tensor:
        generators = [torch.Generator("cpu").manual_seed(_mixed(seed, node)) for seed in self._seeds]
        return torch.stack([torch.randn(*shape, generator=each, dtype=torch.float32) for each in generators]).double()


def _check(seeds: Sequence[int]) -> None:
    if not seeds:
        raise InputError("no seeds: give one per image")
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**64]:
        raise InputError(f"seed {wrong[0]} is outside 0 to 2^64 - 1")


def _mixed(seed: int, node: int) -> int:
    """64 bits that look random, from a seed and a place: Steele et al. 2014 (SplitMix)."""
    bits = (seed + (node + 1) * 0x9E3779B97F4A7C15) % 2**64
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
    return bits ^ (bits >> 31)
