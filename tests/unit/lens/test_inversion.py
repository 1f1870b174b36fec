"""Parts by hand equal the pipeline; inversion comes back; masks keep what they keep; memory is counted right."""

import pytest
import torch
from PIL import Image

from diffuscope.diffusion.guidance import guided, guided_in_one
from diffuscope.diffusion.loss_guidance import blue_loss, led_by_loss, loss_guidance
from diffuscope.diffusion.samplers import SAMPLERS, final
from diffuscope.errors import InputError
from diffuscope.lens.functions import counted, decoder, denoiser, gradient_memory
from diffuscope.lens.inversion import diffedit, difference_mask, invert, redraw
from diffuscope.pipeline import Pipeline
from narrow import made

PICTURE = Image.radial_gradient("L").resize((32, 32)).convert("RGB")


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
    for _ in led_by_loss(run, run.levels.sigmas, loss, decode, every=2):
        pass
    result = run.result()
    assert "step.x" in result.receipt["edits"]
    assert all(parameter.grad is None for parameter in tiny.unet.parameters())


def test_inverting_comes_back(tiny: Pipeline) -> None:
    """TINY's U-Net is a random function that bends sharply: fixed points make up for what few steps lose."""
    inverted = invert(tiny, PICTURE, "a fox", steps=100, strength=0.04, refine=10)
    assert len(inverted.path) == len(inverted.levels.sigmas) == 5
    again = redraw(tiny, inverted, "a fox")
    assert again.mask is None
    assert (again.latents - inverted.path[-1]).abs().max() < 1e-3
    other = redraw(tiny, inverted, "two cats", scale=5.0)
    assert (other.latents - inverted.path[-1]).abs().max() > 1e-3
    assert other.images[0].size == (32, 32)


def test_an_edit_from_a_middle_step_is_that_of_a_lower_inversion(tiny: Pipeline) -> None:
    whole, half = (invert(tiny, PICTURE, "a fox", steps=4, strength=strength) for strength in (1.0, 0.5))
    middle = redraw(tiny, whole, "a cat", scale=3.0, start=2)
    assert torch.equal(middle.latents, redraw(tiny, half, "a cat", scale=3.0).latents)
    for start in (-1, 4):
        with pytest.raises(InputError, match="0 to 3"):
            redraw(tiny, whole, "a cat", start=start)


def test_an_edit_keeps_what_the_mask_keeps(tiny: Pipeline) -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :5] = 1
    inverted = invert(tiny, PICTURE, steps=5, strength=0.6)
    edited = redraw(tiny, inverted, "a cat", scale=3.0, mask=mask)
    clean = inverted.path[-1]
    assert torch.equal(edited.latents[..., 5:], clean[..., 5:])
    assert not torch.equal(edited.latents[..., :5], clean[..., :5])
    with pytest.raises(InputError, match="mask is"):
        redraw(tiny, inverted, "a cat", mask=mask[..., :4])


def test_diffedit_makes_its_own_mask(tiny: Pipeline) -> None:
    edited = diffedit(tiny, PICTURE, "a fox", "a cat", steps=4, strength=0.5)
    clean = tiny.encode_image(PICTURE, sample=False)
    mask = difference_mask(tiny, clean, "a fox", "a cat")
    assert torch.equal(mask, edited.mask)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    kept = (mask == 0).expand_as(clean)
    assert torch.equal(edited.latents[kept], clean[kept])
    assert difference_mask(tiny, clean, "a fox", "a cat", count=1, threshold=0.0).all()
    with pytest.raises(InputError, match="texts that differ"):
        difference_mask(tiny, clean, "a fox", "a fox", count=1)
    with pytest.raises(InputError, match="0 draws"):
        difference_mask(tiny, clean, "a fox", "a cat", count=0)


def test_a_picture_too_small_is_refused(tiny: Pipeline) -> None:
    with pytest.raises(InputError, match="at least 2 pixels"):
        invert(tiny, PICTURE.resize((1, 1)))


def test_what_cannot_be_is_named_before_any_network_runs(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    sdxl = made("sdxl")
    called: list[str] = []
    for name in ("encode_image", "encode_prompt"):
        for pipe in (tiny, sdxl):
            monkeypatch.setattr(pipe, name, lambda *_, name=name, **__: called.append(name))
    for call, says in (
        (lambda: invert(tiny, PICTURE, steps=0), "0 steps"),
        (lambda: invert(tiny, PICTURE, strength=float("nan")), "strength nan"),
        (lambda: invert(tiny, PICTURE, refine=-1), "refine is -1"),
        (lambda: invert(sdxl, PICTURE), "pooled, sizes beside the text"),
        (lambda: diffedit(tiny, PICTURE, "a fox", "a fox"), "give texts that differ"),
        (lambda: diffedit(tiny, PICTURE, "a fox", "a cat", mask=torch.zeros(1, 1, 3, 3)), r"the mask is \[3, 3\]"),
    ):
        with pytest.raises(InputError, match=says):
            call()
    assert called == []


def test_memory_is_what_the_real_graphs_keep(tiny: Pipeline) -> None:
    found = gradient_memory(tiny, 32, 32)
    x = torch.zeros(2, 4, 16, 16, requires_grad=True)
    with counted() as unet:
        tiny.unet(x, 3.0, torch.zeros(2, 77, 32))
    with counted() as vae:
        tiny.vae.decode(x[:1] / 1)
    assert found.unet == pytest.approx(sum(unet.values()), rel=0.05)
    assert found.vae == pytest.approx(sum(vae.values()), rel=0.05)
    assert found.cheap < found.exact < found.without_checkpoints
    assert "exact" in str(found)
    with pytest.raises(InputError, match="multiples of 2"):
        gradient_memory(tiny, 31, 32)
