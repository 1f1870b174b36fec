"""Noise that depends on its image's seed alone: drawn afresh, or along a Brownian path."""

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.types import sent

_FINEST = 1e-6
"""Resolution of a Brownian path in noise levels."""


class PerImageNoise:
    """A ``Noise`` with one CPU generator per image, so that image i depends neither on the batch nor on the device.

    Numbers are drawn in float32, in the order of the calls, equally many for each image. ``draw`` is for noise before
    the first step: the encoder's sample and the start noise.
    """

    def __init__(self, seeds: Sequence[int | torch.Generator]) -> None:
        """Seed one generator per image, or take it. One that is given for several images draws for all at once.

        Raises:
            InputError: no seed, or one outside 0 to 2^64 - 1.
        """
        _check_seeds(seeds)
        self._generators = [
            seed if isinstance(seed, torch.Generator) else torch.Generator("cpu").manual_seed(seed) for seed in seeds
        ]

    def draw(self, shape: Sequence[int]) -> Tensor:
        """The next unit-variance noise of all images, float32 on the CPU. ``shape`` is that of one image."""
        first, count = self._generators[0], len(self._generators)
        if count > 1 and all(generator is first for generator in self._generators):
            return _normal((count, *shape), first)
        return torch.stack([_normal(shape, generator) for generator in self._generators])

    def __call__(self, like: Tensor, sigma: float, sigma_next: float) -> Tensor:  # noqa: ARG002
        """The next noise [B,C,H,W] in the dtype and on the device of ``like``, whatever the noise levels.

        Raises:
            InputError: the batch of ``like`` is not one image per seed.
        """
        _check_batch(like, len(self._generators))
        return sent(self.draw(like.shape[1:]).to(like.dtype), like.device)


class BrownianNoise:
    """A ``Noise`` along one Brownian path per image, for stochastic samplers.

    The path W covers noise levels 0 to ``high``; the noise between two levels is its difference, divided by the root
    of their distance. So a seed's path does not depend on the number of steps, and the noise in the middle of a step is
    consistent with that at its end. The path is a virtual tree (Li et al. 2020): each interval's midpoint is drawn, in
    float32 on the CPU, from a generator seeded by the image's seed and the node, so nothing is stored and the order of
    the calls does not matter. It is independent of ``PerImageNoise`` with equal seeds.
    """

    def __init__(self, seeds: Sequence[int], high: float) -> None:
        """A path per image up to level ``high``; with the model's highest level it is the same in every run.

        Raises:
            InputError: no seed, one outside 0 to 2^64 - 1, or ``high`` is not a finite number above 0.
        """
        _check_seeds(seeds)
        if not (math.isfinite(high) and high > 0):
            raise InputError("high", high, "a finite noise level above 0")
        self._seeds = tuple(seeds)
        self._high = high
        self._depth = max(1, math.ceil(math.log2(high / _FINEST)))
        self._recent: deque[tuple[float, Tensor]] = deque(maxlen=3)  # the last values of W: a step asks for them again

    def __call__(self, like: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """Unit-variance noise [B,C,H,W] between two levels, in the dtype and on the device of ``like``.

        Raises:
            InputError: the batch of ``like`` is not one image per seed, or the levels are equal or outside the path.
        """
        _check_batch(like, len(self._seeds))
        if sigma == sigma_next or not all(0 <= level <= self._high for level in (sigma, sigma_next)):
            raise InputError("sigma_next", sigma_next, f"another noise level than {sigma:g}, both 0 to {self._high:g}")
        shape = like.shape[1:]
        difference = self._path(shape, sigma_next) - self._path(shape, sigma)
        return sent((difference / math.sqrt(abs(sigma_next - sigma))).to(like.dtype), like.device)

    def _path(self, shape: Sequence[int], sigma: float) -> Tensor:
        """W at a level [B,C,H,W], float64: 0 at level 0."""
        for level, value in self._recent:
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
        self._recent.append((sigma, value))
        return value

    def _draw(self, shape: Sequence[int], node: int) -> Tensor:
        generators = [torch.Generator("cpu").manual_seed(_hashed(seed, node)) for seed in self._seeds]
        return torch.stack([torch.randn(*shape, generator=gen, dtype=torch.float32) for gen in generators]).double()


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float32, device=generator.device).cpu()


def _check_seeds(seeds: Sequence[int | torch.Generator]) -> None:
    if not seeds or not all(isinstance(seed, torch.Generator) or 0 <= seed < 2**64 for seed in seeds):
        raise InputError("seeds", list(seeds), "one seed per image, from 0 to 2^64 - 1")


def _check_batch(like: Tensor, seeds: int) -> None:
    if len(like) != seeds:
        raise InputError("like", like, f"a batch of {seeds}, one image per seed")


def _hashed(seed: int, node: int) -> int:
    """64 pseudo-random bits of a seed and a node: Steele et al. 2014 (SplitMix)."""
    bits = (seed + (node + 1) * 0x9E3779B97F4A7C15) % 2**64
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
    return bits ^ (bits >> 31)
