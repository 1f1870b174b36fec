"""The fast twin of the autoencoder's decoder: channels-last, with fused norms. See ``models.vae``."""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuscope.models.vae import VAE, ResidualStage
from diffuscope.nn.attention import Attention
from diffuscope.nn.blocks import ResidualBlock
from diffuscope.perf import ops
from diffuscope.perf.unet import residual
from diffuscope.perf.weights import lay_channels_last, modules

SCORES = 1 << 26
"""Attention scores that are in memory at once."""


class FastDecoder:
    """A VAE's ``decode`` by its fast twin. It shares the weights, which it lays out channels-last."""

    def __init__(self, vae: VAE) -> None:
        """Lay the weights out."""
        self.vae = vae
        lay_channels_last(vae)

    def __call__(self, latents: Tensor) -> Tensor:
        """[B,C,f*H,f*W] pixels from unscaled latents [B,latent_channels,H,W]."""
        decoder = self.vae.decoder
        h = ops.conv(self.vae.post_quant_conv, ops.channels_last(latents))
        first, second = modules(decoder.mid.resnet, ResidualBlock)
        h = residual(first, ops.conv(decoder.conv_in, h.x))
        normed = ops.tokens(ops.group_norm(decoder.mid.norm, h, silu=False))
        h = ops.add(ops.image(_attend(decoder.mid.self_attn, normed), h.x), h.x, None)
        h = residual(second, h)
        for stage in modules(decoder.up, ResidualStage):
            for block in modules(stage.resnet, ResidualBlock):
                h = residual(block, h)
            if stage.upsample is not None:
                height, width = h.x.shape[2:]
                h = ops.conv(stage.upsample.conv, ops.upsample(h.x, (2 * height, 2 * width)))
        return ops.conv(decoder.conv_out, ops.group_norm(decoder.norm_out, h, silu=True, last=True)).x


def _attend(attention: Attention, x: Tensor) -> Tensor:
    """The self-attention of tokens [B,T,C]. One head as wide as this has no fused kernel that is fast."""
    q, k, v = (ops.pointwise(layer, x) for layer in (attention.query, attention.key, attention.value))
    y = torch.cat([ops.attend(part, k, v) for part in q.split(max(1, SCORES // (len(x) * x.shape[1])), dim=1)], dim=1)
    return F.linear(y, attention.out.weight, attention.out.bias)
