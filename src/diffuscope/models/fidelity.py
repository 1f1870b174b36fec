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
    """Largest distance of any decoder activation from the mean of its layer and picture, in standard deviations."""


def is_measured(name: str) -> bool:
    """Whether a tap name is that of what one of the decoder's residual blocks or upsamplings hands on."""
    return ".decoder." in name and (".res." in name or ".grow." in name)


class Extremes:
    """A tap that finds the largest decoder activation, in standard deviations of its picture's layer.

    A layer is what one of the decoder's residual blocks or upsamplings hands on; mean and standard deviation are over
    its channels and places, for each picture by itself, so the result does not depend on how pictures are batched.
    """

    def __init__(self) -> None:
        self._found: list[Tensor] = []

    def wants(self, name: str) -> bool:
        """What the decoder's blocks and upsamplings hand on."""
        return is_measured(name)

    def __call__(self, name: str, value: Tensor) -> Tensor:  # noqa: ARG002
        """The value, unchanged."""
        plain = value.detach().float()
        std, mean = torch.std_mean(plain, dim=(1, 2, 3), keepdim=True)
        self._found.append(((plain - mean).abs() / (std + 1e-6)).amax())
        return value

    @property
    def largest(self) -> float:
        """The largest seen so far."""
        return torch.stack(self._found).max().item() if self._found else 0.0


@torch.no_grad()
def fidelity(vae: VAE, pixels: Tensor, chunk: int = 64) -> Fidelity:
    """How well ``vae`` gives back ``pixels`` [N,3,H,W] in [-1,1] from their mean latents; outputs are clamped to it."""
    extremes, errors = Extremes(), []
    for part in pixels.split(chunk):
        latents = vae.encode(part.to(vae.quant.weight)).mean
        output = vae.decode(latents, tap=extremes).float().clamp(-1, 1)
        errors.append(((output - part) / 2).square().mean((1, 2, 3)))
    return Fidelity(-10 * torch.cat(errors).clamp_min(1e-10).log10(), extremes.largest)
