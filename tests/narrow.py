"""Each family of models, narrow and with random weights."""

from typing import Any

import torch

from diffuscope.config import PRESETS
from diffuscope.loading import Components
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline


def made(family: str) -> Pipeline:
    """The family's narrow model with random weights, every parameter off its start."""
    config = PRESETS[f"tiny-{family}"]
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
