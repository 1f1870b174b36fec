"""One model goes on where another stopped: each step once, from latents that still have noise."""

from pathlib import Path
from typing import Any

import pytest
import torch

import diffuscope as ds
from diffuscope.pipeline import Pipeline
from refusals import refused

CALL: dict[str, Any] = {"prompt": "a red fox", "seed": 3, "num_inference_steps": 8, "guidance_scale": 2.0}
TOLERANCE = 1e-5
"""Largest difference over the largest value; float32, of latents that went through another scale in between."""

ONE_STEP = ("euler", "ddim", "heun", "kdpm2")
"""They remember nothing of earlier steps, so a run in two parts is the same run."""


@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.parametrize("sampler", ONE_STEP)
def test_two_parts_are_the_whole(tiny: Pipeline, sampler: str, share: float) -> None:
    whole = tiny(sampler=sampler, **CALL)
    first = tiny(sampler=sampler, denoising_end=share, **CALL)
    second = tiny(sampler=sampler, denoising_start=share, image=first.latents, **CALL)
    assert first.receipt["noise_levels"] + second.receipt["noise_levels"][1:] == whole.receipt["noise_levels"]
    assert second.receipt["timesteps"][0] < 1000 - share * 1000 <= first.receipt["timesteps"][-2]
    assert (second.latents - whole.latents).abs().max() <= TOLERANCE * whole.latents.abs().max()


def test_three_parts_and_the_steps_of_each(tiny: Pipeline) -> None:
    given: dict[str, Any] = CALL | {"sampler": "euler", "sigmas": "karras"}
    first = tiny(denoising_end=0.4, **given)
    second = tiny(denoising_start=0.4, denoising_end=0.7, image=first.latents, **given)
    last = tiny(denoising_start=0.7, image=second.latents, **given)
    whole = tiny(**given)
    assert sum(len(part.receipt["noise_levels"]) - 1 for part in (first, second, last)) == 8
    assert (last.latents - whole.latents).abs().max() <= TOLERANCE * whole.latents.abs().max()


def test_one_for_each_prompt_or_image(tiny: Pipeline) -> None:
    call = CALL | {"prompt": ["a red fox", "two cats"], "sampler": "euler", "num_images_per_prompt": 2}
    first = tiny(denoising_end=0.5, **call)
    each = tiny(denoising_start=0.5, image=first.latents, **call).latents
    prompts = tiny(denoising_start=0.5, image=first.latents[[0, 2]], **call).latents
    assert torch.equal(prompts[0], prompts[1])
    assert (prompts[[0, 2]] - each[[0, 2]]).abs().max() < TOLERANCE * each.abs().max()
    one = tiny(denoising_start=0.5, image=first.latents[:1], **call | {"prompt": "a red fox"})
    assert len(one.images) == 2


def test_receipt_and_replay(tiny: Pipeline, tmp_path: Path) -> None:
    first = tiny(denoising_end=0.5, **CALL)
    (path,) = first.save(tmp_path / "first.png")
    assert ds.replay(path, model=tiny).identical
    (path,) = tiny(denoising_start=0.5, image=first.latents, **CALL).save(tmp_path / "second.png")
    assert ds.replay(path, model=tiny, image=first.latents).identical
    with refused("image", None):
        ds.replay(path, model=tiny)
    with refused("image"):
        ds.replay(path, model=tiny, image=first.latents + 1)


def test_latents_are_an_image_too(tiny: Pipeline, tmp_path: Path) -> None:
    """With a strength they get noise, as a picture's own latents do; the size is theirs."""
    clean = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    result = tiny(image=clean, strength=0.5, **CALL)
    assert result.images[0].size == (24, 16)
    run = tiny.steps(image=clean, strength=0.5, **CALL | {"sampler": "euler", "guidance_scale": 1.0})
    noise = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(3))
    seen = []
    tiny(image=clean, strength=0.5, tap={"unet.x": lambda x: seen.append(x)}, **CALL | {"guidance_scale": 1.0})
    sigma = run.levels.sigmas[0]
    torch.testing.assert_close(seen[0], (clean + sigma * noise) / (sigma**2 + 1) ** 0.5)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        ({"denoising_end": 1.5}, "denoising_end"),
        ({"denoising_end": "most"}, "denoising_end"),
        ({"denoising_end": 0.001, "num_inference_steps": 2}, "denoising_end"),
        ({"denoising_start": 0.8}, "image"),
        ({"denoising_start": 0.8, "image": "a.png"}, "image"),
        ({"denoising_start": 0.8, "denoising_end": 0.8, "image": torch.zeros(1, 4, 16, 16)}, "denoising_start"),
        ({"image": torch.zeros(1, 4, 16)}, "image"),
        ({"image": torch.zeros(3, 4, 16, 16)}, "image"),
        ({"image": torch.full((1, 4, 16, 16), float("inf"))}, "image"),
        ({"image": torch.zeros(1, 4, 16, 16), "latents": torch.zeros(1, 4, 16, 16)}, "latents"),
        ({"image": torch.zeros(1, 4, 16, 16), "mask_image": "a.png"}, "image"),
        ({"image": "a.png", "mask_image": "a.png", "denoising_end": 0.5}, "denoising_end"),
    ],
)
def test_what_is_refused(tiny: Pipeline, call: dict[str, Any], argument: str) -> None:
    with refused(argument):
        tiny(**CALL | call)
