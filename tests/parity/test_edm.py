"""Narrow networks of random weights, trained as Karras et al. 2022 do (Playground v2.5, CosXL): diffusers' latents."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

import diffuscope as ds
from diffuscope.config import PRESETS, ScheduleConfig
from diffuscope.errors import WeightsError
from diffuscope.pipeline import Pipeline
from diffuscope.weights.layout import diffusers_folder
from narrow import random_model
from refusals import refused

PLAYGROUND = ScheduleConfig(
    betas="edm", prediction="edm", sigma_min=0.002 / 0.5, sigma_max=80 / 0.5, sigma_data=0.5, train_steps=1000
)
COSXL = replace(PLAYGROUND, prediction="v", sigma_min=0.002, sigma_max=120.0, sigma_data=1.0)
SAMPLERS = {"dpmpp_2m": "EDMDPMSolverMultistepScheduler", "dpmpp_3m": "EDMDPMSolverMultistepScheduler"}
TOLERANCE = 1e-4  # of latents of unit variance, largest absolute difference


def model(schedule: ScheduleConfig, sampler: str) -> Pipeline:
    config = PRESETS["tiny-sdxl"]
    vae = replace(config.vae, scale=1.0, mean=(-1.6, 1.9, -1.4, 2.5), std=(8.5, 5.9, 6.5, 5.2), upcast=False)
    preset = replace(config.preset, sampler=sampler)
    return random_model(replace(config, vae=vae, schedule=schedule, preset=preset))


def opened(folder: Path, kind: str = "") -> Any:
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    if kind:
        theirs = getattr(diffusers, f"StableDiffusionXL{kind}Pipeline").from_pipe(theirs)
    theirs.set_progress_bar_config(disable=True)
    return theirs


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_3m", "euler"])
@pytest.mark.parametrize("schedule", [PLAYGROUND, COSXL], ids=["Playground v2.5", "CosXL"])
def test_text_to_image(schedule: ScheduleConfig, sampler: str, tmp_path: Path) -> None:
    ours = model(schedule, sampler)
    folder = ours.save(tmp_path / "model")
    theirs = opened(folder)
    assert type(theirs.scheduler).__name__ == SAMPLERS.get(sampler, "EDMEulerScheduler")
    again = ds.load(folder, device="cpu")
    assert again.config == ours.config
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    call = {"num_inference_steps": 6, "guidance_scale": 3.0, "latents": noise}
    other = theirs("a red fox", **call, output_type="latent").images
    found = again("a red fox", **call)
    assert (found.latents * schedule.sigma_data - other).abs().max() < TOLERANCE * max(1.0, other.std().item())
    image = theirs("a red fox", **call, output_type="pt").images
    assert (ds_pixels(found.images[0]) - image[0]).abs().max() < 1.5 / 255


def ds_pixels(image: Image.Image) -> torch.Tensor:
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.reshape(image.height, image.width, 3).permute(2, 0, 1) / 255


def test_image_to_image(tmp_path: Path) -> None:
    ours = model(PLAYGROUND, "euler")
    theirs = opened(ours.save(tmp_path / "model"), "Img2Img")
    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    call = {"image": Image.fromarray(pixels.numpy()), "strength": 0.5, "num_inference_steps": 6, "guidance_scale": 3.0}
    drawn = [torch.Generator().manual_seed(3)]
    other = theirs("a red fox", generator=drawn, **call, output_type="latent").images
    found = ours("a red fox", seed=3, **call).latents * PLAYGROUND.sigma_data
    assert (found - other).abs().max() < TOLERANCE * max(1.0, other.std().item())


def test_levels_between_those_of_a_run_have_their_own_time() -> None:
    """The second call of each step of KDPM2 is at a level between two."""
    times: list[float] = []
    ours = model(PLAYGROUND, "kdpm2")
    plain = ours.unet.forward

    def watched(x: torch.Tensor, time: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        times.append(float(time))
        return plain(x, time, *more, **named)

    ours.unet.forward = watched  # type: ignore[method-assign]
    ours("a fox", seed=1, num_inference_steps=2, guidance_scale=1.0)
    assert len(times) > 2
    assert all(-1.6 < time < 1.1 for time in times)
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("share", ["denoising_start", "denoising_end"])
def test_there_are_no_shares_of_timesteps(share: str) -> None:
    latents = {"image": torch.zeros(1, 4, 16, 16)} if share == "denoising_start" else {}
    with refused(share, 0.5):
        model(PLAYGROUND, "euler").steps("a fox", **{share: 0.5}, **latents)


@pytest.mark.parametrize(
    ("field", "value"), [("rho", 5.0), ("thresholding", True), ("prediction_type", "sample"), ("sigma_min", 90.0)]
)
def test_other_values_are_refused(tmp_path: Path, field: str, value: object) -> None:
    diffusers_folder.write_config(tmp_path, model(PLAYGROUND, "dpmpp_2m").config)
    path = tmp_path / diffusers_folder.SCHEDULER
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(WeightsError, match="scheduler_config"):
        diffusers_folder.describe(tmp_path)
