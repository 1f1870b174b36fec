"""Another VAE takes the place of the model's own: from every layout, in the receipt, and none of another family."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import diffuscope as ds
from diffuscope.cli import main
from diffuscope.config import TINY
from diffuscope.errors import ModelNotFoundError, WeightMismatchError, WeightsError
from diffuscope.metadata import read_texts
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.open import with_vae
from diffuscope.weights.layout.ldm import to_ldm
from diffuscope.weights.store import files
from narrow import made
from refusals import refused


@pytest.fixture(scope="module")
def other() -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return VAE(TINY.vae).eval().requires_grad_(False)


@pytest.fixture
def vae_file(other: VAE, tmp_path: Path) -> Path:
    """As the released ones are: the names of the original code."""
    files.write(tmp_path / "better.safetensors", to_ldm(other.state_dict(), TINY.vae))
    return tmp_path / "better.safetensors"


@pytest.fixture
def vae_folder(tiny: Pipeline, other: VAE, tmp_path: Path) -> Path:
    """A whole model of diffusers; the VAE alone is in its folder ``vae``."""
    return Pipeline(replace(tiny.components, vae=other)).save(tmp_path / "model")


def test_of_a_file_and_of_folders(
    tiny: Pipeline, tiny_folder: Path, other: VAE, vae_file: Path, vae_folder: Path
) -> None:
    wanted = Pipeline(replace(tiny.components, vae=other))("a fox", seed=1)
    for place in (vae_file, vae_folder, vae_folder / "vae"):
        pipe = ds.load(tiny_folder, device="cpu", vae=place)
        result = pipe("a fox", seed=1)
        assert result.images == wanted.images
        assert pipe.weights["vae"] != tiny.weights["vae"]
        assert {part: pipe.weights[part] for part in ("unet", "text_encoder")} == {
            part: tiny.weights[part] for part in ("unet", "text_encoder")
        }
        assert result.receipt["vae"] == place.name
    assert wanted.receipt["vae"] is None


def test_it_has_the_devices_and_dtype_of_the_model(tiny_folder: Path, vae_folder: Path) -> None:
    (vae_folder / "vae" / "diffusion_pytorch_model.safetensors").rename(
        vae_folder / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    )
    pipe = ds.load(tiny_folder, device="cpu", dtype="bfloat16", vae=vae_folder / "vae")
    assert {tensor.dtype for tensor in pipe.vae.state_dict().values()} == {torch.bfloat16}


def test_receipt_and_replay(tiny: Pipeline, tiny_folder: Path, vae_file: Path, tmp_path: Path) -> None:
    (path,) = ds.load(tiny_folder, device="cpu", vae=vae_file)("a fox", seed=1).save(tmp_path / "out.png")
    assert "VAE: better.safetensors, " in read_texts(path).texts["parameters"]
    assert ds.replay(path, model=ds.ModelSource(tiny_folder, vae=vae_file)).identical
    with refused("model") as caught:
        ds.replay(path, model=tiny_folder)
    assert "better.safetensors" in caught.value.want


def test_the_command_line_by_path_and_by_name(
    tiny: Pipeline, vae_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A single file without a config, whose family is said, and a VAE in the folder of another program."""
    folder = tmp_path / "webui" / "models"
    for kind in ("Stable-diffusion", "VAE"):
        (folder / kind).mkdir(parents=True)
    vae_file.rename(folder / "VAE" / "better.safetensors")
    single = tiny.save(folder / "Stable-diffusion" / "cat.safetensors", layout="single")
    files.write(single, files.read(single))  # its metadata said what it is
    given = ["--model", "cat", "--vae", "better", "--models-dir", str(folder), "--family", "tiny"]
    out = tmp_path / "out.png"
    assert main(["generate", "a fox", *given, "--seed", "1", "--quiet", "--out", str(out)]) == 0
    assert main(["replay", str(out), *given]) == 0
    assert "identical: every pixel" in capsys.readouterr().out
    assert main(["generate", "a fox", *given, "--vae", "bettor", "--quiet", "--out", str(out)]) == 2
    assert "no vae 'bettor'" in capsys.readouterr().err


def test_one_that_is_not_there_or_is_something_else(tiny: Pipeline, tiny_folder: Path, vae_folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no VAE at .*gone; give a \.safetensors file, or a folder"):
        with_vae(tiny.components, vae_folder / "gone")
    with pytest.raises(WeightsError, match="is a U-Net, expected a VAE"):
        with_vae(tiny.components, vae_folder / "unet" / "diffusion_pytorch_model.safetensors")
    (vae_folder / "vae" / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"config\.json is missing"):
        ds.load(tiny_folder, vae=vae_folder)


def test_one_of_another_family(tiny: Pipeline, vae_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightMismatchError, match=r"scales latents by 0\.18215.* expects 0\.13025"):
        with_vae(made("sdxl").components, vae_folder)
    wide = replace(TINY.vae, channels=(16, 64))
    files.write(tmp_path / "wide.safetensors", VAE(wide).state_dict())
    with pytest.raises(WeightMismatchError, match=r"wide\.safetensors has"):
        with_vae(tiny.components, tmp_path / "wide.safetensors")


def test_a_vae_that_does_not_overflow_runs_in_half_precision(tmp_path: Path) -> None:
    """SDXL's own runs in float32 beside a float16 U-Net; a folder says of its VAE that this is not needed."""
    pipe = made("sdxl")
    folder = pipe.save(tmp_path / "model")
    assert {tensor.dtype for tensor in ds.load(folder, "cpu", "float16").vae.state_dict().values()} == {torch.float32}
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": False}))
    half = ds.load(pipe.save(tmp_path / "own", layout="own"), "cpu", "float16", vae=folder)
    assert not half.config.vae.upcast
    assert {tensor.dtype for tensor in half.vae.state_dict().values()} == {torch.float16}


def test_a_schedule_that_the_model_does_not_tell(tiny: Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    """Equal to a model whose configuration says so; in the receipt, from which replay takes it."""
    chosen = {"prediction": "v", "zero_snr": True}
    config = replace(tiny.config, schedule=replace(tiny.config.schedule, prediction="v", zero_snr=True))
    wanted = Pipeline(replace(tiny.components, config=config))("a fox", seed=1)
    pipe = ds.load(tiny_folder, device="cpu", prediction="v", zero_snr=True)
    result = pipe("a fox", seed=1)
    assert result.images == wanted.images != tiny("a fox", seed=1).images
    assert result.receipt["schedule"] == chosen
    (path,) = result.save(tmp_path / "fox.png")
    assert ds.replay(path, model=tiny_folder).identical
    with refused("model"):
        ds.replay(path, model=tiny)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("prediction", "velocity"), ("zero_snr", 1), ("device", "abacus"), ("dtype", "int4")],
)
def test_a_source_that_is_none(tiny_folder: Path, argument: str, value: object) -> None:
    with refused(argument, value):
        ds.load(tiny_folder, **{"device": "cpu", argument: value})


def test_the_command_sets_the_schedule(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "fox.png"
    asked = ["generate", "a fox", "--model", str(tiny_folder), "--out", str(out), "--upscale", "1", "--steps", "2"]
    assert main([*asked, "--prediction", "v", "--zero-snr", "True", "--device", "cpu"]) == 0
    assert json.loads(read_texts(out).texts["diffuscope"])["schedule"] == {"prediction": "v", "zero_snr": True}


@pytest.mark.parametrize(
    ("name", "value"), [("model", 3), ("model", b"emoji"), ("model", ""), ("vae", 5), ("models_dir", [])]
)
def test_what_is_no_place_is_refused(name: str, value: object) -> None:
    with refused(name, value):
        ds.load(**{"model": "emoji"} | {name: value})
