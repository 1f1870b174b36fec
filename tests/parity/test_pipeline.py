"""diffusers opens what we save and makes the same latents of the same noise; and we open what it saves."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import diffuscope as ds
from diffuscope.pipeline import Pipeline

TOLERANCE = 1e-4
"""Latents after ten guided steps in float32: largest difference, of the largest value where that is above 1."""

PROMPT, NEGATIVE = "a red fox, sitting", "blue"
SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
}


def theirs_of(folder: Path) -> diffusers.StableDiffusionPipeline:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents_of(theirs: diffusers.StableDiffusionPipeline, noise: torch.Tensor) -> torch.Tensor:
    return theirs(
        [PROMPT] * len(noise),
        negative_prompt=[NEGATIVE] * len(noise),
        latents=noise,
        num_inference_steps=10,
        guidance_scale=7.5,
        output_type="latent",
    ).images


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("ours") / "tiny", layout="diffusers")


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_diffusers_opens_what_we_save(tiny: Pipeline, saved: Path, noise: torch.Tensor, sampler: str) -> None:
    theirs = theirs_of(saved)
    assert isinstance(theirs.scheduler, diffusers.DDIMScheduler)
    theirs.scheduler = SCHEDULERS[sampler].from_config(theirs.scheduler.config)
    ours = tiny(
        [PROMPT] * 2,
        negative_prompt=NEGATIVE,
        latents=noise,
        num_inference_steps=10,
        guidance_scale=7.5,
        sampler=sampler,
    )
    assert off(ours.latents, latents_of(theirs, noise)) < TOLERANCE


def test_the_pictures_are_the_same(tiny: Pipeline, saved: Path, noise: torch.Tensor) -> None:
    theirs = theirs_of(saved)
    latents = latents_of(theirs, noise)
    with torch.no_grad():
        decoded = theirs.vae.decode(latents / theirs.vae.config.scaling_factor).sample
    pictures = theirs.image_processor.postprocess(decoded, output_type="pil")
    for ours, other in zip(tiny.decode(latents), pictures, strict=True):
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(other).astype(int)).max() <= 1


def test_image_to_image(tiny: Pipeline, saved: Path) -> None:
    """The draws are ours: the encoder's sample, then the start noise; theirs come from the same generator."""
    theirs = diffusers.StableDiffusionImg2ImgPipeline(**theirs_of(saved).components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    start = Image.effect_noise((32, 32), 60).convert("RGB")
    other = theirs(
        PROMPT,
        image=start,
        strength=0.6,
        num_inference_steps=10,
        guidance_scale=7.5,
        generator=[torch.Generator().manual_seed(3)],
        output_type="latent",
    ).images
    ours = tiny(PROMPT, image=start, strength=0.6, num_inference_steps=10, guidance_scale=7.5, seed=3)
    assert off(ours.latents, other) < TOLERANCE


def test_the_tokenizer_files_mean_the_same(tiny: Pipeline, saved: Path) -> None:
    theirs = transformers.CLIPTokenizer.from_pretrained(saved / "tokenizer", local_files_only=True)
    texts = ["", PROMPT, "Füchse 狐 \N{FOX FACE}!!", "word " * 100]
    ids = theirs(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    assert torch.equal(ids, tiny.tokenizer.encode(texts))


def test_our_own_folder_keeps_everything(tiny: Pipeline, saved: Path, tiny_folder: Path) -> None:
    for folder in (saved, tiny_folder):
        again = ds.load(folder, device="cpu")
        assert again.config == tiny.config
        assert again.weights == tiny.weights
        assert torch.equal(again("a", seed=1).latents, tiny("a", seed=1).latents)


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_we_open_what_diffusers_saves(saved: Path, noise: torch.Tensor, tmp_path: Path, sampler: str) -> None:
    """A folder of other random weights, with their scheduler's own defaults, written by their ``save_pretrained``."""
    torch.manual_seed(1)
    first = theirs_of(saved)
    theirs = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL.from_config(first.vae.config),
        text_encoder=transformers.CLIPTextModel(first.text_encoder.config).eval(),
        tokenizer=first.tokenizer,
        unet=diffusers.UNet2DConditionModel.from_config(first.unet.config),
        scheduler=SCHEDULERS[sampler].from_config(first.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = ds.load(tmp_path / "theirs", device="cpu")
    result = ours([PROMPT] * 2, negative_prompt=NEGATIVE, latents=noise, num_inference_steps=10, guidance_scale=7.5)
    assert result.receipt["sampler"] == sampler
    assert off(result.latents, latents_of(theirs, noise)) < TOLERANCE


BEFORE = ("steps_offset", "clip_sample", "set_alpha_to_one", "timestep_spacing", "prediction_type")
"""Keys that scheduler files of 2022 lack."""


@pytest.mark.filterwarnings("ignore::FutureWarning")  # theirs, on the outdated file
@pytest.mark.parametrize(
    ("old", "changed"),
    [
        ({"_class_name": "DDIMScheduler"}, {"steps_offset", "clip_sample"}),
        ({"_class_name": "DDIMScheduler", "steps_offset": 0, "clip_sample": True}, {"steps_offset", "clip_sample"}),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, {"steps_offset"}),
        ({"_class_name": "PNDMScheduler", "steps_offset": 1, "skip_prk_steps": True}, set()),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}, {"steps_offset"}),
        ({"_class_name": "EulerDiscreteScheduler"}, set()),
    ],
)
def test_an_outdated_scheduler_file(
    saved: Path, noise: torch.Tensor, tmp_path: Path, old: dict[str, Any], changed: set[str]
) -> None:
    """diffusers' pipelines of Stable Diffusion mend it; so do we, and say so."""
    folder = shutil.copytree(saved, tmp_path / "old")
    path = folder / "scheduler/scheduler_config.json"
    document = {key: value for key, value in json.loads(path.read_text()).items() if key not in BEFORE}
    path.write_text(json.dumps(document | old))
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", old["_class_name"]]
    del index["_diffuscope"]
    (folder / "model_index.json").write_text(json.dumps(index))
    ours = ds.load(folder, device="cpu")
    result = ours([PROMPT] * 2, negative_prompt=NEGATIVE, latents=noise, num_inference_steps=10, guidance_scale=7.5)
    assert off(result.latents, latents_of(theirs_of(folder), noise)) < TOLERANCE
    notes = [note for note in result.receipt["notes"] if "outdated" in note]
    assert {key for key in ("steps_offset", "clip_sample") if any(key in note for note in notes)} == changed
    assert len(notes) == len(changed)
