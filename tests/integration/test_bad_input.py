"""Every mistake a person can make: which error, about which argument or file, and the answer of the command line.

That answer is exit code 2 and one screen. Nothing is left behind. Sentences may change: no test asks for their words.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

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
from refusals import assert_one_screen, assert_says, refused, without_paths


@dataclass(frozen=True)
class Bad:
    """One mistake in a call."""

    arguments: dict[str, object]
    argument: str
    """The argument that the error is about."""
    shown: str = ""
    """Of the value that was got, what the message has to show; of an ImageError the file's name."""
    error: type[DiffuscopeError] = InputError
    flags: tuple[str, ...] | None = None
    """The same mistake on the command line, where it can be made there."""


NAN, INF = float("nan"), float("inf")
HUGE = 2**64
CALLS: dict[str, Bad] = {
    "no prompt": Bad({"prompt": None}, "prompt"),
    "prompt is a number": Bad({"prompt": 3}, "prompt", "3"),
    "no prompts": Bad({"prompt": []}, "prompt"),
    "prompt holds a number": Bad({"prompt": ["a", 3]}, "prompt", "3"),
    "half a character": Bad({"prompt": "\ud83e"}, "prompt", "d83e"),
    "negative prompts": Bad({"negative_prompt": ["a", "b"]}, "negative_prompt"),
    "prompt and states": Bad({"conditioning": Conditioning(torch.zeros(1, 77, 32))}, "prompt"),
    "states of another width": Bad(
        {"prompt": None, "conditioning": Conditioning(torch.zeros(1, 77, 768))}, "conditioning", "768"
    ),
    "no steps": Bad({"num_inference_steps": 0}, "num_inference_steps", "0", flags=("--steps", "0")),
    "negative steps": Bad({"num_inference_steps": -3}, "num_inference_steps", "-3", flags=("--steps", "-3")),
    "too many steps": Bad({"num_inference_steps": 1001}, "num_inference_steps", "1001", flags=("--steps", "1001")),
    "half a step": Bad({"num_inference_steps": 2.5}, "num_inference_steps", "2.5", flags=("--steps", "2.5")),
    "steps are a bool": Bad({"num_inference_steps": True}, "num_inference_steps", "True"),
    "guidance is not a number": Bad(
        {"guidance_scale": NAN}, "guidance_scale", "nan", flags=("--guidance-scale", "nan")
    ),
    "infinite guidance": Bad({"guidance_scale": INF}, "guidance_scale", "inf", flags=("--guidance-scale", "inf")),
    "height": Bad({"height": 33}, "height", "33", flags=("--height", "33")),
    "width": Bad({"width": 0}, "width", "0", flags=("--width", "0")),
    "gigantic width": Bad({"width": 2**31}, "width", str(2**31), flags=("--width", str(2**31))),
    "no images": Bad({"num_images_per_prompt": 0}, "num_images_per_prompt", "0", flags=("--count", "0")),
    "too many images": Bad({"prompt": ["a"] * 600, "num_images_per_prompt": 2}, "num_images_per_prompt", "2"),
    "negative seed": Bad({"seed": -1}, "seed", "-1", flags=("--seed", "-1")),
    "gigantic seed": Bad({"seed": HUGE}, "seed", str(HUGE), flags=("--seed", str(HUGE))),
    "seeds": Bad({"seed": [1, 2, 3]}, "seed", "3"),
    "seed is a text": Bad({"seed": "1"}, "seed", "'1'", flags=("--seed", "x")),
    "sampler": Bad({"sampler": "dpm++2n"}, "sampler", "dpm++2n", flags=("--sampler", "dpm++2n")),
    "sampler is a number": Bad({"sampler": 3}, "sampler", "3"),
    "sampler option": Bad(
        {"sampler": "ddim", "sampler_options": {"eto": 1.0}},
        "sampler_options",
        "eto",
        flags=("--sampler", "ddim", "--sampler-options", "eto=1"),
    ),
    "sampler option is no number": Bad(
        {"sampler": "ddim", "sampler_options": {"eta": "much"}},
        "sampler_options",
        "much",
        flags=("--sampler", "ddim", "--sampler-options", "eta=much"),
    ),
    "sampler option is no name": Bad({"sampler": "unipc", "sampler_options": {"variant": 1}}, "sampler_options", "1"),
    "sampler options are a list": Bad({"sampler_options": ["eta"]}, "sampler_options"),
    "spacing": Bad({"sigmas": "kerras"}, "sigmas", "kerras", flags=("--sigmas", "kerras")),
    "rising noise levels": Bad({"sigmas": [1.0, 2.0]}, "sigmas"),
    "one noise level": Bad({"sigmas": [1.0]}, "sigmas"),
    "noise level is not a number": Bad({"sigmas": [NAN, 0.0]}, "sigmas", "nan"),
    "final sigma": Bad({"final_sigma": "one"}, "final_sigma", "one", flags=("--final-sigma", "one")),
    "final sigma of given levels": Bad({"sigmas": [1.0, 0.5], "final_sigma": "zero"}, "final_sigma"),
    "thresholding is a list": Bad({"thresholding": ["limit"]}, "thresholding"),
    "thresholding of no kind": Bad({"thresholding": {"rate": 1}}, "thresholding", "rate"),
    "thresholding of both kinds": Bad({"thresholding": {"limit": 1, "ratio": 0.5}}, "thresholding"),
    "threshold is no number": Bad(
        {"thresholding": {"limit": "x"}}, "thresholding", "'x'", flags=("--thresholding-limit", "x")
    ),
    "threshold outside its range": Bad({"thresholding": {"ratio": 1.5}}, "thresholding", "1.5"),
    "strength 0": Bad({"image": "in.png", "strength": 0.0}, "strength", "0", flags=("--strength", "0")),
    "strength above 1, of no image": Bad({"strength": 1.5}, "strength", "1.5", flags=("--strength", "1.5")),
    "strength is not a number": Bad(
        {"image": "in.png", "strength": NAN}, "strength", "nan", flags=("--strength", "nan")
    ),
    "strength leaves no step": Bad({"image": "in.png", "strength": 0.1}, "strength", "0.1"),
    "no such image": Bad({"image": "gone.png"}, "image", "gone.png", ImageError, ("--image", "gone.png")),
    "image is text": Bad({"image": "text.png"}, "image", "text.png", ImageError, ("--image", "text.png")),
    "image is truncated": Bad({"image": "torn.png"}, "image", "torn.png", ImageError, ("--image", "torn.png")),
    "image is gigantic": Bad({"image": "huge.png"}, "image", f"{MAX_PIXELS:,}", ImageError, ("--image", "huge.png")),
    "image is beyond PIL's warning": Bad({"image": "larger.png"}, "image", f"{MAX_PIXELS:,}", ImageError),
    "image is beyond PIL's limit": Bad({"image": "largest.png"}, "image", f"{MAX_PIXELS:,}", ImageError),
    "image is of another format": Bad({"image": "in.gif"}, "image", "in.gif", ImageError, ("--image", "in.gif")),
    "image is a folder": Bad({"image": "."}, "image", ".", ImageError, ("--image", ".")),
    "images": Bad({"image": ["in.png", "in.png"]}, "image"),
    "latents of another shape": Bad({"latents": torch.zeros(2, 4, 16, 16)}, "latents", "[2, 4, 16, 16]"),
    "latents are not finite": Bad({"latents": torch.full((1, 4, 16, 16), NAN)}, "latents"),
    "latents and image": Bad({"latents": torch.zeros(1, 4, 16, 16), "image": "in.png"}, "latents"),
    "tap name": Bad({"tap": {"unet.conv_out.x": print}}, "tap", "unet.conv_out.x"),
    "tap is no function": Bad({"tap": 3}, "tap"),
    "tap of no function": Bad({"tap": {"unet.conv_out": 3}}, "tap"),
    "tap changes a shape": Bad({"tap": {"unet.conv_out": lambda value: value[:1]}}, "tap"),
    "guidance function": Bad({"guidance": [5.0]}, "guidance"),
    "guidance makes no Denoiser": Bad({"guidance": lambda _: None}, "guidance"),
    "upscale": Bad({"upscale": 3}, "upscale", "3", flags=("--upscale", "3")),
    "upscaled beyond what is read": Bad(
        {"height": 2304, "width": 2304, "upscale": 4},
        "upscale",
        "9216x9216",
        flags=("--width", "2304", "--height", "2304", "--upscale", "4"),
    ),
    "upscale is a fraction": Bad({"upscale": 4.0}, "upscale", "4.0"),
    "seed is two numbers": Bad({"seed": torch.tensor([1, 2])}, "seed"),
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
    assert_says(caught.value, bad.argument, bad.shown)


ON_THE_COMMAND_LINE = {name: bad for name, bad in CALLS.items() if bad.flags is not None}


@pytest.mark.parametrize("bad", ON_THE_COMMAND_LINE.values(), ids=ON_THE_COMMAND_LINE)
def test_the_command_line_refuses(tiny_folder: Path, place: Path, capsys: pytest.CaptureFixture[str], bad: Bad) -> None:
    assert bad.flags is not None
    before = sorted(place.iterdir())
    more = () if "--image" in bad.flags else ("--image", "in.png")
    assert main(["generate", "a fox", "--model", str(tiny_folder), "--quiet", *more, *bad.flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert_one_screen(err)
    flag, value = bad.flags[-2:]
    assert err.startswith(f"error: {flag}" if bad.error is InputError else "error: ")
    assert value.partition("=")[0] in err
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


FOLDERS: dict[str, tuple[Callable[[Path], object], type[DiffuscopeError], str]] = {
    "no config": (_drop("config.json"), ModelNotFoundError, "config.json"),
    "no U-Net": (_drop("unet.safetensors"), ModelNotFoundError, "unet.safetensors"),
    "truncated": (_cut("vae.safetensors"), WeightsError, "vae.safetensors"),
    "empty": (_write("unet.safetensors", b""), WeightsError, "unet.safetensors"),
    "a pickle": (_write("unet.safetensors", b"\x80\x04" + bytes(100)), WeightsError, "pickle"),
    "a zip": (_write("unet.safetensors", b"PK\x03\x04" + bytes(100)), WeightsError, "zip"),
    "an LFS pointer": (
        _write("unet.safetensors", b"version https://git-lfs.github.com/spec/v1"),
        WeightsError,
        "git lfs pull",
    ),
    "a tensor missing": (_tensors(lambda t: t.pop("conv_in.weight")), WeightMismatchError, "conv_in.weight"),
    "a tensor too many": (_tensors(lambda t: t.update(x=torch.zeros(1))), WeightMismatchError, "(x)"),
    "a tensor of another shape": (
        _tensors(lambda t: t.update({"conv_in.bias": torch.zeros(7)})),
        WeightMismatchError,
        "conv_in.bias",
    ),
    "config is no JSON": (_write("config.json", b"{"), WeightsError, "config.json"),
    "config is a list": (_write("config.json", b"[]"), WeightsError, "config.json"),
    "config is of bytes": (_write("config.json", b"\xff\xfe"), WeightsError, "config.json"),
    "an unknown key": (_config(lambda c: c.update(wings=2)), WeightsError, "wings"),
    "a part is a number": (_config(lambda c: c.update(unet=2)), WeightsError, "config.json"),
    "a scale that is no number": (_config(lambda c: c["vae"].update(scale=float("nan"))), WeightsError, "scale is nan"),
    "a scale beyond floats": (_config(lambda c: c["vae"].update(scale=10**400)), WeightsError, "scale is 1000"),
    "impossible heads": (_config(lambda c: c["unet"].update(heads=[3, 3])), WeightsError, "config.json"),
    "an unknown prediction": (
        _config(lambda c: c["schedule"].update(prediction="v_prediction")),
        WeightsError,
        "'v_prediction'",
    ),
    "unknown betas": (_config(lambda c: c["schedule"].update(betas="squared")), WeightsError, "'squared'"),
    "unknown spacing": (_config(lambda c: c["schedule"].update(spacing="even")), WeightsError, "'even'"),
    "falling betas": (_config(lambda c: c["schedule"].update(beta_end=2.0)), WeightsError, "beta"),
    "no training steps": (_config(lambda c: c["schedule"].update(train_steps=0)), WeightsError, "train_steps"),
    "an unknown activation": (
        _config(lambda c: c["text_encoder"].update(activation="relu")),
        WeightsError,
        "'relu'",
    ),
    "a width that is a fraction": (
        _config(lambda c: c["text_encoder"].update(width=32.0)),
        WeightsError,
        "32.0",
    ),
    "channels that are fractions": (
        _config(lambda c: c["vae"].update(channels=[16.0, 32.0])),
        WeightsError,
        "16.0",
    ),
    "no norm groups": (_config(lambda c: c["unet"].update(norm_groups=0)), WeightsError, "norm_groups"),
    "latents times nothing": (_config(lambda c: c["vae"].update(scale=0.0)), WeightsError, "scale"),
    "a tokenizer of nothing": (_write("tokenizer/merges.txt", b""), WeightsError, "merges.txt"),
    "a damaged tokenizer": (_write("tokenizer/merges.txt", b"\xff"), WeightsError, "merges.txt"),
}


@pytest.mark.parametrize(("spoil", "error", "noun"), FOLDERS.values(), ids=FOLDERS)
def test_a_spoilt_folder_is_refused(
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    error: type[DiffuscopeError],
    noun: str,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    spoil(folder)
    with pytest.raises(error) as caught:
        ds.load(folder, device="cpu")
    assert type(caught.value) is error
    assert noun in without_paths(caught.value, tmp_path)
    out = tmp_path / "out.png"
    assert main(["generate", "a fox", "--model", str(folder), "--out", str(out)]) == 2
    assert_one_screen(capsys.readouterr().err)
    assert not out.exists()


LOADS: dict[str, tuple[str, object, type[DiffuscopeError], str]] = {
    "no such model": ("model", "emojy", ModelNotFoundError, "'emojy'"),
    "a name that is too long": ("model", "x" * 5000, ModelNotFoundError, "'xxx"),
    "a name with a zero": ("model", "a\0b", ModelNotFoundError, "'a\\x00b'"),
    "a hub id": ("model", "someone/some-model", ModelNotFoundError, "someone/some-model"),
    "a single file": ("model", "single.safetensors", WeightsError, "single.safetensors"),
    "an empty folder": ("model", "empty", ModelNotFoundError, "empty"),
    "no such device": ("device", "tpu", InputError, "'tpu'"),
    "no device at all": ("device", "meta", InputError, "'meta'"),
    "no such dtype": ("dtype", "float8", InputError, "'float8'"),
    "a dtype that is no float": ("dtype", torch.int8, InputError, ""),
    "a family": ("family", "sd15", InputError, "'sd15'"),
}


@pytest.mark.parametrize(("argument", "value", "error", "shown"), LOADS.values(), ids=LOADS)
def test_load_refuses(
    tiny_folder: Path, place: Path, argument: str, value: object, error: type[DiffuscopeError], shown: str
) -> None:
    Path("empty").mkdir()
    Path("single.safetensors").write_bytes(b"")
    with pytest.raises(error) as caught:
        ds.load(**({"model": tiny_folder} | {argument: value}))
    assert_says(caught.value, argument, shown)


def _read_only_folder(tmp_path: Path) -> Path:
    """One that nobody may write to: root may write to what it marked read-only, but not to the kernel's own tree."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    return folder if not os.access(folder, os.W_OK) else Path("/sys/kernel")


OUTPUTS: dict[str, tuple[Callable[[Path], Path], type[DiffuscopeError], str]] = {
    "no folder": (lambda place: place / "gone" / "out.png", OutputError, "gone"),
    "a file as folder": (lambda place: place / "in.png" / "out.png", OutputError, "in.png"),
    "read-only": (lambda place: _read_only_folder(place) / "out.png", OutputError, "out.png"),
    "a folder": (lambda place: (place / "dir.png").mkdir() or place / "dir.png", OutputError, "dir.png"),
    "a name that is too long": (lambda place: place / ("x" * 300 + ".png"), OutputError, "xxx"),
    "another format": (lambda place: place / "out.jpg", InputError, "out.jpg"),
}


@pytest.mark.parametrize(("where", "error", "noun"), OUTPUTS.values(), ids=OUTPUTS)
def test_an_impossible_output_is_refused(
    tiny: Pipeline,
    tiny_folder: Path,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    where: Callable[[Path], Path],
    error: type[DiffuscopeError],
    noun: str,
) -> None:
    path = where(place)
    before = sorted(place.rglob("*"))
    with pytest.raises(error) as caught:
        tiny("a fox", seed=1).save(path)
    assert_says(caught.value, "path", noun)
    assert main(["generate", "a fox", "--model", str(tiny_folder), "--quiet", "--out", str(path)]) == 2
    assert_one_screen(capsys.readouterr().err)
    assert sorted(place.rglob("*")) == before


SAVES: dict[str, tuple[str, str, type[DiffuscopeError], str, str]] = {
    "a layout": ("model", "onnx", InputError, "layout", "'onnx'"),
    "a file of another suffix": ("model", "single", InputError, "folder", "model"),
    "a file that exists": ("in.png.safetensors", "single", OutputError, "folder", "in.png.safetensors"),
    "a file in no folder": ("gone/model.safetensors", "single", OutputError, "folder", "model.safetensors"),
    "a folder in no folder": ("gone/model", "own", OutputError, "folder", "gone"),
    "a folder that is not empty": (".", "own", OutputError, "folder", "."),
}


@pytest.mark.parametrize(("path", "layout", "error", "argument", "shown"), SAVES.values(), ids=SAVES)
def test_saving_a_model_refuses(
    tiny: Pipeline, place: Path, path: str, layout: str, error: type[DiffuscopeError], argument: str, shown: str
) -> None:
    (place / "in.png.safetensors").touch()
    with pytest.raises(error) as caught:
        tiny.save(path, layout=layout)
    assert_says(caught.value, argument, shown)


def test_latents_and_pictures_of_the_wrong_shape(tiny: Pipeline) -> None:
    with pytest.raises(InputError) as caught:
        tiny.decode(torch.zeros(1, 3, 8, 8))
    assert_says(caught.value, "latents", "[1, 3, 8, 8]")
    with refused("image"):
        tiny.encode_image(Image.new("RGB", (1, 1)))
    with refused("images"):  # of to_pixels
        tiny.encode_image([Image.new("RGB", (32, 32)), Image.new("RGB", (64, 32))])
    with pytest.raises(TypeError, match="mask"):
        tiny("a", mask="in.png")
