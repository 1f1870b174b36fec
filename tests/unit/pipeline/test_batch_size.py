"""Many images in small batches: each is what its batch alone makes, to the bit; in the receipt and replayed."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import diffuscope as ds
from diffuscope.pipeline import Pipeline
from narrow import made
from refusals import refused

PROMPTS = ["a red fox", "a cat", "two hens", "a fox", "a tree"]
PICTURE = Image.effect_noise((32, 32), 60).convert("RGB")


def assert_same(result: ds.Result, alone: list[ds.Result]) -> None:
    assert torch.equal(result.latents, torch.cat([each.latents for each in alone]))
    assert [image.tobytes() for image in result.images] == [image.tobytes() for each in alone for image in each.images]


@pytest.mark.parametrize("call", [{}, {"image": PICTURE}, {"sampler": "dpmpp_2m_sde", "negative_prompt": "blue"}])
def test_one_at_a_time_each_image_is_that_of_a_call_of_its_own(tiny: Pipeline, call: dict) -> None:
    call = {"num_inference_steps": 3, "guidance_scale": 3.0, **call}
    together = tiny(PROMPTS, seed=5, batch_size=1, **call)
    assert_same(together, [tiny(prompt, seed=5 + k, **call) for k, prompt in enumerate(PROMPTS)])


@pytest.mark.parametrize(
    "call",
    [
        *({"sampler": name} for name in ("lms", "unipc", "deis", "dpmpp_sde", "restart", "lcm", "f_pndm")),
        *({"guidance_options": {"norm": norm}} for norm in ("whole", "both")),
        *({"guidance_options": {"colour": (0, 0, 1), "exact": exact}} for exact in (False, True)),
        {"guidance_options": {"rescale": 0.7}},
        {"guidance_options": {"similarity": "a cat"}},
        {"thresholding": {"ratio": 0.9, "max_value": 1.5}},
        {"height": 40, "width": 56},
    ],
    ids=str,
)
def test_one_at_a_time_whatever_the_options(tiny: Pipeline, call: dict) -> None:
    call = {"num_inference_steps": 2, "guidance_scale": 3.0, **call}
    together = tiny(PROMPTS[:3], seed=5, batch_size=1, **call)
    assert_same(together, [tiny(prompt, seed=5 + k, **call) for k, prompt in enumerate(PROMPTS[:3])])


def test_batches_of_two_and_a_rest(tiny: Pipeline) -> None:
    rows: list[int] = []
    call = {"num_inference_steps": 2, "guidance_scale": 3.0}
    result = tiny(PROMPTS, seed=5, batch_size=2, **call)
    assert_same(result, [tiny(PROMPTS[k : k + 2], seed=5 + k, **call) for k in (0, 2, 4)])
    assert result.receipt["batch_size"] == 2
    run = tiny.steps(PROMPTS, seed=5, batch_size=2, guidance=lambda d: lambda x, s: rows.append(len(x)) or d(x, s))
    next(run)
    assert rows == [5]  # functions of a call see all images


def test_several_images_of_a_prompt(tiny: Pipeline) -> None:
    call = {"num_images_per_prompt": 3, "num_inference_steps": 2}
    small = tiny(["a fox", "a cat"], seed=1, batch_size=2, **call)
    assert torch.allclose(small.latents, tiny(["a fox", "a cat"], seed=1, **call).latents, atol=1e-4)
    assert len(small.images) == 6


@pytest.mark.parametrize("family", ["sdxl", "sd15-inpaint", "sd15-lcm"])
def test_every_input_of_a_unet_is_split(family: str) -> None:
    pipe = made(family)
    call = {"num_inference_steps": 2}
    if family == "sd15-inpaint":
        call |= {"image": PICTURE, "mask_image": Image.new("L", (32, 32), 255)}
    together = pipe(PROMPTS[:3], seed=5, batch_size=1, **call)
    assert_same(together, [pipe(prompt, seed=5 + k, **call) for k, prompt in enumerate(PROMPTS[:3])])


def test_texts_that_change_and_and(tiny: Pipeline) -> None:
    call = {"num_inference_steps": 3, "guidance_scale": 3.0, "prompt_syntax": "a1111"}
    prompts = ["a [fox|cat]", "a fox AND a cat", "a hen, " * 30]
    together = tiny(prompts, seed=5, batch_size=1, **call)
    assert_same(together, [tiny(prompt, seed=5 + k, **call) for k, prompt in enumerate(prompts)])


def test_a_receipt_repeats_it(tiny: Pipeline, tmp_path: Path) -> None:
    paths = tiny(PROMPTS, seed=5, batch_size=2, num_inference_steps=2).save(tmp_path / "out.png")
    assert ds.replay(paths[3], model=tiny).identical


def test_arrays_and_taps(tiny: Pipeline) -> None:
    call = {"seed": 5, "num_inference_steps": 1}
    assert tiny(PROMPTS, batch_size=2, output_type="pt", **call).images.shape == (5, 3, 32, 32)
    tap = {"unet.x": lambda _: None}
    with refused("tap"):
        tiny(PROMPTS, batch_size=2, tap=tap, **call)
    tiny(PROMPTS, batch_size=5, tap=tap, **call)
    with refused("batch_size", 0):
        tiny(PROMPTS, batch_size=0, **call)
