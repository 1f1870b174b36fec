"""Every mistake a person can make: which error, what it says, what the command line answers. Nothing is left behind."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFile

import diffuscope as ds
from diffuscope.cli import main
from diffuscope.errors import (
    DiffuscopeError,
    ImageError,
    InputError,
    ModelNotFoundError,
    OutputError,
    WeightMismatchError,
    WeightsError,
)
from diffuscope.images import MAX_PIXELS
from diffuscope.pipeline import Pipeline
from diffuscope.types import Conditioning
from diffuscope.weights.store import files


@dataclass(frozen=True)
class Bad:
    """One mistake in a call."""

    arguments: dict[str, object]
    error: type[DiffuscopeError]
    words: tuple[str, ...]
    flags: tuple[str, ...] | None = None
    """The same mistake on the command line, where it can be made there."""


NAN, INF = float("nan"), float("inf")
CALLS: dict[str, Bad] = {
    "no prompt": Bad({"prompt": None}, InputError, ("neither a prompt nor conditioning",)),
    "prompt is a number": Bad({"prompt": 3}, InputError, ("prompt is 3", "give one text")),
    "no prompts": Bad({"prompt": []}, InputError, ("empty list",)),
    "prompt holds a number": Bad({"prompt": ["a", 3]}, InputError, ("['a', 3]",)),
    "half a character": Bad({"prompt": "\ud83e"}, InputError, ("U+D83E", "valid Unicode")),
    "negative prompts": Bad({"negative_prompt": ["a", "b"]}, InputError, ("2 negative prompts for 1 prompts",)),
    "prompt and states": Bad(
        {"conditioning": Conditioning(torch.zeros(1, 77, 32))}, InputError, ("both a prompt and conditioning",)
    ),
    "states of another width": Bad(
        {"prompt": None, "conditioning": Conditioning(torch.zeros(1, 77, 768))}, InputError, ("[B,T,32]", "768")
    ),
    "no steps": Bad(
        {"num_inference_steps": 0}, InputError, ("num_inference_steps is 0", "from 1 to 1000"), ("--steps", "0")
    ),
    "negative steps": Bad({"num_inference_steps": -3}, InputError, ("is -3",), ("--steps", "-3")),
    "too many steps": Bad({"num_inference_steps": 1001}, InputError, ("is 1001",), ("--steps", "1001")),
    "half a step": Bad({"num_inference_steps": 2.5}, InputError, ("is 2.5", "whole number"), ("--steps", "2.5")),
    "steps are a truth": Bad({"num_inference_steps": True}, InputError, ("is True",)),
    "guidance is not a number": Bad(
        {"guidance_scale": NAN}, InputError, ("guidance_scale is nan", "finite"), ("--guidance-scale", "nan")
    ),
    "infinite guidance": Bad({"guidance_scale": INF}, InputError, ("is inf",), ("--guidance-scale", "inf")),
    "height": Bad({"height": 33}, InputError, ("height is 33", "multiple of 2", "32 or 34"), ("--height", "33")),
    "width": Bad({"width": 0}, InputError, ("width is 0",), ("--width", "0")),
    "gigantic width": Bad({"width": 2**31}, InputError, ("from 2 to 8192",), ("--width", str(2**31))),
    "no images": Bad({"num_images_per_prompt": 0}, InputError, ("num_images_per_prompt is 0",), ("--count", "0")),
    "too many images": Bad(
        {"prompt": ["a"] * 600, "num_images_per_prompt": 2}, InputError, ("600 prompts x 2 = 1200", "at most 1024")
    ),
    "negative seed": Bad({"seed": -1}, InputError, ("seed is -1",), ("--seed", "-1")),
    "gigantic seed": Bad({"seed": 2**64}, InputError, ("seed is 18446744073709551616",), ("--seed", str(2**64))),
    "seeds": Bad({"seed": [1, 2, 3]}, InputError, ("3 seeds for 1 images",)),
    "seed is a text": Bad({"seed": "1"}, InputError, ("seed is '1'",), ("--seed", "x")),
    "sampler": Bad(
        {"sampler": "dpm++2n"},
        InputError,
        ("got 'dpm++2n'", "Did you mean 'dpmpp_2", "euler"),
        ("--sampler", "dpm++2n"),
    ),
    "sampler is a number": Bad({"sampler": 3}, InputError, ("sampler is 3", "euler")),
    "sampler option": Bad(
        {"sampler": "ddim", "sampler_options": {"eto": 1.0}},
        InputError,
        ("'ddim' has no option 'eto'", "eta=0.0"),
        ("--sampler", "ddim", "--sampler-options", "eto=1"),
    ),
    "sampler option is no number": Bad(
        {"sampler": "ddim", "sampler_options": {"eta": "much"}},
        InputError,
        ("eta is 'much'", "finite number"),
        ("--sampler", "ddim", "--sampler-options", "eta=much"),
    ),
    "sampler option is no word": Bad({"sampler": "unipc", "sampler_options": {"variant": 1}}, InputError, ("bh2",)),
    "sampler options are a list": Bad({"sampler_options": ["eta"]}, InputError, ("give a dict",)),
    "spacing": Bad({"sigmas": "kerras"}, InputError, ("'kerras'", "karras"), ("--sigmas", "kerras")),
    "rising noise levels": Bad({"sigmas": [1.0, 2.0]}, InputError, ("not strictly decreasing",)),
    "one noise level": Bad({"sigmas": [1.0]}, InputError, ("at least two",)),
    "noise level is not a number": Bad({"sigmas": [NAN, 0.0]}, InputError, ("noise level", "nan")),
    "final sigma": Bad({"final_sigma": "one"}, InputError, ("'one'", "'sigma_min'"), ("--final-sigma", "one")),
    "final sigma of given levels": Bad(
        {"sigmas": [1.0, 0.5], "final_sigma": "zero"}, InputError, ("the levels are given",)
    ),
    "thresholding is a list": Bad({"thresholding": ["limit"]}, InputError, ("give a dict", "ratio")),
    "thresholding of no kind": Bad(
        {"thresholding": {"rate": 1}}, InputError, ("no option 'rate'", "ratio"), ("--thresholding", "rate=1")
    ),
    "thresholding of both kinds": Bad({"thresholding": {"limit": 1, "most": 2}}, InputError, ("give one kind",)),
    "threshold is no number": Bad(
        {"thresholding": {"limit": "x"}}, InputError, ("limit of thresholding is 'x'",), ("--thresholding", "limit=x")
    ),
    "threshold outside its range": Bad({"thresholding": {"ratio": 1.5}}, InputError, ("1.5 is outside 0 to 1",)),
    "strength 0": Bad({"image": "in.png", "strength": 0.0}, InputError, ("(0, 1]",), ("--strength", "0")),
    "strength above 1, of no image": Bad({"strength": 1.5}, InputError, ("1.5",), ("--strength", "1.5")),
    "strength is not a number": Bad({"image": "in.png", "strength": NAN}, InputError, ("nan",), ("--strength", "nan")),
    "strength leaves no step": Bad({"image": "in.png", "strength": 0.1}, InputError, ("leaves none",)),
    "no such image": Bad({"image": "gone.png"}, ImageError, ("gone.png does not exist",), ("--image", "gone.png")),
    "image is text": Bad({"image": "text.png"}, ImageError, ("text.png", "PNG, JPEG, WEBP"), ("--image", "text.png")),
    "image is truncated": Bad({"image": "torn.png"}, ImageError, ("torn.png cannot be read",), ("--image", "torn.png")),
    "image is gigantic": Bad(
        {"image": "huge.png"}, ImageError, ("huge.png has 9000x9000", f"{MAX_PIXELS:,}"), ("--image", "huge.png")
    ),
    "image is beyond PIL's warning": Bad({"image": "larger.png"}, ImageError, ("larger.png", f"{MAX_PIXELS:,}")),
    "image is beyond PIL's limit": Bad({"image": "largest.png"}, ImageError, ("largest.png", f"{MAX_PIXELS:,}")),
    "image is of another format": Bad({"image": "in.gif"}, ImageError, ("in.gif", "PNG"), ("--image", "in.gif")),
    "image is a folder": Bad({"image": "."}, ImageError, ("cannot be read",), ("--image", ".")),
    "images": Bad({"image": ["in.png", "in.png"]}, InputError, ("2 start images for 1 prompts",)),
    "latents of another shape": Bad({"latents": torch.zeros(2, 4, 16, 16)}, InputError, ("[1, 4, 16, 16]",)),
    "latents are not finite": Bad({"latents": torch.full((1, 4, 16, 16), NAN)}, InputError, ("not finite",)),
    "latents and image": Bad(
        {"latents": torch.zeros(1, 4, 16, 16), "image": "in.png"}, InputError, ("both latents and an image",)
    ),
    "tap name": Bad({"tap": {"unet.out.x": print}}, InputError, ("'unet.out.x'", "unet.out")),
    "tap is no function": Bad({"tap": 3}, InputError, ("tap is a int",)),
    "tap of no function": Bad({"tap": {"unet.out": 3}}, InputError, ("'unet.out' is a int",)),
    "tap changes a shape": Bad({"tap": {"unet.out": lambda value: value[:1]}}, InputError, ("same shape",)),
    "guidance function": Bad({"guidance": [5.0]}, InputError, ("guidance holds a float",)),
    "guidance makes no Denoiser": Bad({"guidance": lambda _: None}, InputError, ("returned a NoneType",)),
    "upscale": Bad({"upscale": 3}, InputError, ("upscale is 3", "1 or 4"), ("--upscale", "3")),
    "upscale is a fraction": Bad({"upscale": 4.0}, InputError, ("upscale is 4.0",)),
    "seed is two numbers": Bad({"seed": torch.tensor([1, 2])}, InputError, ("seed is tensor",)),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures, good and bad."""
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((32, 32), 50).convert("RGB").save("in.png")
    Image.new("RGB", (8, 8)).save("in.gif")
    Path("text.png").write_text("no picture")
    whole = Path("in.png").read_bytes()
    Path("torn.png").write_bytes(whole[: len(whole) // 2])
    for name, side in {"huge": 9_000, "larger": 11_000, "largest": 60_000}.items():
        Path(f"{name}.png").write_bytes(_with_size(whole, side))
    return tmp_path


def _with_size(png: bytes, side: int) -> bytes:
    """The same file, claiming to be ``side`` pixels wide and high."""
    import zlib

    header = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


@pytest.mark.parametrize("bad", CALLS.values(), ids=CALLS)
def test_a_call_refuses(tiny: Pipeline, place: Path, bad: Bad) -> None:
    arguments = {"prompt": "a fox", "seed": 1} | bad.arguments
    with pytest.raises(bad.error) as caught:
        tiny(**arguments)
    assert type(caught.value) is bad.error
    for word in bad.words:
        assert word in str(caught.value)


ON_THE_COMMAND_LINE = {name: bad.flags for name, bad in CALLS.items() if bad.flags is not None}


@pytest.mark.parametrize("flags", ON_THE_COMMAND_LINE.values(), ids=ON_THE_COMMAND_LINE)
def test_the_command_line_refuses(
    tiny_folder: Path, place: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    before = sorted(place.iterdir())
    more = () if "--image" in flags else ("--image", "in.png")
    assert main(["generate", "a fox", "--model", str(tiny_folder), "--quiet", *more, *flags]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert 0 < len(said.err.splitlines()) < 25
    assert sorted(place.iterdir()) == before


def _drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def _cut(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = files.read(folder / "unet.safetensors")
        change(tensors)
        files.write(folder / "unet.safetensors", tensors)

    return spoil


def _config(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        document = json.loads((folder / "config.json").read_text())
        change(document)
        (folder / "config.json").write_text(json.dumps(document))

    return spoil


FOLDERS: dict[str, tuple[Callable[[Path], object], type[DiffuscopeError], tuple[str, ...]]] = {
    "no config": (_drop("config.json"), ModelNotFoundError, ("neither config.json", "model_index.json")),
    "no U-Net": (_drop("unet.safetensors"), ModelNotFoundError, ("has no unet.safetensors",)),
    "truncated": (_cut("vae.safetensors"), WeightsError, ("vae.safetensors", "truncated")),
    "empty": (_write("unet.safetensors", b""), WeightsError, ("unet.safetensors", "0 bytes")),
    "a pickle": (_write("unet.safetensors", b"\x80\x04" + bytes(100)), WeightsError, ("pickle", "run code")),
    "a zip": (_write("unet.safetensors", b"PK\x03\x04" + bytes(100)), WeightsError, ("zip",)),
    "an LFS pointer": (
        _write("unet.safetensors", b"version https://git-lfs.github.com/spec/v1"),
        WeightsError,
        ("git lfs pull",),
    ),
    "a tensor missing": (_tensors(lambda t: t.pop("stem.weight")), WeightMismatchError, ("1 missing (stem.weight)",)),
    "a tensor too many": (_tensors(lambda t: t.update(x=torch.zeros(1))), WeightMismatchError, ("1 too many (x)",)),
    "a tensor of another shape": (
        _tensors(lambda t: t.update({"stem.bias": torch.zeros(7)})),
        WeightMismatchError,
        ("'stem.bias'", "[7]", "[32]"),
    ),
    "config is no JSON": (_write("config.json", b"{"), WeightsError, ("config.json", "describes no model")),
    "config is a list": (_write("config.json", b"[]"), WeightsError, ("no JSON object with a name",)),
    "config is of bytes": (_write("config.json", b"\xff\xfe"), WeightsError, ("describes no model",)),
    "an unknown key": (_config(lambda c: c.update(wings=2)), WeightsError, ("wings",)),
    "a part is a number": (_config(lambda c: c.update(unet=2)), WeightsError, ("describes no model",)),
    "impossible heads": (_config(lambda c: c["unet"].update(heads=[3, 3])), WeightsError, ("do not split",)),
    "an unknown prediction": (
        _config(lambda c: c["schedule"].update(prediction="v_prediction")),
        WeightsError,
        ("prediction is 'v_prediction'", "epsilon, v, x0"),
    ),
    "unknown betas": (_config(lambda c: c["schedule"].update(betas="squared")), WeightsError, ("betas is 'squared'",)),
    "unknown spacing": (_config(lambda c: c["schedule"].update(spacing="even")), WeightsError, ("spacing is 'even'",)),
    "falling betas": (_config(lambda c: c["schedule"].update(beta_end=2.0)), WeightsError, ("betas go from",)),
    "no training steps": (_config(lambda c: c["schedule"].update(train_steps=0)), WeightsError, ("train_steps is 0",)),
    "an unknown activation": (
        _config(lambda c: c["text_encoder"].update(activation="relu")),
        WeightsError,
        ("activation is 'relu'", "quick_gelu"),
    ),
    "a width that is a fraction": (
        _config(lambda c: c["text_encoder"].update(width=32.0)),
        WeightsError,
        ("width is 32.0", "whole number"),
    ),
    "channels that are fractions": (
        _config(lambda c: c["vae"].update(channels=[16.0, 32.0])),
        WeightsError,
        ("channels is 16.0",),
    ),
    "no norm groups": (_config(lambda c: c["unet"].update(norm_groups=0)), WeightsError, ("norm_groups is 0",)),
    "latents times nothing": (_config(lambda c: c["vae"].update(scale=0.0)), WeightsError, ("scale is 0.0",)),
    "a tokenizer of nothing": (_write("tokenizer/merges.txt", b""), WeightsError, ("merges.txt",)),
    "a damaged tokenizer": (_write("tokenizer/merges.txt", b"\xff"), WeightsError, ("merges.txt",)),
}


@pytest.mark.parametrize(("spoil", "error", "words"), FOLDERS.values(), ids=FOLDERS)
def test_a_spoilt_folder_is_refused(
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    error: type[DiffuscopeError],
    words: tuple[str, ...],
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    spoil(folder)
    with pytest.raises(error) as caught:
        ds.load(folder, device="cpu")
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)
    out = tmp_path / "out.png"
    assert main(["generate", "a fox", "--model", str(folder), "--out", str(out)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not out.exists()


LOADS: dict[str, tuple[dict[str, object], type[DiffuscopeError], tuple[str, ...]]] = {
    "no such model": ({"name_or_path": "emojy"}, ModelNotFoundError, ("no model 'emojy'", "folder")),
    "a name that is too long": ({"name_or_path": "x" * 5000}, ModelNotFoundError, ("no model 'xxx",)),
    "a name with a zero": ({"name_or_path": "a\0b"}, ModelNotFoundError, ("no model",)),
    "a hub id": ({"name_or_path": "someone/some-model"}, ModelNotFoundError, ("not in the hub's cache",)),
    "a single file": ({"name_or_path": "single.safetensors"}, WeightsError, ("single.safetensors", "truncated")),
    "an empty folder": ({"name_or_path": "empty"}, ModelNotFoundError, ("is no model",)),
    "no such device": ({"device": "tpu"}, InputError, ("'tpu'", "cpu")),
    "no device at all": ({"device": "meta"}, InputError, ("'meta'", "device of this machine")),
    "no such dtype": ({"dtype": "float8"}, InputError, ("'float8'", "bfloat16")),
    "a dtype that is no float": ({"dtype": torch.int8}, InputError, ("torch.int8",)),
    "a family": ({"family": "sd15"}, InputError, ("'sd15'", "None for a folder")),
}


@pytest.mark.parametrize(("arguments", "error", "words"), LOADS.values(), ids=LOADS)
def test_load_refuses(
    tiny_folder: Path, place: Path, arguments: dict, error: type[DiffuscopeError], words: tuple[str, ...]
) -> None:
    Path("empty").mkdir()
    Path("single.safetensors").write_bytes(b"")
    with pytest.raises(error) as caught:
        ds.load(**({"name_or_path": tiny_folder} | arguments))
    for word in words:
        assert word in str(caught.value)


def _read_only_folder(tmp_path: Path) -> Path:
    """One that nobody may write to: root may write to what it marked read-only, but not to the kernel's own tree."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    return folder if not os.access(folder, os.W_OK) else Path("/sys/kernel")


OUTPUTS: dict[str, tuple[Callable[[Path], Path], type[DiffuscopeError], tuple[str, ...]]] = {
    "no folder": (lambda place: place / "gone" / "out.png", OutputError, ("there is no folder", "make it first")),
    "a file as folder": (lambda place: place / "in.png" / "out.png", OutputError, ("there is no folder",)),
    "read-only": (lambda place: _read_only_folder(place) / "out.png", OutputError, ("cannot", "permission")),
    "a folder": (lambda place: (place / "dir.png").mkdir() or place / "dir.png", OutputError, ("it is a folder",)),
    "a name that is too long": (lambda place: place / ("x" * 300 + ".png"), OutputError, ("cannot be written",)),
    "another format": (lambda place: place / "out.jpg", InputError, ("out.jpg", "*.png")),
}


@pytest.mark.parametrize(("where", "error", "words"), OUTPUTS.values(), ids=OUTPUTS)
def test_an_impossible_output_is_refused(
    tiny: Pipeline,
    tiny_folder: Path,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    where: Callable[[Path], Path],
    error: type[DiffuscopeError],
    words: tuple[str, ...],
) -> None:
    path = where(place)
    before = sorted(place.rglob("*"))
    with pytest.raises(error) as caught:
        tiny("a fox", seed=1).save(path)
    for word in words:
        assert word in str(caught.value)
    assert main(["generate", "a fox", "--model", str(tiny_folder), "--quiet", "--out", str(path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert sorted(place.rglob("*")) == before


def test_saving_a_model_refuses(tiny: Pipeline, place: Path) -> None:
    with pytest.raises(InputError, match="'onnx'"):
        tiny.save("model", layout="onnx")
    with pytest.raises(InputError, match=r"model does not end in \.safetensors"):
        tiny.save("model", layout="single")
    (place / "single.safetensors").touch()
    with pytest.raises(OutputError, match=r"single\.safetensors is there already"):
        tiny.save("single.safetensors", layout="single")
    with pytest.raises(OutputError, match="cannot be written"):
        tiny.save("gone/model.safetensors", layout="single")
    with pytest.raises(OutputError, match="there is no folder"):
        tiny.save("gone/model")
    with pytest.raises(OutputError, match="not an empty folder"):
        tiny.save(".")


def test_latents_and_pictures_of_the_wrong_shape(tiny: Pipeline) -> None:
    with pytest.raises(InputError, match=r"\[N,4,h,w\]"):
        tiny.decode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="at least 2 pixels"):
        tiny.encode_image(Image.new("RGB", (1, 1)))
    with pytest.raises(InputError, match="must share one size"):
        tiny.encode_image([Image.new("RGB", (8, 8)), Image.new("RGB", (16, 8))])
    with pytest.raises(TypeError, match="mask"):
        tiny("a", mask="in.png")


def test_truncated_pictures_are_not_filled_up(place: Path) -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
