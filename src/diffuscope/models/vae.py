"""The autoencoder between pixels and latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.config import VAEConfig
from diffuscope.nn.attention import Attention
from diffuscope.nn.blocks import Downsample, ResidualBlock, Upsample, image, tokens
from diffuscope.nn.taps import within
from diffuscope.types import Tap, tapped

EPS = 1e-6  # of every group norm here


@dataclass(frozen=True, slots=True)
class LatentDistribution:
    """A Gaussian for each latent of an image (Kingma & Welling 2014, section 3), unscaled."""

    mean: Tensor
    """[B,C,H,W]."""
    logvar: Tensor
    """[B,C,H,W] natural logarithm of the variance, between -30 and 20."""

    @property
    def std(self) -> Tensor:
        """[B,C,H,W] standard deviation."""
        return torch.exp(0.5 * self.logvar)

    def sample(self, noise: Tensor) -> Tensor:
        """[B,C,H,W] a sample, from ``noise`` of unit variance and the same shape (their equation 10)."""
        return self.mean + self.std * noise


class ResidualStage(nn.Module):
    """Residual blocks of one resolution, then a change of resolution, if it has one."""

    def __init__(
        self, inputs: Sequence[int], width: int, groups: int, *, downsample: bool = False, upsample: bool = False
    ) -> None:
        super().__init__()
        self.resnet = nn.ModuleList(ResidualBlock(i, width, groups, eps=EPS) for i in inputs)
        self.downsample = Downsample(width, corner=True) if downsample else None
        self.upsample = Upsample(width) if upsample else None

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,width,h,w] from [B,inputs[0],H,W]."""
        for j, resnet in enumerate(self.resnet):
            x = resnet(x, tap=within(tap, "resnet", j))
        if self.downsample is not None:
            x = self.downsample(x, within(tap, "downsample"))
        if self.upsample is not None:
            x = self.upsample(x, tap=within(tap, "upsample"))
        return x


class Middle(nn.Module):
    """The coarsest resolution: self-attention over all pixels, between two residual blocks."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.resnet = nn.ModuleList(ResidualBlock(width, width, groups, eps=EPS) for _ in range(2))
        self.norm = nn.GroupNorm(groups, width, eps=EPS)
        self.self_attn = Attention(width, 1, bias=True)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,C,H,W] from [B,C,H,W]."""
        x = self.resnet[0](x, tap=within(tap, "resnet", 0))
        x = x + image(self.self_attn(tokens(self.norm(x)), tap=within(tap, "self_attn")), x)
        return self.resnet[1](x, tap=within(tap, "resnet", 1))


class Encoder(nn.Module):
    """Pixels to the mean and log variance of the latents, before ``quant_conv``."""

    taps = ("conv_in", "conv_out")

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.channels, config.norm_groups
        self.conv_in = nn.Conv2d(config.image_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for i, (below, width) in enumerate(pairwise((widths[0], *widths))):
            inputs = [below, *[width] * (config.blocks - 1)]
            self.down.append(ResidualStage(inputs, width, groups, downsample=i < len(widths) - 1))
        self.mid = Middle(widths[-1], groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,2*latent_channels,H/f,W/f] from pixels [B,image_channels,H,W]."""
        x = tapped(tap, "conv_in", self.conv_in(x))
        for i, stage in enumerate(self.down):
            x = stage(x, within(tap, "down", i))
        x = self.mid(x, within(tap, "mid"))
        return tapped(tap, "conv_out", self.conv_out(F.silu(self.norm_out(x))))


class Decoder(nn.Module):
    """Latents to pixels; ``up.0`` is the coarsest stage."""

    taps = ("conv_in", "conv_out")

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.channels[::-1], config.norm_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid = Middle(widths[0], groups)
        self.up = nn.ModuleList()
        for i, (below, width) in enumerate(pairwise((widths[0], *widths))):
            inputs = [below, *[width] * config.blocks]
            self.up.append(ResidualStage(inputs, width, groups, upsample=i < len(widths) - 1))
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.image_channels, 3, padding=1)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,image_channels,f*H,f*W] from [B,latent_channels,H,W]."""
        x = tapped(tap, "conv_in", self.conv_in(x))
        x = self.mid(x, within(tap, "mid"))
        for i, stage in enumerate(self.up):
            x = stage(x, within(tap, "up", i))
        return tapped(tap, "conv_out", self.conv_out(F.silu(self.norm_out(x))))


class VAE(nn.Module):
    """The autoencoder of latent diffusion (Rombach et al. 2022, section 3.1 and appendix G).

    Latents are unscaled here: the pipeline applies ``config.scale``.
    """

    component = "vae"

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)
        self.taps = ("mean", "logvar", "post_quant_conv")

    def forward(self, pixels: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,C,H,W] reconstruction of pixels [B,C,H,W] from their mean latents."""
        return self.decode(self.encode(pixels, tap).mean, tap)

    def scaled(self, latents: Tensor) -> Tensor:
        """[B,C,h,w] latents of the encoder as the U-Net reads them."""
        if self.config.mean is not None:
            mean, std = (latents.new_tensor(each)[:, None, None] for each in (self.config.mean, self.config.std))
            latents = (latents - mean) / std
        return latents * self.config.scale

    def unscaled(self, latents: Tensor) -> Tensor:
        """The inverse of ``scaled``."""
        latents = latents / self.config.scale
        if self.config.mean is None:
            return latents
        mean, std = (latents.new_tensor(each)[:, None, None] for each in (self.config.mean, self.config.std))
        return latents * std + mean

    def encode(self, pixels: Tensor, tap: Tap | None = None) -> LatentDistribution:
        """The latents' distribution for pixels [B,C,H,W] in [-1,1]; H and W are multiples of ``config.factor``."""
        tap = within(tap, self.component)
        mean, logvar = self.quant_conv(self.encoder(pixels, within(tap, "encoder"))).chunk(2, dim=1)
        return LatentDistribution(tapped(tap, "mean", mean), tapped(tap, "logvar", logvar.clamp(-30, 20)))

    def decode(self, latents: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,C,f*H,f*W] pixels, in [-1,1] up to the network's error, from unscaled latents [B,latent_channels,H,W]."""
        tap = within(tap, self.component)
        latents = tapped(tap, "post_quant_conv", self.post_quant_conv(latents))
        return self.decoder(latents, within(tap, "decoder"))
