"""Where training starts: residual branches that add nothing yet (Goyal et al. 2017, section 5.1), precise latents."""

import torch
from torch import nn

from diffuscope.models.unet import Leave, UNet
from diffuscope.models.vae import VAE
from diffuscope.nn.blocks import ResidualBlock


@torch.no_grad()
def quiet(network: UNet | VAE) -> None:
    """Set the last layer of every residual branch to zero, in place, and the U-Net's output layer.

    An autoencoder's latents start with a standard deviation of about e^-2, so that they carry something at once.
    """
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            _zero(module.conv_out)
        elif isinstance(module, Leave):
            _zero(module.project)
    if isinstance(network, UNet):
        _zero(network.out)
    else:
        assert network.quant.bias is not None
        network.quant.bias[network.config.latent_channels :] -= 4


def _zero(layer: nn.Linear | nn.Conv2d) -> None:
    for parameter in layer.parameters():
        parameter.zero_()
