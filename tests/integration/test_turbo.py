"""The shipped student: four network calls an image, and everything that works with other models."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

import diffuscope as ds
from diffuscope.config import EMOJI
from diffuscope.errors import WeightMismatchError
from diffuscope.model_files import shipped_models
from diffuscope.pipeline import Pipeline
from diffuscope.recipes import ship
from diffuscope.recipes.turbo import EMOJI_TURBO, export_turbo
from diffuscope.vision.clip_score import load_clip_score
from diffuscope.weights.layout import own_config
from diffuscope.weights.store import files
from refusals import refused

FOLDER = shipped_models()["emoji-turbo"]
PROMPTS = ["a red fox", "a blue house", "a rocket", "a flamingo", "a pizza", "a smiling face", "a key", "a tree"]


@pytest.fixture(scope="module")
def turbo() -> Pipeline:
    return ds.load("emoji-turbo", device="cpu")


def test_the_folder_is_what_the_recipe_exports(turbo: Pipeline, tmp_path: Path) -> None:
    export_turbo(FOLDER / "unet.safetensors", tmp_path)
    assert (tmp_path / "config.json").read_text() == (FOLDER / "config.json").read_text()
    exported, shipped = (files.read(folder / "unet.safetensors") for folder in (tmp_path, FOLDER))
    assert exported.keys() == shipped.keys()
    assert all(torch.equal(value, shipped[name]) for name, value in exported.items())
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 15e6
    assert turbo.config.preset == EMOJI_TURBO.preset


def test_what_the_folder_lacks_is_that_of_its_base(turbo: Pipeline) -> None:
    base = ds.load("emoji", device="cpu")
    for part in ("text_encoder", "vae"):
        own, other = (getattr(pipe, part).state_dict() for pipe in (turbo, base))
        assert own.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in own.items()), part
    assert turbo.components.words == base.components.words != frozenset()


def test_a_difference_is_of_one_base(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "student")
    path = tmp_path / "student" / "config.json"
    path.write_text(path.read_text().replace(own_config.read(FOLDER).base_hash or "", "0" * 64))
    with pytest.raises(WeightMismatchError, match="another 'emoji'"):
        ds.load(tmp_path / "student", device="cpu")


def test_a_base_may_be_a_difference(tmp_path: Path) -> None:
    model = ship.load_model(shipped_models()["emoji"])
    with torch.no_grad():
        model.unet.conv_out.bias += 0.5
    ship.export_difference(model, tmp_path, replace(EMOJI, base="emoji"))
    assert files.read(tmp_path / "unet.safetensors").keys() == {"conv_out.bias"}
    pipe, base = (ds.load(name, device="cpu", dtype="float32") for name in (tmp_path, "emoji"))
    torch.testing.assert_close(pipe.unet.conv_out.bias, base.unet.conv_out.bias + 0.5, rtol=0, atol=1e-3)  # float16
    assert torch.equal(pipe.unet.conv_in.weight, base.unet.conv_in.weight)
    assert pipe.weights["text_encoder"] == base.weights["text_encoder"]
    assert pipe.weights["vae"] == base.weights["vae"]


@pytest.mark.parametrize("steps", [1, 4])
def test_each_image_is_nearest_to_its_own_prompt(turbo: Pipeline, steps: int) -> None:
    result = turbo(PROMPTS, seed=32, upscale=1, num_inference_steps=steps)
    assert len(result.receipt["timesteps"]) == steps + 1
    with torch.no_grad():
        assert load_clip_score()(result.images, PROMPTS).argmax(1).tolist() == list(range(len(PROMPTS)))


def test_img2img_and_inpainting_change_what_they_may(turbo: Pipeline) -> None:
    start, mask = Image.new("RGB", (128, 128), "white"), Image.new("L", (128, 128), 0)
    ImageDraw.Draw(start).ellipse((20, 20, 108, 108), fill="green")
    ImageDraw.Draw(mask).rectangle((64, 0, 128, 128), fill=255)
    plain, kept = (ds.images.to_pixels([image]) for image in (start, turbo.decode(turbo.encode_image(start))[0]))
    changed = turbo("a red apple", image=start, strength=0.5, seed=1, upscale=1)
    assert len(changed.receipt["timesteps"]) == 3
    inside = turbo("a red apple", image=start, mask_image=mask, seed=1, upscale=1)
    difference = (ds.images.to_pixels(inside.images) - kept).abs().mean((0, 1))
    assert difference[:, :48].mean() < 0.1 < difference[:, 80:].mean()
    assert (ds.images.to_pixels(changed.images) - plain).abs().mean() > 0.05


def test_taps_and_replay(turbo: Pipeline, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    result = turbo("a red fox", seed=2, upscale=1, tap={"unet.mid.*": seen.append})
    assert seen
    plain = turbo("a red fox", seed=2, upscale=1)
    torch.testing.assert_close(result.latents, plain.latents, rtol=1e-3, atol=1e-3)
    plain.save(tmp_path / "fox.png")
    assert ds.replay(tmp_path / "fox.png").identical


def test_a_negative_prompt_is_refused(turbo: Pipeline) -> None:
    with refused("negative_prompt", "blurry"):
        turbo("a red fox", negative_prompt="blurry")
