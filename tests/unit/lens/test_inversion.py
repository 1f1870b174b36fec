"""Inversion comes back; edits keep what the mask keeps; what cannot be is refused before any network runs."""

import pytest
import torch
from PIL import Image

from diffuscope.lens.inversion import diffedit, difference_mask, invert, redraw
from diffuscope.pipeline import Pipeline
from narrow import made
from refusals import refused

PICTURE = Image.radial_gradient("L").resize((32, 32)).convert("RGB")


def test_inverting_comes_back(tiny: Pipeline) -> None:
    """TINY's U-Net is a random function that bends sharply: fixed points make up for what few steps lose."""
    inverted = invert(tiny, PICTURE, "a fox", steps=100, strength=0.04, refine=10)
    assert len(inverted.path) == len(inverted.levels.sigmas) == 5
    again = redraw(tiny, inverted, "a fox")
    assert again.mask is None
    assert (again.latents - inverted.path[-1]).abs().max() < 1e-3
    other = redraw(tiny, inverted, "two cats", guidance_scale=5.0)
    assert (other.latents - inverted.path[-1]).abs().max() > 1e-3
    assert other.images[0].size == (32, 32)


def test_an_edit_from_a_middle_step_is_that_of_a_lower_inversion(tiny: Pipeline) -> None:
    whole, half = (invert(tiny, PICTURE, "a fox", steps=4, strength=strength) for strength in (1.0, 0.5))
    middle = redraw(tiny, whole, "a cat", guidance_scale=3.0, start=2)
    assert torch.equal(middle.latents, redraw(tiny, half, "a cat", guidance_scale=3.0).latents)
    for start in (-1, 4):
        with refused("start", start):
            redraw(tiny, whole, "a cat", start=start)


def test_an_edit_keeps_what_the_mask_keeps(tiny: Pipeline) -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :5] = 1
    inverted = invert(tiny, PICTURE, steps=5, strength=0.6)
    edited = redraw(tiny, inverted, "a cat", guidance_scale=3.0, mask=mask)
    clean = inverted.path[-1]
    assert torch.equal(edited.latents[..., 5:], clean[..., 5:])
    assert not torch.equal(edited.latents[..., :5], clean[..., :5])
    with refused("mask"):
        redraw(tiny, inverted, "a cat", mask=mask[..., :4])


def test_diffedit_makes_its_own_mask(tiny: Pipeline) -> None:
    edited = diffedit(tiny, PICTURE, "a fox", "a cat", steps=4, strength=0.5)
    clean = tiny.encode_image(PICTURE, sample=False)
    mask = difference_mask(tiny, clean, "a fox", "a cat")
    assert torch.equal(mask, edited.mask)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    kept = (mask == 0).expand_as(clean)
    assert torch.equal(edited.latents[kept], clean[kept])
    assert difference_mask(tiny, clean, "a fox", "a cat", samples=1, threshold=0.0).all()
    with refused("target", "a fox"):
        difference_mask(tiny, clean, "a fox", "a fox", samples=1)
    with refused("samples", 0):
        difference_mask(tiny, clean, "a fox", "a cat", samples=0)


def test_a_picture_too_small_is_refused(tiny: Pipeline) -> None:
    with refused("image"):
        invert(tiny, PICTURE.resize((1, 1)))


def test_what_cannot_be_is_named_before_any_network_runs(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    sdxl = made("sdxl")
    called: list[str] = []
    for name in ("encode_image", "encode_prompt"):
        for pipe in (tiny, sdxl):
            monkeypatch.setattr(pipe, name, lambda *_, name=name, **__: called.append(name))
    for call, argument in (
        (lambda: invert(tiny, PICTURE, steps=0), "num_inference_steps"),
        (lambda: invert(tiny, PICTURE, strength=float("nan")), "strength"),
        (lambda: invert(tiny, PICTURE, refine=-1), "refine"),
        (lambda: invert(sdxl, PICTURE), "pipe"),
        (lambda: diffedit(tiny, PICTURE, "a fox", "a fox"), "target"),
        (lambda: diffedit(tiny, PICTURE, "a fox", "a cat", mask=torch.zeros(1, 1, 3, 3)), "mask"),
    ):
        with refused(argument):
            call()
    assert called == []
