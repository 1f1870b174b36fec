"""What a file is, of headers with the shapes of every released model; none of the tensors is ever made."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from diffuscope.cli import main
from diffuscope.config import FAMILIES, PRESETS
from diffuscope.errors import WeightsError
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.weights.identify.families import article, choose, identify
from diffuscope.weights.layout import ldm
from diffuscope.weights.layout.diffusers import to_diffusers
from diffuscope.weights.store import headers
from diffuscope.weights.store.headers import Header, TensorInfo
from diffuscope.weights.store.stores import FORMATS
from refusals import refused

SHAPED = {
    "sd15": ("sd15",),
    "sd15-inpaint": ("sd15-inpaint",),
    "sd15-instruct-pix2pix": ("sd15-instruct-pix2pix",),
    "sd15-lcm": ("sd15-lcm",),
    "sd21": ("sd21", "sd21-v", "sd-turbo"),
    "sd21-inpaint": ("sd21-inpaint",),
    "sdxl": ("sdxl", "sdxl-turbo"),
    "sdxl-inpaint": ("sdxl-inpaint",),
    "sdxl-refiner": ("sdxl-refiner",),
    "ssd-1b": ("ssd-1b",),
    "segmind-vega": ("segmind-vega",),
}
"""Every family -> those of the same shapes."""


@cache
def networks(name: str) -> dict[str, dict[str, Tensor]]:
    config = PRESETS[name]
    with torch.device("meta"):
        made = {"text_encoder": TextEncoder(config.text_encoder), "unet": UNet(config.unet), "vae": VAE(config.vae)}
        if config.text_encoder_2 is not None:
            made["text_encoder_2"] = TextEncoder(config.text_encoder_2)
    return {part: network.half().state_dict() for part, network in made.items()}


def header_of(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Header:
    return Header(
        {name: TensorInfo(FORMATS[tensor.dtype], tuple(tensor.shape), 0, 0) for name, tensor in tensors.items()},
        {} if metadata is None else metadata,
    )


@cache
def single(name: str) -> dict[str, Tensor]:
    config, prefixes = PRESETS[name], ldm.prefixes(PRESETS[name])
    return {
        prefixes[part] + key: tensor
        for part, tensors in networks(name).items()
        for key, tensor in ldm.to_ldm(tensors, getattr(config, part)).items()
    }


def test_every_family_is_asked_for() -> None:
    assert {name for names in SHAPED.values() for name in names} == FAMILIES.keys()


@pytest.mark.parametrize("name", SHAPED)
def test_single_file(name: str) -> None:
    found = identify(header_of(single(name)))
    assert (found.kind, found.layout, found.families) == ("model", "ldm", SHAPED[name])
    assert sum(found.parts.values()) == sum(tensor.numel() for tensor in single(name).values())
    assert found.evidence


@pytest.mark.parametrize("name", SHAPED)
@pytest.mark.parametrize("layout", ["diffusers", "own", "ldm"])
def test_unet_by_itself(name: str, layout: str) -> None:
    tensors, config = networks(name)["unet"], PRESETS[name].unet
    if layout != "own":
        tensors = (to_diffusers if layout == "diffusers" else ldm.to_ldm)(tensors, config)
    found = identify(header_of(tensors))
    assert (found.kind, found.layout, found.families) == ("unet", layout, SHAPED[name])


@pytest.mark.parametrize("layout", ["diffusers", "own", "ldm"])
def test_vae_by_itself(layout: str) -> None:
    tensors, config = networks("sd15")["vae"], PRESETS["sd15"].vae
    if layout != "own":
        tensors = (to_diffusers if layout == "diffusers" else ldm.to_ldm)(tensors, config)
    found = identify(header_of(tensors))
    assert (found.kind, found.layout) == ("vae", layout)
    assert {"sd15", "sdxl"} <= set(found.families)
    assert any("scale of their latents" in reason for reason in found.evidence)


@pytest.mark.parametrize(
    ("changes", "nearest"),
    [
        ({"channels": (16, 32, 32)}, "emoji, from which it differs in channels 16, 32, 32 instead of 32, 64, 128, 192"),
        ({"blocks": 3}, "sd15, from which it differs in blocks 3 instead of 2"),
        ({"latent_channels": 16}, "sd15, from which it differs in latent channels 16 instead of 4"),
    ],
)
def test_a_vae_of_no_family_is_compared_with_the_nearest(changes: dict[str, Any], nearest: str) -> None:
    """The widest layer alone would make it one of the fifteen with a layer as wide."""
    config = replace(PRESETS["sd15"].vae, norm_groups=16, **changes)
    with torch.device("meta"):
        found = identify(header_of(to_diffusers(VAE(config).half().state_dict(), config)))
    assert (found.kind, found.families) == ("vae", ())
    assert found.evidence == (f"the nearest family is {nearest}",)


@pytest.mark.parametrize(
    ("name", "part"), [("sd15", "text_encoder"), ("sd21", "text_encoder"), ("sdxl", "text_encoder_2")]
)
def test_text_encoder_by_itself(name: str, part: str) -> None:
    tensors, config = networks(name)[part], getattr(PRESETS[name], part)
    for each in (tensors, to_diffusers(tensors, config), ldm.to_ldm(tensors, config)):
        found = identify(header_of(each))
        assert found.kind == "text encoder"
        assert name in found.families


def test_what_the_file_says_of_its_prediction_is_heeded() -> None:
    marked = single("sd21") | {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    assert identify(header_of(marked)).families == ("sd21-v",)
    config = choose(header_of(marked), None, "a")
    assert (config.name, config.schedule.prediction, config.schedule.zero_snr) == ("sd21-v", "v", True)
    said = header_of(single("sd21"), {"modelspec.prediction_type": "epsilon"})
    assert choose(said, None, "a").name == "sd21"
    # no preset of SDXL predicts v; models that do are marked
    config = choose(header_of(single("sdxl") | {"v_pred": torch.empty(0)}), None, "a")
    assert (config.name, config.schedule.prediction) == ("sdxl", "v")


def test_a_file_that_cannot_tell_needs_the_family() -> None:
    header = header_of(single("sd21"))
    assert identify(header).prediction is None
    with refused("family", None) as caught:
        choose(header, None, "a.ckpt")
    assert "sd21 or sd21-v or sd-turbo" in caught.value.want
    assert choose(header, "sd21-v", "a") == FAMILIES["sd21-v"]
    with refused("family", "sd21v") as caught:
        choose(header, "sd21v", "a")
    assert caught.value.hint == "Did you mean 'sd21-v'?"
    with pytest.raises(WeightsError, match=r"a is sd21 or sd21-v or sd-turbo, not sd15: its U-Net takes 1024-dim text"):
        choose(header, "sd15", "a")
    assert choose(header_of(single("sdxl")), None, "a") == FAMILIES["sdxl"]
    assert choose(header_of(single("sdxl")), "sdxl-turbo", "a") == FAMILIES["sdxl-turbo"]


def test_a_network_alone_is_no_model() -> None:
    unet = {name: tensor for name, tensor in single("sd15").items() if name.startswith("model.")}
    with pytest.raises(WeightsError, match=r"a is a U-Net, not a whole model.*it has no vae"):
        choose(header_of(unet), None, "a")


@pytest.mark.parametrize(("channels", "kind"), [(5, "depth2img"), (7, "an upscaler")])
def test_a_stranger_is_named_and_compared_with_the_nearest_family(channels: int, kind: str) -> None:
    config = replace(FAMILIES["sd15"].unet, in_channels=channels)
    with torch.device("meta"):
        unet = UNet(config).state_dict()
    tensors = single("sd15") | {
        f"model.diffusion_model.{name}": tensor for name, tensor in ldm.to_ldm(unet, config).items()
    }
    found = f"{kind} does.*nearest family is sd15, from which it differs in in_channels {channels} instead of 4"
    with pytest.raises(WeightsError, match=found):
        choose(header_of(tensors), None, "a")


def vectors(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


DOWN, UP = ".lora_down.weight", ".lora_up.weight"
KOHYA = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
PEFT = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"
OTHERS = {
    "kohya LoRA": ({KOHYA + DOWN: vectors(4, 768), KOHYA + UP: vectors(320, 4)}, "lora", "sd15"),
    "kohya LoRA of SDXL": ({KOHYA + DOWN: vectors(4, 2048)}, "lora", "sdxl"),
    "LoRA of SD 2": ({PEFT: vectors(4, 1024)}, "lora", "sd21"),
    "LoRA of two towers": ({f"lora_te2_text_model_encoder_layers_0_mlp_fc1{DOWN}": vectors(4, 1280)}, "lora", "sdxl"),
    "embedding": ({"emb_params": vectors(2, 768)}, "embedding", "sd15"),
    "embedding of SDXL": ({"clip_l": vectors(2, 768), "clip_g": vectors(2, 1280)}, "embedding", "sdxl"),
    "ControlNet": ({"control_model.time_embed.0.weight": vectors(4, 4)}, "a ControlNet", None),
    "SD 3": ({"model.diffusion_model.joint_blocks.0.x": vectors(4)}, "a Stable Diffusion 3 transformer", None),
    "Flux": ({"double_blocks.0.img_attn.norm.key_norm.scale": vectors(4)}, "a Flux transformer", None),
    "nothing": ({}, "nothing known", None),
    "something": ({"a": vectors(), "b": vectors(3), "c": vectors(1)}, "nothing known", None),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files(name: str) -> None:
    tensors, kind, family = OTHERS[name]
    found = identify(header_of(tensors))
    assert found.kind == kind
    assert found.families[:1] == (() if family is None else (family,))
    assert article(kind).startswith(("a ", "an ", "nothing"))


def test_info_says_it_on_one_screen(tmp_path, capsys) -> None:
    """From the header alone: the tensors of this file are a hole in a sparse file, two gigabytes long."""
    table, position = {}, 0
    for name, tensor in single("sd15").items():
        table[name] = {
            "dtype": "F16",
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.nbytes],
        }
        position += tensor.nbytes
    table["__metadata__"] = {f"ss_{i}": "long " * 1000 for i in range(99)}
    text = json.dumps(table).encode()
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)
    assert headers.read_header(path).tensors.keys() == single("sd15").keys()
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    for words in (
        "model.safetensors: a model",
        "family: sd15\n",
        "predicts epsilon",
        "because its U-Net takes",
    ):
        assert words in out
    assert "unet: 859,520,964 numbers" in out
    assert "... and 83 more entries" in out
    assert len(out.splitlines()) < 40
