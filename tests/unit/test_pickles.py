"""Pickles in the place of models: refused unless allowed, and then read as tensors, with nothing of them run."""

import os
import pickle
import runpy
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffuscope.cli import main
from diffuscope.errors import WeightsError
from diffuscope.loading import load_components
from diffuscope.pipeline import Pipeline, load
from diffuscope.weights.store.stores import open_store


class Hostile:
    """Unpickled by a plain ``pickle.load``, this runs code."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.made = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.made


def touching(canary: Path) -> Hostile:
    return Hostile(os.system, f"touch {canary}")


def zipped(path: Path, content: object) -> None:
    torch.save(content, path)


def plain(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def legacy(path: Path, content: object) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def stacked(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps({}, protocol=2) + pickle.dumps(content, protocol=2))


def damaged(path: Path, content: object) -> None:
    torch.save(content, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data[:-40])


def in_an_archive(path: Path, content: object) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(content))


PICKLES: dict[str, tuple[Callable[[Path, object], None], Callable[[Path], object]]] = {
    "os.system": (zipped, lambda canary: {"a": touching(canary)}),
    "os.system in a plain pickle": (plain, lambda canary: {"a": touching(canary)}),
    "os.system of before 2020": (legacy, lambda canary: {"a": touching(canary)}),
    "os.system behind another pickle": (stacked, lambda canary: touching(canary)),
    "os.system in an archive of another kind": (in_an_archive, lambda canary: touching(canary)),
    "os.system in a damaged file": (damaged, lambda canary: {"a": torch.ones(99), "b": touching(canary)}),
    "runpy": (zipped, lambda canary: {"a": Hostile(runpy.run_path, str(canary.with_name("evil.py")))}),
    "eval": (zipped, lambda canary: {"a": Hostile(eval, f"open({str(canary)!r}, 'w')")}),
    "shutil": (zipped, lambda canary: {"a": Hostile(shutil.copy, str(canary.with_name("evil.py")), str(canary))}),
    "a list": (zipped, lambda _: [torch.ones(1)]),
    "a tensor": (zipped, lambda _: torch.ones(1)),
    "no tensor": (zipped, lambda _: {"epoch": 3}),
    "one number that would be a terabyte": (zipped, lambda _: {"a": torch.ones(1).expand(1 << 38)}),
    "a sparse tensor": (zipped, lambda _: {"a": torch.eye(2).to_sparse()}),
    "complex numbers": (zipped, lambda _: {"a": torch.ones(2, dtype=torch.complex64)}),
}


@pytest.mark.parametrize("ending", ["model.ckpt", "model.safetensors", "model"])
@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle(tmp_path: Path, name: str, ending: str) -> None:
    """Refused by default, under every name; and where it is allowed, nothing of it runs."""
    write, content = PICKLES[name]
    canary, path = tmp_path / "canary", tmp_path / ending
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
    write(path, content(canary))
    with pytest.raises(WeightsError, match=r"which can run code.*allow_pickle"):
        load_components(path, "cpu")
    with pytest.raises(WeightsError) as caught:
        open_store(path, allow_pickle=True)
    assert str(path) in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize(("write", "says"), [(zipped, "'posix.system'"), (plain, "'posix.system'"), (legacy, "system")])
def test_a_refusal_names_what_the_pickle_would_call_and_gives_no_advice(tmp_path: Path, write, says: str) -> None:
    path = tmp_path / "model.ckpt"
    write(path, {"a": Hostile(os.system, "true")})
    with pytest.raises(WeightsError) as caught:
        open_store(path, allow_pickle=True)
    assert says in str(caught.value)
    assert "torch.load" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def deflated(path: Path, content: object) -> None:
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        members = {each.filename: archive.read(each) for each in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


BOMBS = {
    "buffers of a gigabyte": (zipped, {"a": Hostile(bytearray, 10**9)}),
    "buffers of a gigabyte in a plain pickle": (plain, {"a": Hostile(bytearray, 10**9)}),
    "a compressed archive": (deflated, {"a": torch.ones(2), "epochs": [0] * 10**5}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_pickle_asks_for_no_large_memory(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write, content = BOMBS[name]
    write(tmp_path / "model.ckpt", content)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the pickle was read"))
    with pytest.raises(WeightsError, match=r"bytearray|compressed"):
        open_store(tmp_path / "model.ckpt", allow_pickle=True)


BIN = {"model.safetensors": "pytorch_model.bin", "diffusion_pytorch_model.safetensors": "diffusion_pytorch_model.bin"}


@pytest.mark.parametrize("half", [False, True])
def test_a_folder_of_pickles_is_read_where_it_is_allowed(tiny: Pipeline, folder: Path, half: bool, capsys) -> None:
    """As diffusers wrote folders before safetensors."""
    for path in sorted(folder.rglob("*.safetensors")):
        name = BIN[path.name].replace(".bin", ".fp16.bin") if half else BIN[path.name]
        tensors = load_file(path)
        torch.save({key: tensor.half() if half else tensor for key, tensor in tensors.items()}, path.with_name(name))
        path.unlink()
    with pytest.raises(WeightsError, match=r"\.bin is a pickle, which can run code.*or allow pickles"):
        load(folder)
    found = load(folder, "cpu", allow_pickle=True)
    assert found.config == tiny.config
    for part, network in tiny.components.networks.items():
        for key, tensor in network.state_dict().items():
            wanted = tensor.half().float() if half else tensor
            assert torch.equal(found.components.networks[part].state_dict()[key], wanted), key
    assert load(folder, "cpu", vae=folder, allow_pickle=True).weights == found.weights
    assert main(["info", str(folder)]) == 2
    assert "allow pickles" in capsys.readouterr().err
    assert main(["info", str(folder), "--allow-pickle"]) == 0
    assert f"unet: {len(tiny.unet.state_dict())} tensors" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_nothing_in_a_folder_of_pickles_is_run(folder: Path, part: str) -> None:
    whole = next((folder / part).glob("*.safetensors"))
    canary = folder / "canary"
    torch.save(load_file(whole) | {"a": touching(canary)}, whole.with_name(BIN[whole.name]))
    whole.unlink()
    for allow_pickle in (False, True):
        with pytest.raises(WeightsError, match=r"\.bin is (a pickle|refused)") as caught:
            load(folder, "cpu", allow_pickle=allow_pickle)
        assert BIN[whole.name] in str(caught.value)
    assert not canary.exists()
