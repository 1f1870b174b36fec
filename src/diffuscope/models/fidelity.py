"""How faithfully an autoencoder gives pictures back: defined here once, for training and for scores."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffuscope.models.vae import VAE


@dataclass(frozen=True)
class Fidelity:
    """What ``fidelity`` measures."""

    psnr: Tensor
    """[N] peak signal-to-noise ratio of each picture in dB, pixels in [0,1], at most 100."""
    largest_activation: float
    """Largest distance of any decoder activation from its layer's mean, in the layer's standard deviations."""


class Extremes:
    """A tap that finds the largest decoder activation, in standard deviations of its layer over all pictures seen.

    A "layer" is one tap name; mean and standard deviation are those of all values under that name. So the result does
    not depend on how pictures are batched. Attention weights are no activations and are left out.
    """

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._sums: dict[str, Tensor] = {}  # name -> sum, sum of squares, largest, smallest negated
        self._largest: dict[str, Tensor] = {}

    def wants(self, name: str) -> bool:
        """Everything the decoder makes but attention weights."""
        return "decoder" in name and not name.endswith("weights")

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The value, unchanged."""
        exact = value.detach().double()
        sums = torch.stack([exact.sum(), exact.square().sum()])
        ends = torch.stack([exact.max(), -exact.min()])
        if name in self._count:
            sums = sums + self._sums[name]
            ends = torch.maximum(ends, self._largest[name])
        self._count[name] = self._count.get(name, 0) + value.numel()
        self._sums[name], self._largest[name] = sums, ends
        return value

    def by_layer(self) -> dict[str, float]:
        """Name -> its largest distance from its mean, in its standard deviations."""
        found = {}
        for name, count in self._count.items():
            total, squares = (self._sums[name] / count).tolist()
            high, low = self._largest[name].tolist()
            std = max(squares - total**2, 1e-24) ** 0.5
            found[name] = max(high - total, low + total) / std
        return found

    @property
    def largest(self) -> float:
        """The largest of ``by_layer``."""
        return max(self.by_layer().values(), default=0.0)


@torch.no_grad()
def fidelity(vae: VAE, pixels: Tensor, chunk: int = 64) -> Fidelity:
    """How well ``vae`` gives back ``pixels`` [N,3,H,W] in [-1,1] from their mean latents; outputs are clamped to it."""
    extremes, errors = Extremes(), []
    for part in pixels.split(chunk):
        latents = vae.encode(part.to(vae.quant.weight)).mean
        output = vae.decode(latents, tap=extremes).float().clamp(-1, 1)
        errors.append(((output - part) / 2).square().mean((1, 2, 3)))
    return Fidelity(-10 * torch.cat(errors).clamp_min(1e-10).log10(), extremes.largest)
