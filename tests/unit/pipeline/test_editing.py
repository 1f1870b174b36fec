"""InstructPix2Pix: an image, two guidance scales. ``parity/test_pipeline_families.py`` has them from diffusers."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import diffuscope as ds
from diffuscope.errors import WeightsError
from diffuscope.pipeline import Pipeline
from diffuscope.weights.layout import diffusers_folder
from narrow import made
from refusals import refused

IMAGE = Image.radial_gradient("L").resize((32, 32)).convert("RGB")
CALL = {"seed": 1, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def editor() -> Pipeline:
    return made("sd15-instruct-pix2pix")


def test_both_scales_change_the_image_and_replay_repeats_it(editor: Pipeline, tmp_path: Path) -> None:
    base = editor("a fox", image=IMAGE, **CALL)
    assert base.receipt["image_guidance_scale"] == 1.5
    for scales in ({"guidance_scale": 3.0}, {"image_guidance_scale": 1.0}):
        assert not torch.equal(editor("a fox", image=IMAGE, **CALL, **scales).latents, base.latents)
    IMAGE.save(tmp_path / "in.png")
    (path,) = base.save(tmp_path / "out.png")
    assert ds.replay(path, model=editor, image=tmp_path / "in.png").identical


def test_at_scales_of_one_the_estimate_is_the_conditional_one(editor: Pipeline) -> None:
    """One call a step; a tap gets all three rows, and they combine to the same."""
    rows = []
    ones = {"guidance_scale": 1.0, "image_guidance_scale": 1.0}
    alone = editor("a fox", image=IMAGE, **CALL, **ones)
    editor("a fox", image=IMAGE, **CALL, tap={"unet.conv_in": lambda value: rows.append(len(value))})
    assert rows == [3, 3]
    near = editor("a fox", image=IMAGE, **CALL, guidance_scale=1.0, image_guidance_scale=1.0 + 1e-7)
    assert torch.allclose(alone.latents, near.latents, atol=1e-4)


def test_conditioning_of_another_length_means_the_same(editor: Pipeline) -> None:
    told = editor.encode_prompt("a fox")
    long = ds.Conditioning(torch.cat([told.embeddings, told.embeddings], dim=1))
    by_hand = editor(conditioning=long, image=IMAGE, **CALL)
    assert torch.allclose(by_hand.latents, editor("a fox", image=IMAGE, **CALL).latents, atol=1e-4)


def test_latents_are_an_image_too(editor: Pipeline) -> None:
    latents = editor.encode_image(IMAGE, sample=False)
    same = editor("a fox", image=latents, **CALL).latents
    assert torch.allclose(same, editor("a fox", image=IMAGE, **CALL).latents, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        ({"image": None}, "image"),
        ({"mask_image": IMAGE}, "mask_image"),
        ({"strength": 0.5}, "strength"),
        ({"image_guidance_scale": float("inf")}, "image_guidance_scale"),
    ],
)
def test_what_it_does_not_read_is_refused(editor: Pipeline, call: dict[str, object], argument: str) -> None:
    with refused(argument):
        editor.steps("a fox", **({"image": IMAGE} | call))


def test_no_other_model_takes_its_scale(tiny: Pipeline) -> None:
    with refused("image_guidance_scale", 1.5):
        tiny.steps("a fox", image_guidance_scale=1.5)


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionInpaintPipeline"])
def test_eight_channels_of_another_class_are_refused(editor: Pipeline, tmp_path: Path, name: str) -> None:
    diffusers_folder.write_config(tmp_path, editor.config)
    path = tmp_path / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))
    with pytest.raises(WeightsError, match="8 input channels"):
        diffusers_folder.describe(tmp_path)
