"""The fast twin of the autoencoder, both halves: channels-last, with fused norms. See ``models.vae``."""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuscope.models.vae import VAE, Middle, ResidualStage
from diffuscope.nn.attention import Attention
from diffuscope.nn.blocks import ResidualBlock
from diffuscope.perf import ops
from diffuscope.perf.ops import Map
from diffuscope.perf.unet import residual
from diffuscope.perf.weights import lay_channels_last, modules

SCORES = 1 << 26
"""Attention scores that are in memory at once."""


class FastVAE:
    """A VAE's fast twin. It shares the weights, which it lays out channels-last."""

    def __init__(self, vae: VAE) -> None:
        """Lay the weights out."""
        self.vae = vae
        lay_channels_last(vae)

    def decode(self, latents: Tensor) -> Tensor:
        """[B,C,f*H,f*W] pixels from unscaled latents [B,latent_channels,H,W]."""
        decoder = self.vae.decoder
        h = ops.conv(self.vae.post_quant_conv, ops.channels_last(latents))
        h = _middle(decoder.mid, ops.conv(decoder.conv_in, h.x))
        for stage in modules(decoder.up, ResidualStage):
            for block in modules(stage.resnet, ResidualBlock):
                h = residual(block, h)
            if stage.upsample is not None:
                h = ops.upsampled(stage.upsample.conv, h.x)
        return ops.conv(decoder.conv_out, ops.group_norm(decoder.norm_out, h, silu=True, last=True)).x

    def encode(self, pixels: Tensor) -> Tensor:
        """[B,2*latent_channels,H/f,W/f] mean and log variance, not clamped, from pixels [B,C,H,W]."""
        encoder = self.vae.encoder
        h = ops.conv(encoder.conv_in, ops.channels_last(pixels))
        for stage in modules(encoder.down, ResidualStage):
            for block in modules(stage.resnet, ResidualBlock):
                h = residual(block, h)
            if stage.downsample is not None:
                h = ops.conv(stage.downsample.conv, ops.channels_last(F.pad(h.x, (0, 1, 0, 1))))
        h = _middle(encoder.mid, h)
        h = ops.conv(encoder.conv_out, ops.group_norm(encoder.norm_out, h, silu=True, last=True))
        return ops.conv(self.vae.quant_conv, h.x).x


def _middle(network: Middle, x: Map) -> Map:
    first, second = modules(network.resnet, ResidualBlock)
    h = residual(first, x)
    normed = ops.tokens(ops.group_norm(network.norm, h, silu=False))
    h = ops.add(ops.image(_attend(network.self_attn, normed), h.x), h.x, None)
    return residual(second, h)


def _attend(attention: Attention, x: Tensor) -> Tensor:
    """The self-attention of tokens [B,T,C]. One head as wide as this has no fused kernel that is fast."""
    q, k, v = (ops.pointwise(layer, x) for layer in (attention.query, attention.key, attention.value))
    y = torch.cat([ops.attend(part, k, v) for part in q.split(max(1, SCORES // (len(x) * x.shape[1])), dim=1)], dim=1)
    return F.linear(y, attention.out.weight, attention.out.bias)
