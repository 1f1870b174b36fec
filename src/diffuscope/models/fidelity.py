"""How faithfully an autoencoder reconstructs images: one definition for training and evaluation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffuscope.models.vae import VAE


@dataclass(frozen=True)
class Fidelity:
    """The result of ``fidelity``."""

    psnr: Tensor
    """[N] peak signal-to-noise ratio of each image in dB, pixels in [0,1], at most 100."""
    largest_activation: float
    """Largest distance of any decoder activation from the mean of its layer and image, in standard deviations."""


def is_measured(name: str) -> bool:
    """Whether a tap name is the output of a residual block or upsampling in the decoder."""
    return ".decoder." in name and (".resnet." in name or name.endswith(".upsample"))


class Extremes:
    """A tap that finds the largest decoder activation, in standard deviations of its layer and image.

    A layer is the output of a residual block or upsampling in the decoder; mean and standard deviation are over its
    channels and pixels, image by image, so the result does not depend on the batch.
    """

    def __init__(self) -> None:
        self._extremes: list[Tensor] = []

    def wants(self, name: str) -> bool:
        """The outputs of the decoder's residual blocks and upsamplings."""
        return is_measured(name)

    def __call__(self, name: str, value: Tensor) -> Tensor:  # noqa: ARG002
        """The value, unchanged."""
        plain = value.detach().float()
        std, mean = torch.std_mean(plain, dim=(1, 2, 3), keepdim=True)
        self._extremes.append(((plain - mean).abs() / (std + 1e-6)).amax())
        return value

    @property
    def largest(self) -> float:
        """The largest seen so far."""
        return torch.stack(self._extremes).max().item() if self._extremes else 0.0


@torch.no_grad()
def fidelity(vae: VAE, pixels: Tensor, chunk: int = 64) -> Fidelity:
    """How well ``vae`` reconstructs ``pixels`` [N,3,H,W] in [-1,1] from their mean latents, outputs clamped."""
    extremes, errors = Extremes(), []
    for part in pixels.split(chunk):
        latents = vae.encode(part.to(vae.quant_conv.weight)).mean
        output = vae.decode(latents, tap=extremes).float().clamp(-1, 1)
        errors.append(((output - part) / 2).square().mean((1, 2, 3)))
    return Fidelity(-10 * torch.cat(errors).clamp_min(1e-10).log10(), extremes.largest)
