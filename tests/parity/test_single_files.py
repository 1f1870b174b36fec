"""Single files: diffusers' own conversion of what we write gives, bit for bit, what we write into its folders."""

import re
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from diffuscope import saving
from diffuscope.config import FAMILIES, PRESETS, ModelConfig
from diffuscope.loading import Components, load_components
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.weights.layout import ldm, network_config, single_file
from diffuscope.weights.layout.diffusers import from_diffusers, to_diffusers
from diffuscope.weights.layout.own_config import to_json as config_to_json

CONVERTED = ["tiny-sd15", "tiny-sd15-inpaint", "tiny-sd21-v", "tiny-sdxl", "tiny-sdxl-refiner"]
"""One of each shape; diffusers' conversion passes over the guidance embedding of LCM."""

NAMES = [*CONVERTED, "tiny-sd15-lcm"]

ONES = torch.ones(1000)


def networks_of(config: ModelConfig) -> dict[str, TextEncoder | UNet | VAE]:
    torch.manual_seed(0)
    networks: dict[str, TextEncoder | UNet | VAE] = {"text_encoder": TextEncoder(config.text_encoder)}
    if config.text_encoder_2 is not None:
        networks["text_encoder_2"] = TextEncoder(config.text_encoder_2, component="text_encoder_2")
    networks |= {"unet": UNet(config.unet), "vae": VAE(config.vae)}
    for network in networks.values():
        network.eval().requires_grad_(False)
    return networks


def small(name: str) -> ModelConfig:
    """A preset with a vocabulary of few words, and a second text encoder that differs from the first in width."""
    config = PRESETS[name]
    first, second = replace(config.text_encoder, vocabulary=64, pad=0), config.text_encoder_2
    if second is None:
        return replace(config, text_encoder=first)
    second = replace(second, vocabulary=64, pad=0, width=48)
    unet = replace(config.unet, context_dim=first.width + second.width)
    return replace(config, text_encoder=first, text_encoder_2=second, unet=unet)


def written(config: ModelConfig, path: Path) -> dict[str, dict[str, Tensor]]:
    """A model of random weights in a single file; its tensors by part under our names."""
    tensors = {part: network.state_dict() for part, network in networks_of(config).items()}
    single_file.write(path, tensors, config, config_to_json(config))
    return tensors


@pytest.mark.parametrize("name", NAMES)
def test_a_single_file_gives_back_the_model(tmp_path: Path, name: str) -> None:
    config = small(name)
    tensors = written(config, tmp_path / "model.safetensors")
    again = load_components(tmp_path / "model.safetensors", "cpu")
    assert again.config == config
    assert again.networks.keys() == tensors.keys()
    for part, network in again.networks.items():
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, tensors[part][key]), key


@pytest.mark.parametrize("name", CONVERTED)
def test_diffusers_converts_the_unet(tmp_path: Path, name: str) -> None:
    config = small(name)
    ours = to_diffusers(written(config, tmp_path / "m.safetensors")["unet"], config.unet)
    document = network_config.unet_to_json(config.unet)
    same(single_file_utils.convert_ldm_unet_checkpoint(load_file(tmp_path / "m.safetensors"), document), ours)


@pytest.mark.parametrize("name", ["tiny-sd15", "tiny-sdxl"])
def test_diffusers_converts_the_vae(tmp_path: Path, name: str) -> None:
    config = small(name)
    ours = to_diffusers(written(config, tmp_path / "m.safetensors")["vae"], config.vae)
    document = network_config.vae_to_json(config.vae)
    same(single_file_utils.convert_ldm_vae_checkpoint(load_file(tmp_path / "m.safetensors"), document), ours)


@pytest.mark.parametrize("name", CONVERTED)
def test_diffusers_converts_the_text_encoders(tmp_path: Path, name: str) -> None:
    config = small(name)
    tensors = written(config, tmp_path / "m.safetensors")
    file = load_file(tmp_path / "m.safetensors")
    for part, encoder in zip(("text_encoder", "text_encoder_2"), config.text_encoders, strict=False):
        prefix = ldm.prefixes(config)[part]
        if ldm.is_open_clip(encoder):
            tower = CLIPTextModelWithProjection(CLIPTextConfig(**network_config.text_encoder_to_json(encoder)))
            theirs = single_file_utils.convert_open_clip_checkpoint(tower, file, prefix)
        else:
            theirs = single_file_utils.convert_ldm_clip_checkpoint(file)
        same(theirs, to_diffusers(tensors[part], encoder))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tiny-sd15", "StableDiffusionPipeline"),
        ("tiny-sd21-inpaint", "StableDiffusionInpaintPipeline"),
        ("tiny-sdxl", "StableDiffusionXLPipeline"),
    ],
)
def test_diffusers_opens_a_single_file_with_local_configs(tmp_path: Path, name: str, kind: str) -> None:
    config = small(name)
    networks = networks_of(config)
    tokenizers = {"tokenizer": Tokenizer(pad=config.text_encoder.pad)}
    tokenizers |= {"tokenizer_2": Tokenizer(pad=0)} if config.text_encoder_2 is not None else {}
    components = Components(config=config, **networks, **tokenizers)
    folder = saving.save(components, tmp_path / "folder", "diffusers")
    path = saving.save(components, tmp_path / "model.safetensors", "single")
    theirs = getattr(diffusers, kind).from_single_file(
        path, config=str(folder), local_files_only=True, safety_checker=None, torch_dtype=torch.float32
    )
    for part, network in networks.items():
        found = from_diffusers(getattr(theirs, part).state_dict(), getattr(config, part))
        same(found, network.state_dict())


def test_an_older_file_without_text_model_and_with_linear_attention_in_the_vae(tmp_path: Path) -> None:
    """Dialects that other programs wrote: the first class of CLIP, and VAEs whose 1x1 convolutions became matrices."""
    config = PRESETS["tiny-sd15"]
    tensors = written(config, tmp_path / "m.safetensors")
    file = {
        name.replace("transformer.text_model.", "transformer."): tensor
        for name, tensor in load_file(tmp_path / "m.safetensors").items()
    }
    for name in list(file):
        if ".mid.attn_1." in name and name.endswith("weight") and ".norm." not in name:
            file[name] = file[name].flatten(1)
    file |= {"model_ema.decay": torch.ones(()), "alphas_cumprod": torch.ones(1000), "sqrt_recipm1_alphas_cumprod": ONES}
    file["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(file, tmp_path / "old.safetensors")
    again = load_components(tmp_path / "old.safetensors", "cpu")
    assert again.config == config
    for part, network in again.networks.items():
        same(network.state_dict(), tensors[part])


def test_the_last_layer_of_the_text_tower_of_sd2_is_left_out(tmp_path: Path) -> None:
    config = PRESETS["tiny-sd21-v"]
    deeper = replace(config, text_encoder=replace(config.text_encoder, layers=3, projection=32))
    tensors = written(deeper, tmp_path / "m.safetensors")
    again = load_components(tmp_path / "m.safetensors", "cpu", family="tiny-sd21-v")
    kept = again.text_encoder.state_dict()
    assert not any(name.startswith("layer.2.") for name in kept)
    same(kept, {name: tensor for name, tensor in tensors["text_encoder"].items() if name in kept})


def test_the_published_page_holds_every_family_and_is_green() -> None:
    """``python benchmarks/parity_layouts.py`` writes it: each layout, opened here again and by diffusers."""
    page = (Path(__file__).parents[2] / "docs/reference/parity-layouts.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if re.match(r"\| s\w", line)]
    assert {row[0] for row in rows} == set(FAMILIES)
    for name, own, folder, in_diffusers, in_file, converted in rows:
        assert (own, folder, in_file) == ("equal", "equal", "equal"), name
        assert float(in_diffusers) <= 1e-5, name
        assert name == "sd15-lcm" or float(converted) <= 1e-5, name  # diffusers drops the guidance embedding


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    # transformers 5 writes no prefix where there is no projection, and its tables of positions are no weights
    names = {name: name.removeprefix("text_model.") for name in found if not name.endswith("position_ids")}
    bare = {name.removeprefix("text_model."): tensor for name, tensor in wanted.items()}
    assert set(names.values()) == bare.keys()
    for name, short in names.items():
        assert torch.equal(found[name], bare[short]), name
