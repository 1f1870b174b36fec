"""Each family of models, narrow and with random weights."""

from dataclasses import replace
from typing import Any

import torch

from diffuscope.config import PRESETS, SD15, ModelConfig
from diffuscope.loading import Components
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline

SD1 = replace(
    SD15,
    name="narrow-sd1",
    text_encoder=replace(SD15.text_encoder, width=48, hidden=96),
    unet=replace(SD15.unet, channels=(32, 64, 64, 64), context_dim=48, norm_groups=8),
    vae=replace(SD15.vae, channels=(16, 16, 32, 32), norm_groups=8),
    preset=replace(SD15.preset, sampler="pndm", height=64, width=64),
)
"""Stable Diffusion 1.x, layer for layer and with its vocabulary and scheduler: the widths alone are narrow."""


def made(family: str) -> Pipeline:
    """The family's narrow model with random weights, every parameter off its start."""
    return random_model(PRESETS[f"tiny-{family}"])


def random_model(config: ModelConfig) -> Pipeline:
    """The model of a config with random weights, every parameter off its start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks: dict[str, Any] = {"text_encoder": TextEncoder(config.text_encoder), "unet": UNet(config.unet)}
        if config.text_encoder_2 is not None:
            networks["text_encoder_2"] = TextEncoder(config.text_encoder_2, component="text_encoder_2")
        networks["vae"] = VAE(config.vae)
        for network in networks.values():
            network.eval().requires_grad_(False)
            for parameter in network.parameters():
                parameter += 0.02 * torch.randn(parameter.shape)
    tokenizers = {"tokenizer": Tokenizer(pad=config.text_encoder.pad)}
    if config.text_encoder_2 is not None:
        tokenizers["tokenizer_2"] = Tokenizer(pad=config.text_encoder_2.pad)
    return Pipeline(Components(config=config, **tokenizers, **networks))
