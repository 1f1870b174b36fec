"""Model files and folders that are damaged, foreign or hostile: each a typed error that names file and rule.

Headers are in ``weights/store/test_files.py``, shards in ``test_shards.py`` there, pickles in ``test_pickles.py``.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffuscope.cli import main
from diffuscope.config import PRESETS
from diffuscope.errors import DiffuscopeError, ModelNotFoundError, WeightMismatchError, WeightsError
from diffuscope.loading import Components, load_components
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.pipeline import load
from diffuscope.weights.layout import single_file
from diffuscope.weights.layout.own_config import to_json as config_to_json
from refusals import assert_one_screen, refused, without_paths

Tensors = dict[str, Tensor]
MODEL = "model.diffusion_model."
FAMILY = "tiny-sd21-v"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    """A model of the shapes of SD 2 as a single file, with nothing in its metadata."""
    config = PRESETS[FAMILY]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {
            "text_encoder": TextEncoder(config.text_encoder),
            "unet": UNet(config.unet),
            "vae": VAE(config.vae),
        }
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    single_file.write(
        path, {part: each.state_dict() for part, each in networks.items()}, config, config_to_json(config)
    )
    return load_file(path)


def only(tensors: Tensors, prefix: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if key != name}


TOKEN = "cond_stage_model.model.token_embedding.weight"
FUSED = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"
STEM = f"{MODEL}input_blocks.0.0.weight"
QUERY = "first_stage_model.decoder.mid.attn_1.q.weight"
Change = Callable[[Tensors], Tensors]
SINGLE: dict[str, tuple[Change, type[DiffuscopeError], str]] = {
    "a tensor is missing": (lambda t: without(t, f"{MODEL}out.2.bias"), WeightMismatchError, "out.bias"),
    "a tensor too many": (lambda t: t | {f"{MODEL}x.weight": torch.ones(1)}, WeightMismatchError, "x.weight"),
    "another shape": (lambda t: t | {f"{MODEL}out.2.bias": torch.ones(5)}, WeightMismatchError, "[5]"),
    "whole numbers": (lambda t: t | {f"{MODEL}out.2.bias": torch.ones(4).int()}, WeightMismatchError, "int32"),
    "truths": (lambda t: t | {f"{MODEL}out.2.bias": torch.ones(4).bool()}, WeightMismatchError, "bool"),
    "a projection that does not split": (lambda t: t | {FUSED: torch.ones(95, 32)}, WeightMismatchError, "attn"),
    "a projection of no dimension": (lambda t: t | {FUSED: torch.ones(())}, WeightMismatchError, "attn"),
    "a convolution for a matrix": (lambda t: t | {QUERY: torch.ones(32, 32, 3, 3)}, WeightMismatchError, "attn_1.q"),
    "a vector for a matrix": (lambda t: t | {QUERY: torch.ones(32)}, WeightMismatchError, "attn_1.q"),
    "two names for one tensor": (
        lambda t: t | {"cond_stage_model.model.positional_embedding.weight": torch.ones(77, 32)},
        WeightMismatchError,
        "positional_embedding.weight",
    ),
    "the U-Net alone": (lambda t: only(t, MODEL), WeightsError, "U-Net"),
    "the VAE alone": (lambda t: only(t, "first_stage_model."), WeightsError, "model.safetensors"),
    "without VAE": (lambda t: {k: v for k, v in t.items() if k[:5] != "first"}, WeightsError, "vae"),
    "text encoder missing": (lambda t: {k: v for k, v in t.items() if k[:4] != "cond"}, WeightsError, "text encoder"),
    "a U-Net without a stem": (lambda t: without(t, STEM), WeightsError, "U-Net"),
    "a stem of no dimension": (lambda t: t | {STEM: torch.ones(())}, WeightsError, "U-Net"),
    "another family": (lambda t: t | {STEM: torch.ones(32, 8, 3, 3)}, WeightsError, "channels"),
    "a LoRA": (lambda _: {"lora_unet_x.lora_down.weight": torch.ones(4, 4)}, WeightsError, "LoRA"),
    "an embedding": (lambda _: {"emb_params": torch.ones(2, 768)}, WeightsError, "embedding"),
    "a ControlNet": (lambda _: {"control_model.x.weight": torch.ones(2)}, WeightsError, "ControlNet"),
    "Stable Diffusion 3": (lambda _: {f"{MODEL}joint_blocks.0.x": torch.ones(2)}, WeightsError, "Diffusion 3"),
    "no tensor": (lambda _: {}, WeightsError, "model.safetensors"),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_file(whole: Tensors, tmp_path: Path, name: str, capsys) -> None:
    change, error, noun = SINGLE[name]
    path = tmp_path / "model.safetensors"
    save_file(change(dict(whole)), path)
    family = FAMILY if name not in ("another family",) else None
    with pytest.raises(error) as caught:
        load_components(path, "cpu", family=family)
    assert str(path) in str(caught.value) or "tensor '" in str(caught.value)
    assert noun in without_paths(caught.value, tmp_path)
    assert main(["generate", "a", "--model", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert_one_screen(err)


def test_tensors_of_no_network_are_named(whole: Tensors, tmp_path: Path) -> None:
    """A trainer's state beside the networks refuses no model; what the tables know is not worth a word."""
    path = tmp_path / "model.safetensors"
    known = {"betas": torch.ones(2), "model_ema.decay": torch.ones(1), "denoiser.log_sigmas": torch.ones(2)}
    save_file(whole | known, path)
    assert load_components(path, "cpu", family=FAMILY).notes == ()
    save_file(whole | known | {"optimizer_states.0": torch.ones(2), "x": torch.ones(1)}, path)
    (note,) = load_components(path, "cpu", family=FAMILY).notes
    assert note == "model.safetensors has tensors that are not used: 'optimizer_states.0', 'x'"


METADATA = {
    "no JSON": "{",
    "deep JSON": "[" * 100_000,
    "no object": "3",
    "an unknown key": '{"name": "a", "code": "os.system"}',
    "a billion layers": '{"name": "a", "text_encoder": {"layers": 1000000000}}',
    "a billion blocks": '{"name": "a", "unet": {"blocks": 1000000000}}',
    "a billion depths": '{"name": "a", "unet": {"depth": [1000000000, 1, 1, 1]}}',
    "levels of blocks of layers": json.dumps(
        {
            "name": "a",
            "unet": {"channels": [32] * 256, "depth": [256] * 256, "heads": [1] * 256, "blocks": 256, "norm_groups": 1},
        }
    ),
    "few levels of many layers": json.dumps(
        {"name": "a", "unet": {"channels": [32] * 4, "depth": [256] * 4, "heads": [1] * 4, "norm_groups": 1}}
    ),
    "a hundred million timesteps": '{"name": "a", "schedule": {"train_steps": 100000000}}',
    "a key of a megabyte": json.dumps({"name": "a", "x" * 10**6: 1}),
    "no heads": '{"name": "a", "unet": {"heads": [0, 0, 0, 0]}}',
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_describe_no_model(whole: Tensors, tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({STEM: whole[STEM]}, path, {single_file.CONFIG_KEY: METADATA[name]})
    with pytest.raises(WeightsError, match=r"model\.safetensors.*config") as caught:
        load_components(path, "cpu")
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("in_zip", [True, False])
def test_a_pickle_of_tensors_is_read_where_it_is_allowed(whole: Tensors, tmp_path: Path, in_zip: bool) -> None:
    path = tmp_path / "model.ckpt"
    content = {"state_dict": whole, "global_step": 3, "epoch": 1}
    torch.save(content, path, _use_new_zipfile_serialization=in_zip)
    with pytest.raises(WeightsError) as caught:
        load(path)
    assert "pickle" in without_paths(caught.value, tmp_path)
    found = load(path, "cpu", "bfloat16", FAMILY, allow_pickle=True)
    assert found.config == PRESETS[FAMILY]
    assert torch.equal(found.unet.conv_in.weight, whole[STEM].bfloat16())
    assert main(["info", str(path)]) == 2
    assert main(["info", str(path), "--allow-pickle"]) == 0


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


FOLDERS: dict[str, tuple[Callable[[Path], object], type[DiffuscopeError], str]] = {
    "another class": (
        lambda folder: edit(folder / "model_index.json", unet=["my_module", "MyUNet"]),
        WeightsError,
        "MyUNet",
    ),
    "a class of the system": (
        lambda folder: edit(folder / "model_index.json", vae=["os", "system"]),
        WeightsError,
        "system",
    ),
    "a pipeline in the folder": (
        lambda folder: edit(folder / "model_index.json", _class_name=["pipeline", "Mine"]),
        WeightsError,
        "pipeline",
    ),
    "a class that is no name": (
        lambda folder: edit(folder / "model_index.json", unet={"code": 1}),
        WeightsError,
        "unet",
    ),
    "a billion layers": (
        lambda folder: edit(folder / "text_encoder/config.json", num_hidden_layers=10**9),
        WeightsError,
        "1000000000",
    ),
    "a billion channels": (
        lambda folder: edit(folder / "vae/config.json", block_out_channels=[8 * 10**12, 8 * 10**12]),
        WeightsError,
        "config",
    ),
    "another kind of network": (
        lambda folder: edit(folder / "unet/config.json", act_fn="mish"),
        WeightsError,
        "'mish'",
    ),
    "weights of another network": (
        lambda folder: shutil.copy(
            folder / "vae/diffusion_pytorch_model.safetensors", folder / "unet/diffusion_pytorch_model.safetensors"
        ),
        WeightMismatchError,
        "tensor '",
    ),
    "a pickle for the weights": (
        lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").rename(
            folder / "unet/diffusion_pytorch_model.bin"
        ),
        WeightsError,
        "pickle",
    ),
    "a part is missing": (lambda folder: shutil.rmtree(folder / "vae"), ModelNotFoundError, "vae/config.json"),
    "nothing in it": (lambda folder: [shutil.rmtree(folder), folder.mkdir()], ModelNotFoundError, "model_index.json"),
    "a list for an index": (
        lambda folder: (folder / "model_index.json").write_text("[]"),
        WeightsError,
        "model_index.json",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder(folder: Path, name: str) -> None:
    change, error, noun = FOLDERS[name]
    change(folder)
    with pytest.raises(error) as caught:
        load_components(folder, "cpu")
    assert str(folder) in str(caught.value) or "config.json" in str(caught.value) or "tensor '" in str(caught.value)
    assert noun in without_paths(caught.value, folder.parent)


def test_no_code_of_a_folder_is_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = folder / "canary"
    for place in (".", "unet", "tokenizer", "scheduler"):
        for name in ("pipeline.py", "__init__.py", "modeling.py", "tokenizer.py"):
            (folder / place / name).write_text(f"open({str(canary)!r}, 'w')")
    for part in ("unet", "vae", "text_encoder"):
        edit(folder / part / "config.json", auto_map={"AutoModel": "modeling.Mine"})
    edit(folder / "model_index.json", safety_checker=["modeling", "Mine"])
    monkeypatch.chdir(folder)
    before = set(sys.modules)
    load_components(folder, "cpu")
    assert not {"pipeline", "modeling"} & (set(sys.modules) - before)
    assert not canary.exists()


def test_a_family_is_asked_of_a_folder(folder: Path) -> None:
    with refused("family", "sd15"):
        load_components(folder, "cpu", family="sd15")


def test_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("a red fox\n" * 9)
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load(path)


def test_loading_opens_no_socket(whole: Tensors, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    save_file(whole, tmp_path / "model.safetensors")
    assert isinstance(load_components(tmp_path / "model.safetensors", "cpu", family=FAMILY), Components)
    assert isinstance(load_components(folder, "cpu").tokenizer, Tokenizer)
