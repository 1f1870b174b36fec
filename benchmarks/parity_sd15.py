"""How far our networks of full Stable Diffusion 1.5 size are from transformers' and diffusers', as JSON.

Random weights (a fixed seed), float32 on the CPU, one thread count for both sides; needs about 8 GB and a few minutes:

    python benchmarks/parity_sd15.py > parity.json
"""

import argparse
import gc
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

from diffuscope.config import SD15
from diffuscope.models.text_encoder import END_OF_TEXT, TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.weights.layout import network_config
from diffuscope.weights.layout.diffusers import from_diffusers
from diffuscope.weights.store.assign import load_into


def errors(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """Largest absolute difference, and the norm of the difference over the norm."""
    difference = (ours - theirs).double()
    return {
        "max_abs": difference.abs().max().item(),
        "relative": (difference.norm() / theirs.double().norm()).item(),
        "largest_value": theirs.abs().max().item(),
    }


def ours_from(theirs: nn.Module, make: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    """Our network with their weights, after every parameter was moved off its start: norms begin as ones and zeros."""
    for parameter in theirs.parameters():
        parameter += 0.01 * torch.randn_like(parameter)
    with torch.device("meta"):
        network = make(config)
    load_into(network, from_diffusers(theirs.state_dict(), config))
    return network.eval()


def text_encoder() -> dict[str, dict[str, float]]:
    config = SD15.text_encoder
    theirs = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(**network_config.text_encoder_to_json(config))
    ).eval()
    ours = ours_from(theirs, TextEncoder, config)
    ids = torch.randint(0, 49406, (2, config.positions))
    ids[:, 0], ids[0, 9:], ids[1, 60:] = 49406, END_OF_TEXT, END_OF_TEXT
    states, expected = ours(ids), theirs(ids)
    return {
        "text_encoder.last_hidden_state": errors(states.last_hidden_state, expected.last_hidden_state),
        "text_encoder.pooled": errors(states.pooled, expected.pooler_output),
    }


def unet(size: int) -> dict[str, dict[str, float]]:
    config = SD15.unet
    theirs = diffusers.UNet2DConditionModel.from_config(network_config.unet_to_json(config)).eval()
    ours = ours_from(theirs, UNet, config)
    x, context = torch.randn(1, 4, size, size), torch.randn(1, 77, config.context_dim)
    return {f"unet.time_{t}": errors(ours(x, t, context), theirs(x, t, context).sample) for t in (1, 981)}


def vae(size: int) -> dict[str, dict[str, float]]:
    theirs = diffusers.AutoencoderKL.from_config(network_config.vae_to_json(SD15.vae)).eval()
    ours = ours_from(theirs, VAE, SD15.vae)
    pixels, latents = torch.rand(1, 3, 8 * size, 8 * size) * 2 - 1, torch.randn(1, 4, size, size)
    found, expected = ours.encode(pixels), theirs.encode(pixels).latent_dist
    return {
        "vae.encode.mean": errors(found.mean, expected.mean),
        "vae.encode.logvar": errors(found.logvar, expected.logvar),
        "vae.decode": errors(ours.decode(latents), theirs.decode(latents).sample),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="Parity of the networks at full Stable Diffusion 1.5 size, as JSON.")
    parser.add_argument("--size", type=int, default=64, help="latent height and width; 64 is a 512x512 picture")
    size = parser.parse_args().size
    measured: dict[str, dict[str, float]] = {}
    for measure in (text_encoder, lambda: unet(size), lambda: vae(size)):
        torch.manual_seed(0)
        measured |= measure()
        gc.collect()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    versions = {module.__name__: module.__version__ for module in (torch, diffusers, transformers)}
    machine = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    report = {"command": " ".join(sys.argv), "commit": commit, **machine, "versions": versions, "errors": measured}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
