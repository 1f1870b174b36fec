"""The autoencoder between pixels and latents: what makes diffusion affordable."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.config import VAEConfig
from diffuscope.nn.attention import Attention
from diffuscope.nn.blocks import Grow, ResidualBlock, Shrink, image, tokens
from diffuscope.nn.taps import within
from diffuscope.types import Tap, tapped

EPS = 1e-6  # of every group norm in here


@dataclass(frozen=True, slots=True)
class LatentDistribution:
    """A Gaussian for each latent (Kingma & Welling 2014, section 3), unscaled: what the encoder says of a picture."""

    mean: Tensor
    """[B,C,H,W]."""
    logvar: Tensor
    """[B,C,H,W] natural logarithm of the variance, between -30 and 20."""

    @property
    def std(self) -> Tensor:
        """[B,C,H,W] standard deviation."""
        return torch.exp(0.5 * self.logvar)

    def sample(self, noise: Tensor) -> Tensor:
        """[B,C,H,W] latents, drawn with ``noise`` of unit variance and the same shape (their equation 10)."""
        return self.mean + self.std * noise


class ResidualStage(nn.Module):
    """Residual blocks of one resolution."""

    def __init__(self, inputs: Sequence[int], width: int, groups: int) -> None:
        super().__init__()
        self.res = nn.ModuleList(ResidualBlock(i, width, groups, eps=EPS) for i in inputs)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,width,H,W] from [B,inputs[0],H,W]."""
        for j, res in enumerate(self.res):
            x = res(x, tap=within(tap, "res", j))
        return x


class Middle(nn.Module):
    """At the coarsest resolution: every place looks at every other, between two residual blocks."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.res = nn.ModuleList(ResidualBlock(width, width, groups, eps=EPS) for _ in range(2))
        self.norm = nn.GroupNorm(groups, width, eps=EPS)
        self.self = Attention(width, 1, bias=True)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,C,H,W] from [B,C,H,W]."""
        x = self.res[0](x, tap=within(tap, "res", 0))
        x = x + image(self.self(tokens(self.norm(x)), tap=within(tap, "self")), x)
        return self.res[1](x, tap=within(tap, "res", 1))


class Encoder(nn.Module):
    """Pixels to the features that the latents' distribution is read from."""

    taps = ("stem", "out")

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.channels, config.norm_groups
        self.stem = nn.Conv2d(config.image_channels, widths[0], 3, padding=1)
        inputs = (widths[0], *widths[:-1])
        self.down = nn.ModuleList(
            ResidualStage([first, *[width] * (config.blocks - 1)], width, groups)
            for first, width in zip(inputs, widths, strict=True)
        )
        self.shrink = nn.ModuleList(Shrink(width, corner=True) for width in widths[:-1])
        self.mid = Middle(widths[-1], groups)
        self.norm = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,2*latent_channels,H/f,W/f] from pixels [B,image_channels,H,W]."""
        x = tapped(tap, "stem", self.stem(x))
        for i, stage in enumerate(self.down):
            if i:
                x = self.shrink[i - 1](x, within(tap, "shrink", i - 1))
            x = stage(x, within(tap, "down", i))
        x = self.mid(x, within(tap, "mid"))
        return tapped(tap, "out", self.out(F.silu(self.norm(x))))


class Decoder(nn.Module):
    """Latents to pixels; ``up.0`` is the coarsest stage."""

    taps = ("stem", "out")

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.channels[::-1], config.norm_groups
        self.stem = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid = Middle(widths[0], groups)
        inputs = (widths[0], *widths[:-1])
        self.up = nn.ModuleList(
            ResidualStage([first, *[width] * config.blocks], width, groups)
            for first, width in zip(inputs, widths, strict=True)
        )
        self.grow = nn.ModuleList(Grow(width) for width in widths[:-1])
        self.norm = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.out = nn.Conv2d(widths[-1], config.image_channels, 3, padding=1)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,image_channels,f*H,f*W] from [B,latent_channels,H,W]."""
        x = tapped(tap, "stem", self.stem(x))
        x = self.mid(x, within(tap, "mid"))
        for i, stage in enumerate(self.up):
            if i:
                x = self.grow[i - 1](x, tap=within(tap, "grow", i - 1))
            x = stage(x, within(tap, "up", i))
        return tapped(tap, "out", self.out(F.silu(self.norm(x))))


class VAE(nn.Module):
    """The autoencoder of latent diffusion (Rombach et al. 2022, section 3.1 and appendix G).

    Latents are unscaled here: ``config.scale`` is applied where the U-Net meets them.
    """

    component = "vae"

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)
        self.taps = ("mean", "logvar", "post_quant")

    def forward(self, pixels: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,C,H,W] pixels as they come back from their most likely latents."""
        return self.decode(self.encode(pixels, tap).mean, tap)

    def encode(self, pixels: Tensor, tap: Tap | None = None) -> LatentDistribution:
        """The latents' distribution for pixels [B,C,H,W] in [-1,1]; H and W are multiples of ``config.factor``."""
        tap = within(tap, self.component)
        mean, logvar = self.quant(self.encoder(pixels, within(tap, "encoder"))).chunk(2, dim=1)
        return LatentDistribution(tapped(tap, "mean", mean), tapped(tap, "logvar", logvar.clamp(-30, 20)))

    def decode(self, latents: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,C,f*H,f*W] pixels, in [-1,1] up to the network's error, from unscaled latents [B,latent_channels,H,W]."""
        tap = within(tap, self.component)
        latents = tapped(tap, "post_quant", self.post_quant(latents))
        return self.decoder(latents, within(tap, "decoder"))
