"""What a folder's files say is used, irrelevant for a stated reason, named, or refused."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import diffuscope as ds
from diffuscope.cli import main
from diffuscope.config import PRESETS, TINY
from diffuscope.errors import ModelNotFoundError, WeightsError
from diffuscope.pipeline import Pipeline
from diffuscope.weights.layout import diffusers_folder, fields
from diffuscope.weights.store import documents

FILES = {
    "model_index": "model_index.json",
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "text_encoder": "text_encoder/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The JSON files of a folder, without weights."""
    diffusers_folder.write_config(tmp_path, TINY)
    return tmp_path


@pytest.mark.parametrize("kind", FILES)
def test_an_unknown_field_is_named(written: Path, kind: str) -> None:
    assert diffusers_folder.describe(written).notes == ()
    edit(written / FILES[kind], brightness=3, _name_or_path="a")
    (note,) = diffusers_folder.describe(written).notes
    assert note == f"{FILES[kind]} has fields that are not used: 'brightness'"


def test_a_note_is_short() -> None:
    (note,) = fields.unused("unet", "unet/config.json", dict.fromkeys(["x" * 10**6, *map(str, range(1000))]))
    assert len(note) < 1000
    assert note.endswith("and 993 more")


def test_a_note_is_in_info_and_in_the_receipt(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(folder / "vae/config.json", brightness=3)
    result = ds.load(folder, device="cpu")("a fox", seed=1, num_inference_steps=1)
    assert any("'brightness'" in note for note in result.receipt["notes"])
    assert main(["info", str(folder)]) == 0
    assert "vae/config.json has fields that are not used: 'brightness'" in capsys.readouterr().out


def test_a_config_beside_the_index_changes_nothing(folder: Path, tiny: Pipeline) -> None:
    (folder / "config.json").write_text("{}")
    assert ds.load(folder, device="cpu").weights == tiny.weights


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Zero123PlusPipeline", "other views"),
        ("StableDiffusionDepth2ImgPipeline", "depth map"),
        ("MarigoldDepthPipeline", "measures depth"),
        ("StableDiffusionUpscalePipeline", "small image"),
        ("StableDiffusionPipelineOfMine", "never run"),
        ("x" * 10**6, "never run"),
        (["pipeline", "Mine"], "never run"),
        (None, "never run"),
    ],
)
def test_another_pipeline_is_refused_by_its_name(written: Path, name: object, why: str) -> None:
    edit(written / "model_index.json", _class_name=name)
    with pytest.raises(WeightsError) as caught:
        diffusers_folder.describe(written)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_the_index_names_the_scheduler_as_in_diffusers(written: Path) -> None:
    """Also in a folder of ours, whose preset has another sampler: what was written there since decides."""
    preset = diffusers_folder.describe(written).config.preset
    edit(written / "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"])
    assert preset.sampler != "euler"
    assert diffusers_folder.describe(written).config.preset == replace(preset, sampler="euler", sampler_options={})
    edit(written / "scheduler/scheduler_config.json", use_karras_sigmas=True)
    assert diffusers_folder.describe(written).config.preset.sigmas == "karras"


def test_a_preset_that_the_files_of_diffusers_do_not_have_is_kept(tiny: Pipeline, tmp_path: Path) -> None:
    preset = replace(tiny.config.preset, sampler="restart", sigmas=(9.0, 1.0, 0.0), height=64, width=32, upscale=4)
    Pipeline(replace(tiny.components, config=replace(tiny.config, preset=preset))).save(tmp_path / "saved")
    assert diffusers_folder.describe(tmp_path / "saved").config.preset == preset


@pytest.mark.parametrize(("size", "height", "width"), [(16, 32, 32), ([16, 24], 32, 48), (None, 512, 512)])
def test_a_size_is_one_number_or_two(written: Path, size: object, height: int, width: int) -> None:
    edit(written / "unet/config.json", sample_size=size)
    preset = diffusers_folder.describe(written).config.preset
    assert (preset.height, preset.width) == (height, width)


@pytest.mark.parametrize("size", ["a", [0], [8, 8, 8], {}, 0, 10**9, True, 8.5, "8" * 10**6])
def test_another_size_is_refused(written: Path, size: object) -> None:
    edit(written / "unet/config.json", sample_size=size)
    with pytest.raises(WeightsError, match="sample_size"):
        diffusers_folder.describe(written)


@pytest.mark.parametrize(("channels", "kind"), [(5, "depth2img"), (7, "an upscaler"), (6, "another kind")])
def test_other_input_channels_are_refused_when_opened(written: Path, channels: int, kind: str) -> None:
    edit(written / "unet/config.json", in_channels=channels)
    with pytest.raises(WeightsError, match=kind):
        diffusers_folder.describe(written)


def test_heads_are_those_of_levels_with_attention(written: Path) -> None:
    edit(written / "unet/config.json", attention_head_dim=[5, 2])
    with pytest.raises(WeightsError, match="32 channels do not split into 5 heads"):
        diffusers_folder.describe(written)
    heads = replace(TINY.unet, depth=(0, 1), heads=(5, 2))
    assert heads.heads == (5, 2)


def test_a_pipe_a_device_and_a_giant_are_refused(written: Path) -> None:
    path = written / "vae/config.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(WeightsError, match="no regular file"):
        diffusers_folder.describe(written)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(WeightsError, match="no regular file"):
        diffusers_folder.describe(written)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(20 << 30)  # of holes
    with pytest.raises(WeightsError, match=f"longer than {documents.JSON_LIMIT} bytes"):
        diffusers_folder.describe(written)
    path.unlink()
    with pytest.raises(ModelNotFoundError):
        diffusers_folder.describe(written)


def test_a_name_twice_is_refused(written: Path) -> None:
    path = written / "vae/config.json"
    path.write_text(path.read_text().replace("{", '{"act_fn": "silu",', 1))
    with pytest.raises(WeightsError, match="'act_fn' twice"):
        diffusers_folder.describe(written)


LEVELS = {"down_block_types": ["CrossAttnDownBlock2D"] * 256, "up_block_types": ["CrossAttnUpBlock2D"] * 256}
BOMBS: dict[str, tuple[str, dict[str, object]]] = {
    "many levels of many layers": (
        "unet/config.json",
        LEVELS | {"block_out_channels": [32] * 256, "transformer_layers_per_block": 256, "layers_per_block": 256},
    ),
    "many layers of few levels": ("unet/config.json", {"transformer_layers_per_block": 256, "layers_per_block": 4}),
    "a deep middle": ("unet/config.json", {"transformer_layers_per_block": [1, 2000]}),
    "many levels of the VAE": ("vae/config.json", {"block_out_channels": [16] * 31}),
    "many blocks of the VAE": ("vae/config.json", {"layers_per_block": 10**6}),
    "a long text encoder": ("text_encoder/config.json", {"num_hidden_layers": 10**6}),
    "a hundred million timesteps": (FILES["scheduler"], {"num_train_timesteps": 10**8}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_configuration_of_a_million_modules_is_refused(written: Path, name: str) -> None:
    file, values = BOMBS[name]
    edit(written / file, **values)
    with pytest.raises(WeightsError, match=r"at most|are possible"):
        diffusers_folder.describe(written)


def test_every_shipped_family_is_within_the_bounds() -> None:
    assert max(sum(map(sum, (*each.unet.down_depths, *each.unet.up_depths))) for each in PRESETS.values()) < 100


def test_a_vae_of_its_own_is_held_to_the_same(folder: Path, tmp_path: Path) -> None:
    """Unknown fields are named, and latents that the U-Net does not expect are refused."""
    vae = Path(shutil.copytree(folder / "vae", tmp_path / "vae"))
    edit(vae / "config.json", brightness=3)
    assert ds.load(folder, device="cpu", vae=vae).components.notes == (
        "vae/config.json has fields that are not used: 'brightness'",
    )
    for values in (
        {"scaling_factor": 0.5},
        {"latent_channels": 16},
        {"latents_mean": [1.0] * 4, "latents_std": [2.0] * 4},
    ):
        shutil.copy(folder / "vae/config.json", vae / "config.json")
        edit(vae / "config.json", **values)
        with pytest.raises(WeightsError, match="this model's U-Net expects"):
            ds.load(folder, device="cpu", vae=vae)
    edit(vae / "config.json", latents_std=None)
    with pytest.raises(WeightsError, match="mean and std have a number"):
        ds.load(folder, device="cpu", vae=vae)
