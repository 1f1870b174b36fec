"""A network in a file of its own opens in every layout, and as nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffuscope.config import PRESETS, TINY
from diffuscope.errors import WeightMismatchError, WeightsError
from diffuscope.loading import load_network
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline
from diffuscope.weights.layout import ldm
from diffuscope.weights.layout.diffusers import to_diffusers
from diffuscope.weights.store import files

OPEN_CLIP = replace(PRESETS["tiny-sdxl-refiner"].text_encoder, vocabulary=64)
NETWORKS = {
    "vae": lambda: VAE(TINY.vae),
    "unet": lambda: UNet(PRESETS["tiny-sd21"].unet),
    "clip": lambda: TextEncoder(replace(TINY.text_encoder, vocabulary=64)),
    "open clip": lambda: TextEncoder(OPEN_CLIP),
}
LAYOUTS = {
    "own": lambda tensors, _: tensors,
    "diffusers": to_diffusers,
    "ldm": ldm.to_ldm,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_in_every_layout(tmp_path: Path, name: str, layout: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    path = tmp_path / "network.safetensors"
    files.write(path, LAYOUTS[layout](network.state_dict(), network.config))
    again = load_network(path, network.config, "cpu")
    for key, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    half = load_network(path, network.config, "cpu", "float16")
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.float16}


def test_a_vae_that_keeps_the_prefix_of_a_single_file_and_its_training(tiny: Pipeline, tmp_path: Path) -> None:
    tensors = ldm.to_ldm(tiny.vae.state_dict(), TINY.vae)
    kept = {f"first_stage_model.{name}": tensor for name, tensor in tensors.items()}
    files.write(tmp_path / "vae.safetensors", kept | {"loss.discriminator.main.0.weight": torch.ones(1)})
    vae = load_network(tmp_path / "vae.safetensors", TINY.vae, "cpu")
    other = Pipeline(replace(tiny.components, vae=vae))
    assert torch.equal(other("a", seed=1).latents, tiny("a", seed=1).latents)


def test_something_else_is_refused(tiny: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    (tmp_path / "whole").mkdir()
    files.write(path, ldm.to_ldm(tiny.vae.state_dict(), TINY.vae))
    with pytest.raises(WeightsError, match=r"a\.safetensors is a VAE, expected a U-Net: its widest layer has 32"):
        load_network(path, TINY.unet, "cpu")
    with pytest.raises(WeightsError, match=r"a\.safetensors is a model, expected a VAE"):
        load_network(tiny.save(tmp_path / "whole" / "a.safetensors", layout="single"), TINY.vae, "cpu")
    with pytest.raises(WeightMismatchError, match="the network"):
        load_network(path, replace(TINY.vae, blocks=2), "cpu")
    files.write(path, {"a": torch.ones(2, 3, 4)})
    with pytest.raises(WeightsError, match="is nothing known, expected a VAE"):
        load_network(path, TINY.vae, "cpu")
