"""Initialisation: residual branches that start at zero (Goyal et al. 2017, section 5.1)."""

import torch
from torch import nn

from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.nn.blocks import ResidualBlock, Transformer


@torch.no_grad()
def zero_init(network: UNet | VAE) -> None:
    """Set the last layer of every residual branch, and the U-Net's output layer, to zero in place.

    An autoencoder's latents start with a standard deviation of about e^-2, small enough to carry information.
    """
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            _zero(module.conv2)
        elif isinstance(module, Transformer):
            _zero(module.proj_out)
    if isinstance(network, UNet):
        _zero(network.conv_out)
    else:
        assert network.quant_conv.bias is not None
        network.quant_conv.bias[network.config.latent_channels :] -= 4


def _zero(layer: nn.Linear | nn.Conv2d) -> None:
    for parameter in layer.parameters():
        parameter.zero_()
