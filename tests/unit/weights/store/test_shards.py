"""Shards: read as one, and every way in which a set can be torn is an error that names the file."""

import json
from pathlib import Path

import pytest
import torch

from diffuscope.config import TINY
from diffuscope.errors import DiffuscopeError, ModelNotFoundError, WeightsError
from diffuscope.loading import load_components
from diffuscope.pipeline import Pipeline
from diffuscope.weights.layout import diffusers_folder
from diffuscope.weights.store import files, shards

NAME = "diffusion_pytorch_model"


def split(folder: Path, name: str = "diffusion_pytorch_model") -> Path:
    """Cut the U-Net of a diffusers folder into two shards, as ``save_pretrained(max_shard_size=...)`` does."""
    whole = folder / "unet" / f"{name}.safetensors"
    tensors = files.read(whole)
    table = {}
    for i, keys in enumerate((list(tensors)[:40], list(tensors)[40:])):
        shard = f"{name}-{i + 1:05}-of-00002.safetensors"
        files.write(whole.with_name(shard), {key: tensors[key] for key in keys})
        table |= dict.fromkeys(keys, shard)
    index = whole.with_name(f"{name}.safetensors.index.json")
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))
    whole.unlink()
    return index


def test_shards_are_read_as_one(tiny: Pipeline, folder: Path) -> None:
    split(folder)
    again = load_components(folder, "cpu")
    assert all(torch.equal(tensor, again.unet.state_dict()[key]) for key, tensor in tiny.unet.state_dict().items())
    half = load_components(folder, "cpu", "bfloat16")
    assert {tensor.dtype for tensor in half.unet.state_dict().values()} == {torch.bfloat16}


def test_half_precision_alone_and_without_safety_checker(folder: Path) -> None:
    for part in ("unet", "vae"):
        (folder / part / f"{NAME}.safetensors").rename(folder / part / f"{NAME}.fp16.safetensors")
    split(folder, f"{NAME}.fp16").rename(folder / "unet" / f"{NAME}.safetensors.index.fp16.json")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert load_components(folder, "cpu").config.unet == TINY.unet


def table_of(index: Path) -> dict[str, str]:
    table: dict[str, str] = json.loads(index.read_text())["weight_map"]
    return table


def write(index: Path, table: object) -> None:
    index.write_text(json.dumps({"weight_map": table}))


def lose_half(index: Path) -> None:
    index.with_name(f"{NAME}-00002-of-00002.safetensors").unlink()


def move_a_tensor(index: Path) -> None:
    table = table_of(index)
    table["conv_in.weight"] = f"{NAME}-00002-of-00002.safetensors"
    write(index, table)


TORN = {
    "half of the set": (lose_half, ModelNotFoundError, "2 files, of which .*00002-of-00002.* missing"),
    "a tensor is elsewhere": (move_a_tensor, WeightsError, "disagree: 'conv_in.weight'"),
    "files in another folder": (
        lambda index: write(index, {"conv_in.weight": "../vae/a.safetensors"}),
        WeightsError,
        "expected .safetensors files beside it",
    ),
    "files that are pickles": (lambda index: write(index, {"a": "a.bin"}), WeightsError, "'a.bin'"),
    "a Windows path": (lambda index: write(index, {"a": "..\\a.safetensors"}), WeightsError, "beside it"),
    "a name of 5,000 characters": (
        lambda index: write(index, {"a": "x" * 5000 + ".safetensors"}),
        WeightsError,
        "beside it",
    ),
    "thousands of shards": (
        lambda index: write(index, {str(i): f"{i}.safetensors" for i in range(2000)}),
        WeightsError,
        "names 2000 files",
    ),
    "a hundred missing shards": (
        lambda index: write(index, {str(i): f"{i}.safetensors" for i in range(100)}),
        ModelNotFoundError,
        "and 95 more",
    ),
    "no table": (lambda index: write(index, []), WeightsError, "no weight_map"),
    "a table of numbers": (lambda index: write(index, {"a": 3}), WeightsError, "no weight_map"),
    "no JSON": (lambda index: index.write_text("{"), WeightsError, "cannot be read as JSON"),
    "deep JSON": (lambda index: index.write_text("[" * 100_000), WeightsError, "cannot be read as JSON"),
    "a list": (lambda index: index.write_text("[]"), WeightsError, "expected a JSON object"),
}


@pytest.mark.parametrize("name", TORN)
def test_a_torn_set_is_refused(folder: Path, name: str) -> None:
    tear, error, words = TORN[name]
    tear(split(folder))
    with pytest.raises(error, match=words) as caught:
        diffusers_folder.find_weights(folder, "unet")
    assert isinstance(caught.value, DiffuscopeError)


def test_an_endless_index_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = split(folder)
    monkeypatch.setattr(shards, "INDEX_LIMIT", 100)
    with pytest.raises(WeightsError, match="longer than 100 bytes"):
        shards.read_index(index)
