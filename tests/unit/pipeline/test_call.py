"""What a call makes: pictures, their number and order, their independence, and where each comes from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diffuscope.errors import NonFiniteError
from diffuscope.images import image_hash, open_image, to_pixels
from diffuscope.pipeline import Pipeline
from refusals import refused

BATCH_TOLERANCE = 1e-4
"""How far an image's latents in a batch may be from the same image alone: float32, kernels that depend on the batch."""


def counting(pipe: Pipeline) -> tuple[dict[str, list[int]], dict[str, object]]:
    """A tap that counts calls, and their rows: of the text encoder and of the U-Net."""
    seen: dict[str, list[int]] = {"text": [], "unet": []}
    return seen, {
        "text_encoder.embeddings": lambda value: seen["text"].append(len(value)),
        "unet.x": lambda value: seen["unet"].append(len(value)),
    }


def test_the_preset_fills_in_what_is_not_said(tiny: Pipeline) -> None:
    result = tiny("a red fox", seed=32)
    preset = tiny.config.preset
    assert [picture.size for picture in result.images] == [(preset.width, preset.height)]
    assert result.latents.shape == (1, 4, 16, 16)
    assert result.latents.dtype == torch.float32
    assert result.latents.device.type == "cpu"
    assert result.seeds == [32]
    assert result.receipt["num_inference_steps"] == preset.num_inference_steps
    assert result.receipt["guidance_scale"] == preset.guidance_scale
    assert result.receipt["sampler"] == preset.sampler


def test_same_seed_same_bits_and_a_random_seed_is_reported(tiny: Pipeline) -> None:
    first = tiny("a red fox")
    again = tiny("a red fox", seed=first.seeds)
    assert torch.equal(first.latents, again.latents)
    assert image_hash(first.images[0]) == image_hash(again.images[0])
    assert not torch.equal(first.latents, tiny("a red fox", seed=first.seeds[0] + 1).latents)


def test_the_global_generator_is_left_alone(tiny: Pipeline) -> None:
    before = torch.get_rng_state()
    tiny("a red fox", sampler="euler_ancestral")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral"])
def test_image_k_of_a_batch_is_the_same_made_alone(tiny: Pipeline, sampler: str) -> None:
    """Image k is of prompt k // count and has seed + k; neither the batch nor its mates matter."""
    prompts, negative = ["a red fox", "two cats"], ["blue", ""]
    batch = tiny(prompts, negative_prompt=negative, seed=7, num_images_per_prompt=2, sampler=sampler)
    assert batch.seeds == [7, 8, 9, 10]
    for k in range(4):
        alone = tiny(prompts[k // 2], negative_prompt=negative[k // 2], seed=7 + k, sampler=sampler)
        assert (batch.latents[k] - alone.latents[0]).abs().max() < BATCH_TOLERANCE


def test_start_image_of_a_batch_is_the_same_made_alone(tiny: Pipeline) -> None:
    images = [Image.new("RGB", (40, 32), colour) for colour in ("red", "blue")]
    batch = tiny(["a", "b"], image=images, strength=0.5, seed=[5, 99], sampler="euler_ancestral")
    alone = tiny("b", image=images[1], strength=0.5, seed=99, sampler="euler_ancestral")
    assert (batch.latents[1] - alone.latents[0]).abs().max() < BATCH_TOLERANCE


def test_equal_texts_are_encoded_once(tiny: Pipeline) -> None:
    seen, tap = counting(tiny)
    tiny(["fox", "cat", "fox"], negative_prompt="fox", seed=1, num_images_per_prompt=2, tap=tap)
    assert seen["text"] == [2]
    assert set(seen["unet"]) == {12}


def test_guidance_of_one_is_one_plain_call_a_step(tiny: Pipeline) -> None:
    seen, tap = counting(tiny)
    tiny("fox", guidance_scale=1.0, num_inference_steps=3, seed=1, tap=tap)
    assert seen == {"text": [1], "unet": [1, 1, 1]}
    seen, tap = counting(tiny)
    tiny("fox", guidance_scale=2.0, num_inference_steps=3, seed=1, tap=tap)
    assert seen == {"text": [2], "unet": [2, 2, 2]}


def test_conditioning_stands_for_its_prompt(tiny: Pipeline) -> None:
    told = tiny.encode_prompt(["a red fox", "two cats"])
    assert told.ids is not None
    assert told.ids.shape == (2, 77)
    assert told.embeddings.shape == (2, 77, 32)
    by_text = tiny(["a red fox", "two cats"], seed=3, num_images_per_prompt=2)
    by_states = tiny(conditioning=told, seed=3, num_images_per_prompt=2)
    assert (by_text.latents - by_states.latents).abs().max() < BATCH_TOLERANCE
    assert by_states.receipt["edits"] == ["conditioning"]


def test_conditioning_of_another_length_takes_two_calls_and_agrees(tiny: Pipeline) -> None:
    """Two calls a step are the slow twin of the doubled batch; a repeated context changes no attention."""
    told = tiny.encode_prompt("a red fox")
    twice = replace(told, embeddings=torch.cat([told.embeddings, told.embeddings], dim=1))
    one_batch = tiny(conditioning=told, seed=3)
    two_calls = tiny(conditioning=twice, seed=3)
    assert (one_batch.latents - two_calls.latents).abs().max() < BATCH_TOLERANCE


def test_given_latents_are_the_drawn_ones(tiny: Pipeline) -> None:
    noise = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(32))[None]
    kept = noise.clone()
    result = tiny("a red fox", latents=noise)
    assert torch.equal(result.latents, tiny("a red fox", seed=32).latents)
    assert torch.equal(noise, kept)
    assert tiny("a", latents=torch.randn(1, 4, 8, 12), seed=1).images[0].size == (24, 16)


def test_guidance_functions_wrap_the_denoiser(tiny: Pipeline) -> None:
    calls = []

    def watch(denoise):
        def watched(x, sigma):
            calls.append(sigma)
            return denoise(x, sigma)

        return watched

    plain = tiny("a red fox", seed=32)
    watched = tiny("a red fox", seed=32, guidance=[watch])
    assert torch.equal(plain.latents, watched.latents)
    assert calls == plain.receipt["noise_levels"][:-1]
    single = tiny("a red fox", seed=32, guidance=watch, guidance_scale=np.float32(7.5))
    assert torch.equal(plain.latents, single.latents)
    halved = tiny("a red fox", seed=32, guidance=[lambda denoise: lambda x, sigma: denoise(x, sigma) / 2])
    assert not torch.equal(plain.latents, halved.latents)
    with refused("guidance"):
        tiny("a red fox", guidance=5.0)


def test_custom_noise_levels_and_fused_sampler_names(tiny: Pipeline) -> None:
    given = tiny("a", seed=1, sigmas=[5.0, 1.0, 0.0])
    assert given.receipt["num_inference_steps"] == 2
    assert given.receipt["sigmas"] == [5.0, 1.0, 0.0]
    fused = tiny("a", seed=1, sampler="DPM++ 2M Karras")
    assert (fused.receipt["sampler"], fused.receipt["sigmas"]) == ("dpmpp_2m", "karras")
    assert torch.equal(fused.latents, tiny("a", seed=1, sampler="dpmpp_2m", sigmas="karras").latents)


@pytest.mark.parametrize(("strength", "steps"), [(0.25, 1), (0.5, 2), (1.0, 4)])
def test_strength_is_the_part_of_the_run_that_is_done(tiny: Pipeline, strength: float, steps: int) -> None:
    run = tiny.steps("a", image=Image.new("RGB", (32, 32), "red"), strength=strength, seed=1)
    assert len(run) == len(list(run)) == steps
    assert run.result().receipt["num_inference_steps"] == 4


def test_image_latents(tiny: Pipeline) -> None:
    red, blue = (Image.new("RGB", (33, 35), colour) for colour in ("red", "blue"))
    mean = tiny.encode_image([red, blue], sample=False)
    assert mean.shape == (2, 4, 17, 16)
    assert torch.equal(mean, tiny.encode_image([red, blue], sample=False))
    drawn = tiny.encode_image(red, seed=4)
    assert torch.equal(drawn, tiny.encode_image(red, seed=4))
    assert not torch.equal(drawn, mean[:1])
    assert [picture.size for picture in tiny.decode(mean)] == [(32, 34)] * 2


def test_upscaling(tiny: Pipeline) -> None:
    small, large = tiny("a", seed=1), tiny("a", seed=1, upscale=4)
    assert large.images[0].size == (128, 128)
    assert torch.equal(small.latents, large.latents)
    reduced = to_pixels([large.images[0].resize((32, 32), Image.Resampling.BOX)])
    both = torch.stack([reduced.flatten(), to_pixels(small.images).flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.8  # a picture of noise, which the upscaler smooths


def test_sizes(tiny: Pipeline) -> None:
    assert tiny("a", seed=1, height=16, width=34).images[0].size == (34, 16)


def test_overflow_is_an_error_never_a_black_picture(tiny: Pipeline) -> None:
    with pytest.raises(NonFiniteError, match="not finite in float32"):
        tiny("a", seed=1, tap={"unet.conv_out": lambda value: value * float("nan")})
    with pytest.raises(NonFiniteError, match="decoder"):
        tiny("a", seed=1, tap={"vae.post_quant_conv": lambda value: value * float("inf")})


def test_half_precision_vae_is_retried_in_float32(tiny: Pipeline, tiny_folder) -> None:
    """A decoder whose values leave float16's range, as SDXL's does."""
    import diffuscope as ds

    half = ds.load(tiny_folder, device="cpu", dtype="float16")
    latents = half("a", seed=1).latents
    half.vae.decoder.conv_in.weight.mul_(3e4)
    half.vae.decoder.conv_in.bias.mul_(3e4)
    result = half("a", seed=1)
    assert any("ran again in float32" in note for note in result.receipt["notes"])
    assert torch.equal(result.latents, latents)
    assert len(set(result.images[0].tobytes())) > 16


def test_a_prompt_that_is_too_long_is_named_and_drawn(tiny: Pipeline) -> None:
    words = ["cat", "dog"] * 37 + ["fox", "Red", "hén"]
    result = tiny(" ".join(words), seed=1)
    assert result.notes[0] == "the prompt has 79 tokens and 75 fit; the model does not see these words: 'Red hén'"
    assert torch.equal(result.latents, tiny(" ".join(words[:75]), seed=1).latents)


def test_a_word_that_is_cut_in_the_middle_is_said_so(tiny: Pipeline) -> None:
    result = tiny("dog " * 74 + "2718 cat", negative_prompt="cat " * 80, seed=1)
    first, second = (note for note in result.notes if "tokens" in note)
    assert first.endswith("does not see these words, but the beginning of the first: '2718 cat'")
    assert second.endswith("'cat cat cat cat cat'")


def test_a_picture_can_start_from_a_path(tiny: Pipeline, tmp_path) -> None:
    path = tmp_path / "in.png"
    Image.new("RGBA", (64, 64), (255, 0, 0, 128)).save(path)
    by_path = tiny("a", image=path, seed=1)
    by_picture = tiny("a", image=open_image(path), seed=1)
    assert torch.equal(by_path.latents, by_picture.latents)


def test_noise_is_added_as_a_run_has_it(tiny: Pipeline) -> None:
    """A run from a sigma, and the loop from there by hand: img2img without its call."""
    clean = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    noise = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6)])
    torch.testing.assert_close(tiny.add_noise(clean, sigma=2.0, seed=5), clean + 2 * noise)
    levels = tiny.schedule.levels(8, sampler="euler").sigmas
    found = tiny.add_noise(clean, step=3, seed=[5, 6], sampler="euler", num_inference_steps=8)
    torch.testing.assert_close(found, clean + levels[3] * noise)
    usual = tiny.schedule.levels(tiny.config.preset.num_inference_steps, sampler=tiny.config.preset.sampler).sigmas
    torch.testing.assert_close(tiny.add_noise(clean, step=0, seed=5), clean + usual[0] * noise)
    assert torch.equal(tiny.add_noise(clean, step=len(usual) - 1, seed=5), clean)
    run = tiny.steps(["a", "a"], image=clean, strength=0.5, seed=5, num_inference_steps=8, sampler="euler")
    assert run.levels.sigmas[0] == levels[4]
    seen: list[torch.Tensor] = []
    tiny(
        ["a", "a"],
        image=clean,
        strength=0.5,
        seed=5,
        num_inference_steps=8,
        sampler="euler",
        guidance=lambda denoise: lambda x, sigma: seen.append(x) or denoise(x, sigma),
    )
    torch.testing.assert_close(seen[0], tiny.add_noise(clean, step=4, seed=5, sampler="euler", num_inference_steps=8))


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("step", {}),
        ("step", {"step": 1, "sigma": 1.0}),
        ("step", {"step": 5}),
        ("step", {"step": -1}),
        ("sigma", {"sigma": -1.0}),
        ("sigma", {"sigma": float("nan")}),
        ("sigma", {"sigma": 1e39}),
        ("seed", {"sigma": 1.0, "seed": [1, 2, 3]}),
        ("sampler", {"step": 0, "sampler": "oiler"}),
    ],
)
def test_noise_that_cannot_be_added(tiny: Pipeline, argument: str, given: dict) -> None:
    with refused(argument):
        tiny.add_noise(torch.zeros(1, 4, 16, 16), **given)
