"""Files from before format 2: every tensor gets the name that its network has for it today."""

from pathlib import Path

import pytest
import torch
from torch import nn

from diffuscope.config import EMOJI
from diffuscope.model_files import shipped_models
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.vision.classifier import Classifier, ClassifierConfig
from diffuscope.vision.efficientnet import EfficientNet
from diffuscope.weights.identify.families import identify
from diffuscope.weights.store import headers, packing
from diffuscope.weights.store.old_names import current_names

SHIPPED = shipped_models()["emoji-base"]
CLASSIFIER = Path(__file__).parents[4] / "benchmarks" / "classifier" / "classifier.safetensors"
DEEP = {
    "mid.res.0.conv_in.weight": "mid.resnet.0.conv1.weight",
    "mid.enter.0.norm.weight": "mid.attn.0.norm.weight",
    "mid.block.0.norm_self.weight": "mid.attn.0.block.0.norm1.weight",
    "mid.block.1.norm_self.weight": "mid.attn.0.block.1.norm1.weight",
    "mid.block.2.norm_self.weight": "mid.attn.0.block.2.norm1.weight",
    "up.0.enter.0.norm.weight": "up.0.attn.0.norm.weight",
    "up.0.enter.1.norm.weight": "up.0.attn.1.norm.weight",
    "up.0.block.0.norm_self.weight": "up.0.attn.0.block.0.norm1.weight",
    "up.0.block.1.norm_self.weight": "up.0.attn.0.block.1.norm1.weight",
    "up.0.block.2.norm_self.weight": "up.0.attn.1.block.0.norm1.weight",
    "up.0.block.3.norm_self.weight": "up.0.attn.1.block.1.norm1.weight",
    "up.0.block.3.feed.expand.bias": "up.0.attn.1.block.1.ff.fc1.bias",
    "up.0.block.3.cross.out.bias": "up.0.attn.1.block.1.cross_attn.out.bias",
    "up.0.leave.1.project.weight": "up.0.attn.1.proj_out.weight",
    "extra.second.weight": "add_embed.linear_2.weight",
    "guidance.weight": "guidance_embed.weight",
}


def on_meta(kind: type[nn.Module], *config: object) -> nn.Module:
    with torch.device("meta"):
        return kind(*config)


@pytest.mark.parametrize(
    ("part", "network"),
    [
        ("text_encoder", on_meta(TextEncoder, EMOJI.text_encoder)),
        ("unet", on_meta(UNet, EMOJI.unet)),
        ("vae", on_meta(VAE, EMOJI.vae)),
    ],
)
def test_the_shipped_files_have_old_names(part: str, network: nn.Module) -> None:
    path = SHIPPED / f"{part}.safetensors"
    header = headers.read_header(path)
    entries = packing.read(path)
    assert entries.keys() != network.state_dict().keys()
    assert current_names(entries).keys() == network.state_dict().keys()
    assert identify(header).layout == "own"


def test_the_classifier_has_old_names() -> None:
    names = headers.read_header(CLASSIFIER).tensors
    network = on_meta(Classifier, ClassifierConfig())
    assert current_names(names).keys() == network.state_dict().keys() != names.keys()


def test_blocks_that_were_numbered_through_are_counted_by_transformer() -> None:
    tensors = {name: i for i, name in enumerate(DEEP)}
    assert current_names(tensors) == {DEEP[name]: i for name, i in tensors.items()}


def test_todays_names_and_those_of_other_networks_stay() -> None:
    for network in (on_meta(UNet, EMOJI.unet), on_meta(VAE, EMOJI.vae), on_meta(EfficientNet)):
        tensors = network.state_dict()
        assert list(current_names(tensors).items()) == list(tensors.items())


def test_a_file_with_both_names_of_a_tensor_keeps_both() -> None:
    tensors = {"mid.res.0.conv_in.weight": 0, "mid.resnet.0.conv1.weight": 1}
    assert current_names(tensors) == tensors
