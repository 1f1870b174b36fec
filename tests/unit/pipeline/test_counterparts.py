"""What diffusers calls otherwise: each argument and attribute has its counterpart, and some simply work."""

import inspect
import re
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

import diffuscope as ds
from diffuscope import counterparts
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.inputs import Call
from refusals import refused

CALL = {"num_inference_steps": 2, "upscale": 1}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", counterparts.CALL)
def test_an_argument_of_a_call_names_its_counterpart(tiny: Pipeline, name: str) -> None:
    for function in (tiny, tiny.steps):
        with pytest.raises(TypeError, match=re.escape(f"no argument {name!r}: {counterparts.CALL[name]}")):
            function("a fox", **{name: 1})


@pytest.mark.parametrize("name", counterparts.LOAD)
def test_an_argument_of_load_names_its_counterpart(name: str) -> None:
    with pytest.raises(TypeError, match=re.escape(f"no argument {name!r}: {counterparts.LOAD[name]}")):
        ds.load("emoji", **{name: 1})


@pytest.mark.parametrize("name", counterparts.METHODS)
def test_a_method_names_its_counterpart(tiny: Pipeline, name: str) -> None:
    with pytest.raises(AttributeError, match=re.escape(f"{name!r}: {counterparts.METHODS[name]}")):
        getattr(tiny, name)


def test_other_attributes_are_absent_as_usual(tiny: Pipeline) -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        tiny.nothing  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(tiny, "to")
    assert not hasattr(tiny, "__len__")


def test_no_name_of_ours_stands_among_the_others(tiny: Pipeline) -> None:
    assert not {field.name for field in fields(Call)} & set(counterparts.CALL)
    assert not set(inspect.signature(ds.load).parameters) & set(counterparts.LOAD)
    assert not set(dir(tiny)) & set(counterparts.METHODS)


def test_a_new_generator_is_its_seed(tiny: Pipeline) -> None:
    for sampler in ("ddim", "euler_ancestral", "dpmpp_2m_sde"):
        wanted = tiny("a fox", seed=5, sampler=sampler, **CALL)
        found = tiny("a fox", generator=generator(5), sampler=sampler, **CALL)
        assert torch.equal(found.latents, wanted.latents)
        assert found.receipt == wanted.receipt
    several = tiny("a fox", generator=[generator(5), generator(9)], num_images_per_prompt=2, **CALL)
    assert torch.equal(several.latents, tiny("a fox", seed=[5, 9], num_images_per_prompt=2, **CALL).latents)
    assert several.receipt["edits"] == []


def test_a_generator_goes_on_where_it_is(tiny: Pipeline) -> None:
    """The second call makes another image, as in diffusers; no receipt can hold the generator's state."""
    drawing = generator(5)
    first, second = (tiny("a fox", generator=drawing, **CALL) for _ in range(2))
    assert not torch.equal(first.latents, second.latents)
    assert first.receipt["edits"] == []
    assert second.receipt["edits"] == ["generator"]
    again = generator(5)
    for wanted in (first, second):
        assert torch.equal(tiny("a fox", generator=again, **CALL).latents, wanted.latents)


def test_one_generator_draws_for_all_images(tiny: Pipeline) -> None:
    found = tiny("a fox", generator=generator(5), num_images_per_prompt=2, **CALL)
    noise = torch.randn(2, 4, 16, 16, generator=generator(5))
    assert torch.equal(found.latents, tiny("a fox", latents=noise, num_images_per_prompt=2, seed=1, **CALL).latents)
    assert found.receipt["edits"] == ["generator"]


def test_an_impossible_generator(tiny: Pipeline) -> None:
    with refused("seed", 3):
        tiny("a fox", seed=3, generator=generator(3))
    for wrong in ([generator(1), generator(2)], [], [1]):
        with refused("generator"):
            tiny("a fox", generator=wrong)


def test_the_output_has_the_form_that_was_asked_for(tiny: Pipeline, tmp_path) -> None:
    usual = tiny("a fox", seed=1, num_images_per_prompt=2, **CALL)
    pixels = np.stack([np.asarray(image) for image in usual.images])
    form = {
        kind: tiny("a fox", seed=1, num_images_per_prompt=2, output_type=kind, **CALL)
        for kind in ("pil", "np", "pt", "latent")
    }
    assert [image.tobytes() for image in form["pil"].images] == [image.tobytes() for image in usual.images]
    assert form["np"].images.shape == (2, 32, 32, 3)
    assert form["np"].images.dtype == np.float32
    assert np.array_equal((form["np"].images * 255).round().astype(np.uint8), pixels)
    assert torch.equal(form["pt"].images.permute(0, 2, 3, 1), torch.from_numpy(form["np"].images))
    assert torch.equal(form["latent"].images, usual.latents)
    for kind, result in form.items():
        assert torch.equal(result.latents, usual.latents)
        assert result.receipt == usual.receipt
        if kind != "pil":
            with refused("output_type"):
                result.save(tmp_path / "out.png")
    with refused("output_type", "jpeg"):
        tiny("a fox", output_type="jpeg")


def test_a_scale_of_zero_is_no_guidance(tiny: Pipeline) -> None:
    """As turbo models are called in diffusers; options that combine both estimates keep it as a scale."""
    plain = tiny("a fox", seed=1, guidance_scale=1.0, **CALL)
    zero = tiny("a fox", seed=1, guidance_scale=0.0, **CALL)
    assert torch.equal(zero.latents, plain.latents)
    assert zero.receipt["guidance_scale"] == 0
    rising = tiny("a fox", seed=1, guidance_scale=0.0, guidance_options={"end": 5.0}, **CALL)
    assert not torch.equal(rising.latents, plain.latents)


def test_arrays_are_images_and_masks(tiny: Pipeline) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    mask = np.zeros((32, 32), np.float32)
    mask[8:20, 8:20] = 1
    images = [Image.fromarray(each) for each in pixels]
    wanted = tiny(["a fox", "a cat"], image=images, mask_image=Image.fromarray(mask > 0), seed=1, **CALL)
    found = tiny(["a fox", "a cat"], image=pixels, mask_image=mask, seed=1, **CALL)
    assert torch.equal(found.latents, wanted.latents)
    assert found.receipt == wanted.receipt
    assert torch.equal(tiny.encode_image(pixels / 255, seed=1), tiny.encode_image(images, seed=1))
