"""A few-step model: it reads guidance scale and step size, and others get it as an ordinary one."""

from dataclasses import replace

import pytest
import torch

import diffuscope as ds
from diffuscope.config import TINY
from diffuscope.loading import Components
from diffuscope.models.unet import UNet
from diffuscope.pipeline import Pipeline
from diffuscope.saving import plain
from refusals import refused


@pytest.fixture(scope="module")
def few(tiny):
    config = replace(
        TINY,
        unet=replace(TINY.unet, guidance_dim=16, step_dim=16),
        schedule=replace(TINY.schedule, prediction="v", zero_snr=True, spacing="trailing", ddim_ends_at_zero=True),
        preset=replace(TINY.preset, num_inference_steps=4, guidance_scale=2.5, sampler="ddim"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        unet = UNet(config.unet).eval().requires_grad_(False)
    parts = tiny.components
    return Pipeline(
        Components(config=config, tokenizer=parts.tokenizer, text_encoder=parts.text_encoder, unet=unet, vae=parts.vae)
    )


def inputs_of(pipe, **options):
    """What the U-Net reads at each call beside latents and text."""
    seen, forward = [], pipe.components.unet.forward
    pipe.components.unet.forward = lambda *args, **kwargs: seen.append(kwargs["extra"]) or forward(*args, **kwargs)
    try:
        pipe("a fox", seed=0, upscale=1, **options)
    finally:
        del pipe.components.unet.forward
    return seen


def test_the_network_reads_guidance_scale_and_step_size_and_runs_once_a_step(few):
    seen = inputs_of(few, guidance_scale=4.0, num_inference_steps=2)
    assert len(seen) == 2
    assert all(extra["guidance"].tolist() == [4.0] and extra["step_size"].tolist() == [500.0] for extra in seen)


def test_img2img_has_the_step_size_of_the_whole_schedule(few, tmp_path):
    image = few("a fox", seed=0, upscale=1).images[0]
    seen = inputs_of(few, image=image, strength=0.5)
    assert [extra["step_size"].item() for extra in seen] == [250.0, 250.0]


def test_a_negative_prompt_is_refused(few):
    with refused("negative_prompt", "blurry"):
        few("a fox", negative_prompt="blurry", seed=0)
    few("a fox", negative_prompt="", seed=0, upscale=1)


def test_as_an_ordinary_model_it_makes_the_same_image(few):
    ordinary = Pipeline(plain(few.components))
    assert ordinary.components.config.unet == TINY.unet
    ours = few("a fox", seed=3, upscale=1).latents
    theirs = ordinary("a fox", seed=3, upscale=1).latents
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["diffusers", "single"])
def test_files_for_other_programs_hold_the_ordinary_model(few, layout, tmp_path):
    path = tmp_path / ("few.safetensors" if layout == "single" else "few")
    few.save(path, layout=layout)
    options = {"seed": 3, "upscale": 1, "num_inference_steps": 4, "guidance_scale": 1.0, "sampler": "ddim"}
    again = ds.load(path, device="cpu")("a fox", **options).latents
    torch.testing.assert_close(again, few("a fox", seed=3, upscale=1).latents, rtol=1e-4, atol=1e-4)


def test_our_own_layout_keeps_both(few, tmp_path):
    few.save(tmp_path / "few", layout="own")
    again = ds.load(tmp_path / "few", device="cpu")
    assert again.components.config == few.components.config
    assert torch.equal(again("a fox", seed=3, upscale=1).latents, few("a fox", seed=3, upscale=1).latents)
