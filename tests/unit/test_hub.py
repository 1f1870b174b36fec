"""Hub ids: the cache is used as it is, offline is offline, and only what is needed would be fetched."""

import shutil
import socket
import threading
from pathlib import Path

import pytest
from huggingface_hub import constants

import diffuscope as ds
from diffuscope import hub
from diffuscope.errors import ModelNotFoundError
from diffuscope.pipeline import Pipeline
from hub_files import COMMIT, cached
from refusals import refused


@pytest.fixture
def cache(diffusers_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which owner/tiny is whole; and no way to a network."""
    snapshot = cached(diffusers_folder, tmp_path / "hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a socket was opened"))
    monkeypatch.chdir(tmp_path)
    return snapshot


@pytest.mark.parametrize("name", ["owner/tiny", "owner/tiny@main", f"owner/tiny@{COMMIT}"])
@pytest.mark.parametrize("offline", [True, False])
def test_what_lies_in_the_cache_is_used(
    tiny: Pipeline, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, offline: bool
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    assert hub.fetch(name) == cache
    assert ds.load(name, device="cpu").weights == tiny.weights


def test_a_single_file_in_the_cache(tiny: Pipeline, cache: Path) -> None:
    tiny.save(cache / "all.safetensors", layout="single")
    assert ds.load("owner/tiny/all.safetensors", device="cpu").weights == tiny.weights


@pytest.mark.parametrize("spoil", ["unet/diffusion_pytorch_model.safetensors", "vae/config.json", "model_index.json"])
def test_offline_says_what_is_missing(cache: Path, spoil: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"is not in the hub's cache.*HF_HUB_OFFLINE"):
        ds.load("owner/other")
    (cache / spoil).unlink()
    with pytest.raises(ModelNotFoundError, match="is not complete in the hub's cache"):
        ds.load("owner/tiny")


def test_a_folder_goes_before_an_id(cache: Path, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "owner" / "tiny")
    assert ds.load("owner/tiny", device="cpu").config.name == "tiny"
    assert not hub.is_id("owner/other")  # owner is a folder here, so this is a path that does not exist
    with pytest.raises(ModelNotFoundError, match="no file, no folder"):
        ds.load("owner/other")


@pytest.mark.parametrize(
    "name",
    [
        "model",
        "/a/b",
        "./a/b",
        "a//b",
        "../b",
        "a/..",
        "a/b/../c",
        "a\\b",
        "https://a/b",
        "a/b@../c",
        "a/b@c/../../d",
        "a/b@/c",
    ],
)
def test_what_is_no_id(cache: Path, name: str) -> None:
    assert not hub.is_id(name)


SD15 = [
    ".gitattributes",
    "README.md",
    "feature_extractor/preprocessor_config.json",
    "model_index.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
]


def test_only_what_is_needed_is_fetched() -> None:
    weights = [name for name in hub.needed("owner/name", SD15) if name.endswith("s")]
    assert weights == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    assert not {"v1-5-pruned.ckpt", "safety_checker/config.json"} & set(hub.needed("owner/name", SD15))
    assert "tokenizer/vocab.json" in hub.needed("owner/name", SD15)  # it may have words of its own
    assert len(hub.needed("owner/name", SD15)) == len(weights) + 9


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_a_sharded_network_is_fetched_with_its_index(variant: str) -> None:
    shards = [f"unet/diffusion_pytorch_model{variant}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = f"unet/diffusion_pytorch_model.safetensors.index{variant}.json"
    assert hub.needed("owner/name", ["model_index.json", *shards, index]) == ["model_index.json", index, *shards]


def test_a_repository_without_a_model_lists_its_files() -> None:
    with refused("name_or_path", "owner/name"):
        hub.needed("owner/name", ["README.md", "a.safetensors"])


def test_without_a_network_the_hub_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt folder looks like an id, and must not cost half a minute of retries."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                asked.append(connection.recv(65536).split(b" ")[1].decode())
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelNotFoundError, match="no model 'models/sd15': there is no such folder") as caught:
            ds.load("models/sd15")
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert asked.count("/api/models/models/sd15") == 1
    assert len(str(caught.value).splitlines()) == 1
