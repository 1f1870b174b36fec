"""Renaming and assigning: each tensor exactly once, or an error that names it."""

import pytest
import torch
from torch import nn

from diffuscope.config import EMOJI, SD15, TINY
from diffuscope.errors import WeightMismatchError
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.weights.layout.diffusers import diffusers_layout, from_diffusers, to_diffusers
from diffuscope.weights.layout.rules import (
    Rename,
    bare,
    fused,
    pointwise,
    rename,
    reshape,
    reshape_back,
    transposed,
)
from diffuscope.weights.store.assign import blank, load_into

ONE = torch.ones(1)
RULES = [Rename("conv_in", "stem"), Rename("down_blocks.{i}.resnets.{j}.conv1", "down.{i}.resnet.{j}.conv1")]


def test_holes_carry_over_and_back():
    rule = RULES[1]
    assert rule.apply("down_blocks.3.resnets.12.conv1.weight") == "down.3.resnet.12.conv1.weight"
    assert rule.inverse().apply("down.3.resnet.12.conv1.bias") == "down_blocks.3.resnets.12.conv1.bias"


@pytest.mark.parametrize(
    "key",
    [
        "down_blocks.3.resnets.1.2.conv1.weight",  # a hole is one dotted part
        "down_blocks.3.resnets.1.conv1",  # no leaf
        "down_blocks.3.resnets.1.conv1.weight2",
        "x.down_blocks.3.resnets.1.conv1.weight",
        "down_blocksx3.resnets.1.conv1.weight",  # dots are dots
    ],
)
def test_rules_match_whole_names_only(key):
    assert RULES[1].apply(key) is None


def test_rename_keeps_the_tensors_themselves():
    tensors = {"conv_in.weight": torch.randn(2), "down_blocks.0.resnets.1.conv1.bias": torch.randn(2)}
    renamed = rename(tensors, RULES)
    assert list(renamed) == ["stem.weight", "down.0.resnet.1.conv1.bias"]
    assert renamed["stem.weight"] is tensors["conv_in.weight"]


def test_a_tensor_without_a_rule_is_an_error():
    with pytest.raises(WeightMismatchError, match=r"'conv_out\.weight'.*no rule"):
        rename({"conv_out.weight": ONE}, RULES)


def test_a_tensor_with_two_rules_is_an_error():
    with pytest.raises(WeightMismatchError, match=r"'conv_in\.weight'.*2 rules"):
        rename({"conv_in.weight": ONE}, [*RULES, Rename("{any}", "other.{any}")])


def test_two_tensors_of_one_name_are_an_error():
    with pytest.raises(WeightMismatchError, match=r"'conv_in\.weight' and 'old_in\.weight' both mean 'stem\.weight'"):
        rename({"conv_in.weight": ONE, "old_in.weight": ONE}, [*RULES, Rename("old_in", "stem")])


def test_ignored_tensors_are_left_out_and_have_a_reason():
    layout = diffusers_layout(TINY.text_encoder)
    assert all(layout.ignored.values())
    with torch.device("meta"):
        encoder = TextEncoder(TINY.text_encoder)
    theirs = to_diffusers(encoder.state_dict(), TINY.text_encoder)
    theirs["text_model.embeddings.position_ids"] = torch.arange(77)
    assert from_diffusers(theirs, TINY.text_encoder).keys() == encoder.state_dict().keys()


@pytest.mark.parametrize("model", [TINY, EMOJI, SD15], ids=lambda model: model.name)
def test_tables_are_exact_inverses_on_every_network(model):
    with torch.device("meta"):
        networks = [TextEncoder(model.text_encoder), UNet(model.unet), VAE(model.vae)]
    for network in networks:
        ours = network.state_dict()
        theirs = to_diffusers(ours, network.config)
        assert len(theirs) == len(ours)
        back = from_diffusers(theirs, network.config)
        assert list(back) == list(ours)


def test_text_encoder_is_read_with_and_without_prefix_but_not_both():
    with torch.device("meta"):
        ours = TextEncoder(TINY.text_encoder).state_dict()
    prefixed = to_diffusers(ours, TINY.text_encoder)
    bare = {name.removeprefix("text_model."): tensor for name, tensor in prefixed.items()}
    assert from_diffusers(bare, TINY.text_encoder).keys() == ours.keys()
    with pytest.raises(WeightMismatchError, match="both mean"):
        from_diffusers(prefixed | bare, TINY.text_encoder)


def test_a_projection_that_the_config_does_not_speak_of_is_an_error():
    with pytest.raises(WeightMismatchError, match="text_projection"):
        from_diffusers({"text_projection.weight": ONE}, TINY.text_encoder)


def small():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def test_load_into_replaces_parameters_without_a_copy():
    tensors = {name: tensor.half() for name, tensor in small().state_dict().items()}
    with torch.device("meta"):
        network = small()
    load_into(network, tensors)
    for name, parameter in network.named_parameters():
        assert parameter.data_ptr() == tensors[name].data_ptr()
        assert parameter.dtype == torch.float16
        assert parameter.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("1.bias"), r"a\.safetensors has 3 tensors, the network 4: 1 missing \(1\.bias\)"),
        (lambda t: t.update({"2.bias": ONE}), r"1 too many \(2\.bias\)"),
        (lambda t: t.update({"2.bias": t.pop("1.bias")}), r"1 missing \(1\.bias\); 1 too many \(2\.bias\)"),
        (lambda t: t.update({"0.bias": torch.ones(4)}), r"'0\.bias' of a\.safetensors has shape \[4\], expected \[3\]"),
        (lambda t: t.clear(), r"4 missing \(0\.bias, 0\.weight, 1\.bias, \.\.\.\)"),
    ],
)
def test_load_into_is_strict_and_leaves_the_network_alone(change, message):
    network, tensors = small(), small().state_dict()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    change(tensors)
    with pytest.raises(WeightMismatchError, match=message):
        load_into(network, tensors, source="a.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_blank_networks_hold_nothing_and_only_in_the_block():
    mine = torch.zeros(3)
    with blank():
        network = small()
        assert nn.init.normal_(mine) is mine
        assert nn.init.normal_(tensor=mine) is mine
    assert all(parameter.is_meta for parameter in network.parameters())
    assert not mine.any()
    assert nn.init.normal_(mine).all()
    assert not any(parameter.is_meta for parameter in small().parameters())


RESHAPES = {
    "bare": (bare("a", "b.weight"), torch.randn(3), ["b.weight"]),
    "transposed": (transposed("a", "b.weight"), torch.randn(3, 4), ["b.weight"]),
    "pointwise": (pointwise("a", "b.weight"), torch.randn(3, 4, 1, 1), ["b.weight"]),
    "fused": (fused("a", "q.weight", "k.weight", "v.weight"), torch.randn(6, 4), ["q.weight", "k.weight", "v.weight"]),
}


@pytest.mark.parametrize("name", RESHAPES)
def test_reshapes_lead_there_and_back(name):
    rule, tensor, ours = RESHAPES[name]
    found = reshape({"a": tensor, "other": tensor}, [rule])
    assert list(found) == ours
    back = reshape_back(found, [rule])
    assert torch.equal(back["a"], tensor)
    assert reshape_back({"other": tensor}, [rule]) == {}
    if name == "fused":  # no copy: the parts are views
        assert found["k.weight"].data_ptr() == tensor[2:].data_ptr()


@pytest.mark.parametrize("rule", [fused("a", "q", "k", "v"), transposed("a", "b"), pointwise("a", "b")])
@pytest.mark.parametrize("shape", [(), (4,), (4, 3, 2)])
def test_shapes_that_no_reshape_allows_are_errors(rule, shape):
    with pytest.raises(WeightMismatchError, match=r"tensor 'a' cannot be .*another kind of network"):
        reshape({"a": torch.zeros(shape)}, [rule])


def test_a_part_of_what_stands_together_is_an_error():
    with pytest.raises(WeightMismatchError, match="tensor 'a' needs k, v too"):
        reshape_back({"q": torch.zeros(2)}, [fused("a", "q", "k", "v")])
