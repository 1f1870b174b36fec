"""Training of the autoencoder: reconstruction, KL and perceptual losses, and a penalty on activation spikes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffuscope.models.fidelity import fidelity, is_measured
from diffuscope.models.vae import VAE
from diffuscope.training.loop import StepContext
from diffuscope.vision.efficientnet import EfficientNet

Batches = Callable[[StepContext], Tensor]
"""Makes a batch of images [B,3,H,W] in [-1,1] from the seed of a step."""

SPIKE = 10.0
"""Standard deviations from the mean of layer and image beyond which an activation counts as a spike."""


@dataclass(frozen=True, kw_only=True)
class VAELoss:
    """Weights of the parts of the loss, each a mean over elements; pixels are in [-1, 1]."""

    l1: float = 1.0
    l2: float = 5.0
    kl: float = 5e-4
    spikes: float = 0.0  # squared excess of decoder activations beyond ``SPIKE``, summed over an image
    perceptual: float = 0.05
    perceptual_from: float = 0.7  # part of the run after which the perceptual loss is added


class PerceptualDistance(nn.Module):
    """Distance of two images in feature maps: LPIPS without learned weights (Zhang et al. 2018).

    Maps are normalised to unit length along their channels; the result is the mean squared distance, summed over maps.
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
        vae: the network, on its device.
        batches: makes the batches.
        held_out: [N,3,H,W] held-out images in [-1,1].
        loss: weights of the parts.
        feature_net: for the perceptual loss; None leaves it out.
        compiled: compile encoder and decoder.
    """

    adamw_prefixes: tuple[str, ...] = (
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
        batches: Batches,
        held_out: Tensor,
        loss: VAELoss,
        feature_net: EfficientNet | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        self.network: nn.Module = vae
        self.batches, self.held_out, self.weights = batches, held_out, loss
        self.perceptual = None if feature_net is None else PerceptualDistance(feature_net)
        self.autoencode = torch.compile(_autoencode) if compiled else _autoencode

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction and KL losses, the penalty on spikes and, from ``perceptual_from`` on, the perceptual loss."""
        weights = self.weights
        pixels = self.batches(context)
        count, *shape = self.latents_shape(pixels)
        draws = torch.randn((context.whole(count), *shape), device=pixels.device, generator=context.shared)
        noise = context.own(draws)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
            output, mean, std, spikes = self.autoencode(self.network, pixels, noise, bool(weights.spikes))
        difference = output.float() - pixels
        l1, l2 = difference.abs().mean(), difference.square().mean()
        variance = std.float().square()
        kl = 0.5 * (mean.float().square() + variance - 1 - variance.log()).mean()
        loss = weights.l1 * l1 + weights.l2 * l2 + weights.kl * kl + weights.spikes * spikes
        numbers = {"spikes": spikes, "l1": l1, "l2": l2, "kl": kl, "std": std.float().mean()}
        if self.perceptual is not None and weights.perceptual and context.progress >= weights.perceptual_from:
            with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
                perceptual = self.perceptual(output, pixels)
            loss = loss + weights.perceptual * perceptual
            numbers["perceptual"] = perceptual
        return loss, {name: value.detach() for name, value in numbers.items()}

    def latents_shape(self, pixels: Tensor) -> tuple[int, int, int, int]:
        """Shape of the latents of a batch of images."""
        assert isinstance(self.network, VAE)
        config, (batch, _, height, width) = self.network.config, pixels.shape
        return batch, config.latent_channels, height // config.factor, width // config.factor

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """PSNR in dB (mean over images, and of the mean error), and the largest decoder activation."""
        assert isinstance(network, VAE)
        measured = fidelity(network, self.held_out)
        return {
            "psnr": measured.psnr.mean().item(),
            "psnr_of_mean": (-10 * (10 ** (-measured.psnr / 10)).mean().log10()).item(),
            "largest_activation": measured.largest_activation,
        }


def _autoencode(
    network: nn.Module, pixels: Tensor, noise: Tensor, penalise_spikes: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert isinstance(network, VAE)
    latents = network.encode(pixels)
    spikes = ActivationSpikes() if penalise_spikes else None
    output = network.decode(latents.sample(noise), tap=spikes)
    return (
        output,
        latents.mean,
        latents.std,
        torch.zeros((), device=pixels.device) if spikes is None else spikes.total(),
    )


@torch.no_grad()
def normalise_latents(vae: VAE, mean: Tensor, std: Tensor) -> None:
    """Normalise the latents to zero mean and unit variance, by changing the 1x1 convolutions around them in place.

    Reconstructions stay the same up to rounding, and pipelines need no scale factor.

    Args:
        vae: with ``config.scale`` 1.
        mean: [C] of the latents.
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


class ActivationSpikes:
    """A tap that measures decoder activations beyond ``SPIKE`` standard deviations of their layer and image.

    A decoder can encode signal strength in one huge value that dominates its group norms, and leaves a bright droplet.
    """

    def __init__(self) -> None:
        self.excess: list[Tensor] = []

    def wants(self, name: str) -> bool:
        """The activations that ``fidelity`` measures."""
        return is_measured(name)

    def __call__(self, name: str, value: Tensor) -> Tensor:  # noqa: ARG002
        """The value, unchanged."""
        plain = value.float()
        std, mean = torch.std_mean(plain.detach(), dim=(1, 2, 3), keepdim=True)
        distance = (plain - mean).abs() / (std + 1e-6)
        self.excess.append((distance - SPIKE).clamp(min=0).square().sum() / len(value))
        return value

    def total(self) -> Tensor:
        """Squared excess over ``SPIKE``, summed over activations and layers, mean over images."""
        return torch.stack(self.excess).sum()
