"""The loop by hand, with a pipeline's networks as functions, equals the pipeline."""

import pytest
import torch

from diffuscope.diffusion.guidance import guided, guided_in_one
from diffuscope.diffusion.loss_guidance import blue_loss, guide_steps, loss_guidance
from diffuscope.diffusion.samplers import SAMPLERS, final
from diffuscope.lens.functions import decoder, denoiser
from diffuscope.pipeline import Pipeline


@torch.no_grad()
def test_the_loop_by_hand_is_the_pipeline(tiny: Pipeline) -> None:
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    levels = tiny.schedule.levels(4, sampler="euler")
    denoise = guided(denoiser(tiny, "a fox", levels), denoiser(tiny, "", levels), 7.5)
    by_hand = final(SAMPLERS["euler"](denoise, noise * levels.start_scale, levels.sigmas)) * levels.end_scale
    piped = tiny("a fox", latents=noise, sampler="euler", num_inference_steps=4, guidance_scale=7.5)
    assert (by_hand - piped.latents).abs().max() < 1e-4 * piped.latents.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m"])
def test_the_loop_by_hand_in_one_batch_is_the_pipeline_bit_for_bit(tiny: Pipeline, sampler: str) -> None:
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    levels = tiny.schedule.levels(4, sampler=sampler)
    both = denoiser(tiny, tiny.encode_prompt(["", "a fox"]), levels)
    x = noise * levels.start_scale
    for step in SAMPLERS[sampler](guided_in_one(both, 7.5), x, levels.sigmas):
        x = step.x
    piped = tiny("a fox", latents=noise, sampler=sampler, num_inference_steps=4, guidance_scale=7.5)
    assert torch.equal(x * levels.end_scale, piped.latents)


@torch.no_grad()
def test_decoding_is_the_pipelines(tiny: Pipeline) -> None:
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    pixels = decoder(tiny)(latents).clamp(0, 1).mul(255).round().byte()
    for picture, values in zip(tiny.decode(latents), pixels, strict=True):
        assert picture.tobytes() == values.permute(1, 2, 0).contiguous().numpy().tobytes()


def test_loss_guidance_works_in_a_call_and_between_steps(tiny: Pipeline) -> None:
    decode, loss = decoder(tiny), blue_loss(weight=5.0)
    plain = tiny("a fox", seed=1).latents
    for exact in (False, True):
        led = tiny("a fox", seed=1, guidance=loss_guidance(loss, decode, scale=0.01, exact=exact)).latents
        assert led.isfinite().all()
        assert not torch.equal(led, plain)
    run = tiny.steps("a fox", seed=1, sampler="euler")
    for _ in guide_steps(run, run.levels.sigmas, loss, decode, every=2):
        pass
    result = run.result()
    assert result.receipt["branch"]["step"] == 3  # the last of every second step
    assert all(parameter.grad is None for parameter in tiny.unet.parameters())
