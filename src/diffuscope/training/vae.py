"""Training the autoencoder: reconstruct pictures through a few numbers, and keep those numbers tame."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffuscope.models.efficientnet import EfficientNet
from diffuscope.models.fidelity import fidelity, is_measured
from diffuscope.models.vae import VAE
from diffuscope.training.loop import Draw

Pictures = Callable[[Draw], Tensor]
"""A fresh batch of pictures [B,3,H,W] in [-1,1], decided by the draw's seed."""


SPIKE = 10.0
"""Standard deviations from a picture's mean, in one layer, beyond which an activation counts as a spike."""


@dataclass(frozen=True, kw_only=True)
class VAELoss:
    """Weights of the parts of the loss, each a mean over elements; pixels are in [-1, 1]."""

    absolute: float = 1.0
    square: float = 5.0
    kl: float = 5e-4
    spikes: float = 0.0  # decoder activations beyond ``SPIKE`` standard deviations: squared excess, a picture's sum
    features: float = 0.05
    features_from: float = 0.7  # part of the run after which feature distances count


class Relative(nn.Module):
    """Distance of two pictures in the feature maps of a pretrained network (Zhang et al. 2018, without learned heads).

    Each map is scaled to unit length along its channels; the result is the mean squared distance, summed over maps.
    """

    def __init__(self, feature_net: EfficientNet) -> None:
        super().__init__()
        self.feature_net = feature_net.requires_grad_(False).eval()

    def forward(self, pixels: Tensor, target: Tensor) -> Tensor:
        """One number for two batches [B,3,H,W] in [-1,1]."""
        ours = self.feature_net.features(pixels / 2 + 0.5).stages
        with torch.no_grad():
            theirs = self.feature_net.features(target / 2 + 0.5).stages
        distances = [
            (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean()
            for a, b in zip(ours, theirs, strict=True)
        ]
        return torch.stack(distances).sum()


class VAETask:
    """The task of ``loop.train`` for the autoencoder.

    Args:
        vae: what is trained, on its device.
        pictures: where batches come from.
        held_out: [N,3,H,W] pictures in [-1,1] never trained on.
        loss: weights of the parts.
        feature_net: network whose features are compared; None leaves that part out.
        compiled: whether encoder and decoder are compiled.
    """

    edges: tuple[str, ...] = (
        "encoder.conv_in",
        "encoder.conv_out",
        "decoder.conv_in",
        "decoder.conv_out",
        "quant_conv",
        "post_quant_conv",
    )

    def __init__(
        self,
        vae: VAE,
        pictures: Pictures,
        held_out: Tensor,
        loss: VAELoss,
        feature_net: EfficientNet | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        self.network: nn.Module = vae
        self.pictures, self.held_out, self.weights = pictures, held_out, loss
        self.relative = None if feature_net is None else Relative(feature_net)
        self.autoencode = torch.compile(_autoencode) if compiled else _autoencode

    def loss(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction, divergence from a unit Gaussian and, late in the run, distance in features."""
        weights = self.weights
        pixels = self.pictures(draw)
        noise = torch.randn(self.latents_shape(pixels), device=pixels.device, generator=draw.generator)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
            output, mean, std, spikes = self.autoencode(self.network, pixels, noise, bool(weights.spikes))
        difference = output.float() - pixels
        absolute, square = difference.abs().mean(), difference.square().mean()
        variance = std.float().square()
        kl = 0.5 * (mean.float().square() + variance - 1 - variance.log()).mean()
        loss = weights.absolute * absolute + weights.square * square + weights.kl * kl + weights.spikes * spikes
        numbers = {"spikes": spikes, "absolute": absolute, "square": square, "kl": kl, "std": std.float().mean()}
        if self.relative is not None and weights.features and draw.progress >= weights.features_from:
            with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
                features = self.relative(output, pixels)
            loss = loss + weights.features * features
            numbers["features"] = features
        return loss, {name: value.detach() for name, value in numbers.items()}

    def latents_shape(self, pixels: Tensor) -> tuple[int, int, int, int]:
        """Shape of the latents of a batch of pictures."""
        assert isinstance(self.network, VAE)
        config, (batch, _, height, width) = self.network.config, pixels.shape
        return batch, config.latent_channels, height // config.factor, width // config.factor

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """PSNR in dB (mean over pictures, and of the mean error) and the largest decoder activation in its stds."""
        assert isinstance(network, VAE)
        found = fidelity(network, self.held_out)
        return {
            "psnr": found.psnr.mean().item(),
            "psnr_of_mean": (-10 * (10 ** (-found.psnr / 10)).mean().log10()).item(),
            "largest_activation": found.largest_activation,
        }


def _autoencode(
    network: nn.Module, pixels: Tensor, noise: Tensor, watched: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert isinstance(network, VAE)
    latents = network.encode(pixels)
    spikes = Spikes() if watched else None
    output = network.decode(latents.sample(noise), tap=spikes)
    return (
        output,
        latents.mean,
        latents.std,
        torch.zeros((), device=pixels.device) if spikes is None else spikes.total(),
    )


@torch.no_grad()
def standardise(vae: VAE, mean: Tensor, std: Tensor) -> None:
    """Make the latents' channels centred and of unit variance, by changing the 1x1 convolutions around them in place.

    The autoencoder's pictures stay the same up to rounding, and no constant is left for a pipeline to forget.

    Args:
        vae: with ``config.scale`` 1.
        mean: [C] of the latents as they are.
        std: [] or [C].
    """
    channels = vae.config.latent_channels
    mean, std = mean.to(vae.quant_conv.weight), std.to(vae.quant_conv.weight).expand(channels)
    assert vae.quant_conv.bias is not None
    assert vae.post_quant_conv.bias is not None
    # z = std z' + mean goes into the decoder, so the bias takes W mean and the columns take std.
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight *= std[None, :, None, None]
    vae.quant_conv.bias[:channels] = (vae.quant_conv.bias[:channels] - mean) / std
    vae.quant_conv.weight[:channels] /= std[:, None, None, None]
    vae.quant_conv.bias[channels:] -= 2 * std.log()


class Spikes:
    """A tap that measures how far decoder activations lie from their picture's mean, in standard deviations.

    A decoder that writes one huge value somewhere steers its group norms with it, and paints a bright droplet there.
    """

    def __init__(self) -> None:
        self.excess: list[Tensor] = []

    def wants(self, name: str) -> bool:
        """What ``fidelity`` measures too."""
        return is_measured(name)

    def __call__(self, name: str, value: Tensor) -> Tensor:  # noqa: ARG002
        """The value, unchanged."""
        plain = value.float()
        std, mean = torch.std_mean(plain.detach(), dim=(1, 2, 3), keepdim=True)
        distance = (plain - mean).abs() / (std + 1e-6)
        self.excess.append((distance - SPIKE).clamp(min=0).square().sum() / len(value))
        return value

    def total(self) -> Tensor:
        """Squared excess over ``SPIKE``, summed over activations and layers, mean over pictures."""
        return torch.stack(self.excess).sum()
