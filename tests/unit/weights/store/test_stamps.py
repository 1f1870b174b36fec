"""Files that change under a model whose tensors are mapped from them."""

import os
import shutil
from pathlib import Path

import pytest
import torch

import diffuscope as ds
from diffuscope.errors import WeightsError
from diffuscope.pipeline import Pipeline

CALL = {"seed": 1, "num_inference_steps": 1}


@pytest.fixture
def opened(tiny_folder: Path, tmp_path: Path) -> tuple[Pipeline, Path]:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    return ds.load(folder, device="cpu"), folder / "unet.safetensors"


def rewrite(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-8:] = b"12345678"
    with path.open("rb+") as file:
        file.write(data)
    os.utime(
        path, ns=(0, path.stat().st_mtime_ns + 10**9)
    )  # of a coarse clock the second write may have the time of the first


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("change", [rewrite, truncate])
def test_a_file_that_was_written_over_is_noticed_before_it_is_read(opened: tuple[Pipeline, Path], change) -> None:
    pipe, path = opened
    pipe("a fox", **CALL)
    change(path)
    with pytest.raises(WeightsError, match=r"unet\.safetensors was changed since the model was opened"):
        pipe("a fox", **CALL)
    with pytest.raises(WeightsError, match="was changed"):
        pipe.save(path.with_name("copy"))


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_file_of_the_same_name_is_another_file(opened: tuple[Pipeline, Path], how: str) -> None:
    pipe, path = opened
    before = pipe("a fox", **CALL).latents
    if how == "replaced":
        shutil.copy(path.with_name("vae.safetensors"), path.with_name("other"))
        path.with_name("other").replace(path)
    else:
        path.unlink()
    assert torch.equal(pipe("a fox", **CALL).latents, before)


def test_a_file_that_was_read_whole_may_change(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    pipe = ds.load(folder, device="cpu", dtype="bfloat16")
    truncate(folder / "unet.safetensors")
    pipe("a fox", **CALL)


def test_another_vae_is_watched_too(tiny: Pipeline, folder: Path, tmp_path: Path) -> None:
    path = shutil.copy(folder / "vae/diffusion_pytorch_model.safetensors", tmp_path / "vae.safetensors")
    pipe = ds.load(folder, device="cpu", vae=path)
    truncate(tmp_path / "vae.safetensors")
    with pytest.raises(WeightsError, match=r"vae\.safetensors was changed"):
        pipe("a fox", **CALL)
