"""Each family of models, narrow and with random weights: diffusers opens what we save and makes the same latents."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

import diffuscope as ds
from diffuscope.config import PRESETS
from diffuscope.pipeline import Pipeline
from narrow import made, random_model

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # diffusers' own

TOLERANCE = 1e-4
"""Latents after ten guided steps in float32, largest absolute difference."""

PROMPT, NEGATIVE = "a red fox, sitting", "blue"
SAMPLERS = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "kdpm2_ancestral": diffusers.KDPM2AncestralDiscreteScheduler,
    "pndm": diffusers.PNDMScheduler,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory):
    """Family -> its model and the folder of it in the layout of diffusers, each made once."""
    found: dict[str, tuple[Pipeline, Path]] = {}

    def get(family: str) -> tuple[Pipeline, Path]:
        if family not in found:
            pipe = made(family)
            found[family] = pipe, pipe.save(tmp_path_factory.mktemp("families") / family)
        return found[family]

    return get


@functools.cache
def read(folder: Path) -> Any:
    return diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)


def opened(folder: Path, sampler: str = "ddim", kind: str = "") -> Any:
    """diffusers' pipeline of the folder's own class, or of the ``kind`` "Img2Img" or "Inpaint" of its parts."""
    theirs = read(folder)
    if kind and kind not in type(theirs).__name__:
        base = type(theirs).__name__.replace("Img2Img", "").removesuffix("Pipeline")
        theirs = getattr(diffusers, f"{base}{kind}Pipeline").from_pipe(theirs)
    options = {"pndm": {"skip_prk_steps": True}} | {name: {"clip_sample": False} for name in ("ddim", "lcm", "ddpm")}
    kind_of = SAMPLERS[sampler]
    theirs.scheduler = kind_of.from_config(kind_of.load_config(folder / "scheduler"), **options.get(sampler, {}))
    theirs.set_progress_bar_config(disable=True)
    return theirs


def noise(rows: int) -> torch.Tensor:
    return torch.randn(rows, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def picture(seed: int = 0) -> Image.Image:
    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.numpy())


def mask() -> Image.Image:
    image = Image.new("L", (32, 32), 0)
    image.paste(255, (8, 4, 26, 20))
    return image


def off(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0.5
    # Some of these random networks make latents of deviation 10, whose rounding is ten times as large.
    return ((ours - theirs).abs().max() / theirs.std().clamp(min=1)).item()


def drawn() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(3)]


@pytest.mark.parametrize(
    ("family", "sampler"),
    [
        ("sd21", "ddim"),
        ("sd21-v", "dpmpp_2m"),
        ("sd-turbo", "euler"),
        ("sdxl", "ddim"),
        ("sdxl", "euler"),
        ("sdxl", "dpmpp_2m"),
        ("sdxl-turbo", "euler"),
        ("ssd-1b", "euler"),
    ],
)
def test_text_to_image(saved: Any, family: str, sampler: str) -> None:
    ours, folder = saved(family)
    call = {"latents": noise(2), "num_inference_steps": 10, "guidance_scale": 5.0}
    theirs = opened(folder, sampler)
    other = theirs([PROMPT, "cat"], negative_prompt=[NEGATIVE] * 2, **call, output_type="latent").images
    result = ours([PROMPT, "cat"], negative_prompt=NEGATIVE, **call, sampler=sampler)
    assert off(result.latents, other) < TOLERANCE


@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
@pytest.mark.parametrize("negative_prompt", [None, ""])
def test_only_no_negative_prompt_means_zeros_in_sdxl(
    saved: Any, guidance_scale: float, negative_prompt: str | None
) -> None:
    ours, folder = saved("sdxl")
    call = {"latents": noise(2), "num_inference_steps": 4, "guidance_scale": guidance_scale}
    call |= {"negative_prompt": negative_prompt}
    other = opened(folder)(PROMPT, **call, num_images_per_prompt=2, output_type="latent").images
    result = ours(PROMPT, **call, num_images_per_prompt=2, sampler="ddim")
    assert off(result.latents, other) < TOLERANCE


def test_sizes_and_crops_of_sdxl(saved: Any) -> None:
    ours, folder = saved("sdxl")
    sizes = {"original_size": (300, 400), "crops_coords_top_left": (20, 30), "target_size": (512, 256)}
    call = {"latents": noise(1), "num_inference_steps": 4, "guidance_scale": 5.0}
    other = opened(folder)(PROMPT, **call, **sizes, output_type="latent").images
    result = ours(PROMPT, **call, **sizes, sampler="ddim")
    assert off(result.latents, other) < TOLERANCE
    plain = ours(PROMPT, **call, sampler="ddim")
    assert off(plain.latents, other) > 10 * TOLERANCE


@pytest.mark.parametrize("family", ["sdxl", "sdxl-refiner", "sd21-v"])
def test_image_to_image(saved: Any, family: str) -> None:
    """The draws are ours: the encoder's sample, then the start noise; theirs come from the same generator."""
    ours, folder = saved(family)
    theirs = opened(folder, "euler", "Img2Img")
    assert "Img2Img" in type(theirs).__name__
    call = {"negative_prompt": NEGATIVE, "strength": 0.6, "num_inference_steps": 10, "guidance_scale": 5.0}
    other = theirs(PROMPT, image=picture(), generator=drawn(), **call, output_type="latent").images
    result = ours(PROMPT, image=picture(), seed=3, **call, sampler="euler")
    assert off(result.latents, other) < TOLERANCE


@pytest.mark.parametrize("share", [0.55, 0.8])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
def test_the_refiner_goes_on_where_the_base_model_stops(saved: Any, sampler: str, share: float) -> None:
    base, refiner = saved("sdxl"), saved("sdxl-refiner")
    call = {"negative_prompt": NEGATIVE, "num_inference_steps": 10, "guidance_scale": 5.0}
    started = call | {"latents": noise(1), "denoising_end": share}
    ours = base[0](PROMPT, **started, sampler=sampler).latents
    theirs = opened(base[1], sampler)(PROMPT, **started, output_type="latent").images
    assert off(ours, theirs) < TOLERANCE
    refined = refiner[0](PROMPT, **call, image=ours, denoising_start=share, sampler=sampler).latents
    other = opened(refiner[1], sampler)(PROMPT, **call, image=theirs, denoising_start=share, output_type="latent")
    assert off(refined, other.images) < TOLERANCE
    assert off(refined, theirs) > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("family", "sampler", "strength"),
    [
        ("sd15", "ddim", 0.6),
        ("sd15", "euler", 1.0),
        ("sd21-v", "dpmpp_2m", 0.6),
        ("sdxl", "euler", 1.0),
        ("sd15-inpaint", "ddim", 0.6),
        ("sd15-inpaint", "ddim", 1.0),
        ("sd21-inpaint", "dpmpp_2m", 1.0),
        ("sdxl-inpaint", "euler", 0.6),
        *(
            ("sd15", sampler, strength)  # which draw noise, and which call the network within a step
            for sampler in ("euler_ancestral", "ddpm", "heun", "kdpm2_ancestral")
            for strength in (0.6, 1.0)
        ),
        ("sd15", "pndm", 1.0),
    ],
)
def test_inpainting(saved: Any, family: str, sampler: str, strength: float) -> None:
    ours, folder = saved(family)
    theirs = opened(folder, sampler, "Inpaint")
    call: dict[str, Any] = {"image": picture(), "mask_image": mask(), "strength": strength, "guidance_scale": 5.0}
    call |= {"negative_prompt": NEGATIVE, "num_inference_steps": 10}
    size = {"height": 32, "width": 32}
    other = theirs(PROMPT, generator=drawn(), **call, **size, output_type="latent").images
    result = ours(PROMPT, seed=3, **call, sampler=sampler)
    assert off(result.latents, other) < TOLERANCE


@pytest.mark.parametrize(("scale", "image_scale"), [(7.5, 1.5), (3.0, 1.0), (1.5, 2.5)])
@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_an_image_is_edited_as_a_prompt_says(saved: Any, sampler: str, scale: float, image_scale: float) -> None:
    ours, folder = saved("sd15-instruct-pix2pix")
    theirs = opened(folder, sampler)
    assert type(theirs) is diffusers.StableDiffusionInstructPix2PixPipeline
    call = {"num_inference_steps": 4, "guidance_scale": scale, "image_guidance_scale": image_scale}
    call |= {"negative_prompt": NEGATIVE, "image": picture(), "num_images_per_prompt": 2, "latents": noise(2)}
    other = theirs(PROMPT, **call, output_type="latent").images
    assert off(ours(PROMPT, **call, sampler=sampler).latents, other) < TOLERANCE


def test_the_defaults_of_editing_are_theirs(saved: Any) -> None:
    _, folder = saved("sd15-instruct-pix2pix")
    call = {"image": picture(), "num_inference_steps": 3}
    other = opened(folder, "euler")(PROMPT, generator=drawn(), **call, output_type="latent").images
    again = ds.load(folder, device="cpu")
    assert off(again(PROMPT, seed=3, **call, sampler="euler").latents, other) < TOLERANCE


def test_sdxl_edits_an_image_too(tmp_path: Path) -> None:
    config = PRESETS["tiny-sdxl"]
    preset = replace(config.preset, image_guidance_scale=1.5)
    ours = random_model(replace(config, unet=replace(config.unet, in_channels=8), preset=preset))
    theirs = opened(ours.save(tmp_path / "model"), "euler")
    assert type(theirs) is diffusers.StableDiffusionXLInstructPix2PixPipeline
    call = {"num_inference_steps": 4, "image": picture(), "latents": noise(1)}
    other = theirs(PROMPT, height=32, width=32, **call, output_type="latent").images
    assert off(ours(PROMPT, **call, sampler="euler").latents, other) < TOLERANCE


@pytest.mark.parametrize("steps", [1, 4])
def test_a_latent_consistency_model(saved: Any, steps: int) -> None:
    """The guidance scale goes into the network, one call a step; the draws are those of the same generator."""
    ours, folder = saved("sd15-lcm")
    theirs = opened(folder, "lcm")
    assert type(theirs) is diffusers.LatentConsistencyModelPipeline
    assert theirs.unet.config.time_cond_proj_dim == ours.config.unet.guidance_dim
    found = []
    for scale in (1.0, 8.5):
        call = {"num_inference_steps": steps, "guidance_scale": scale}
        other = theirs(PROMPT, generator=drawn()[0], height=32, width=32, **call, output_type="latent").images
        found.append(ours(PROMPT, seed=3, **call, sampler="lcm").latents)
        assert off(found[-1], other) < TOLERANCE
    assert off(*found) > 100 * TOLERANCE


def test_an_earlier_layer_of_the_text_encoder(saved: Any) -> None:
    """Their own ``clip_skip`` asks transformers 5 for what is no more there, so the states are taken by hand."""
    ours, folder = saved("sd15")
    theirs = opened(folder)
    ids = ours.tokenizer.encode([PROMPT, NEGATIVE])
    states = theirs.text_encoder.final_layer_norm(theirs.text_encoder(ids, output_hidden_states=True).hidden_states[-2])
    call = {"latents": noise(1), "num_inference_steps": 4, "guidance_scale": 5.0}
    other = theirs(prompt_embeds=states[:1], negative_prompt_embeds=states[1:], **call, output_type="latent").images
    result = ours(PROMPT, negative_prompt=NEGATIVE, **call, sampler="ddim", clip_skip=1)
    assert off(result.latents, other) < TOLERANCE


@pytest.mark.parametrize("family", ["sd21-v", "sdxl", "sdxl-refiner"])
def test_a_saved_model_is_the_same_model(saved: Any, family: str, tmp_path: Path) -> None:
    ours, folder = saved(family)
    for place in (folder, ours.save(tmp_path / family, layout="own")):
        again = ds.load(place, device="cpu")
        assert again.config == ours.config
        assert again.weights == ours.weights
        told, before = again.encode_prompt(PROMPT), ours.encode_prompt(PROMPT)
        # The weights are the same to the bit; where they lie in memory decides on some processors how sums are rounded.
        torch.testing.assert_close(told.embeddings, before.embeddings, atol=1e-5, rtol=0)
        torch.testing.assert_close(told.pooled, before.pooled, atol=1e-5, rtol=0)
        assert torch.equal(told.ids, before.ids)


@pytest.mark.parametrize("family", ["sdxl", "sdxl-refiner", "sd21"])
def test_what_diffusers_saves_again_is_the_same_model(saved: Any, family: str, tmp_path: Path) -> None:
    ours, folder = saved(family)
    diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True).save_pretrained(tmp_path / family)
    again = ds.load(tmp_path / family, device="cpu")
    assert again.components.notes == ()
    assert again.weights == ours.weights
    assert replace(again.config, name=ours.config.name, preset=ours.config.preset) == ours.config
    assert again.config.preset.guidance_scale == (7.5 if family == "sd21" else 5.0)
