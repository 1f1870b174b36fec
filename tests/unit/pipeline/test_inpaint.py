"""Inpainting in a call: white is made anew, black stays, and a mask that means nothing is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffuscope as ds
from diffuscope.errors import ImageError
from diffuscope.metadata import read_texts
from diffuscope.pipeline import Pipeline
from refusals import refused


def mask_of(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (32, 32)) -> Image.Image:
    mask = Image.new("L", size)
    for box in boxes:
        mask.paste(255, box)
    return mask


LEFT, RIGHT = mask_of((0, 0, 16, 32)), mask_of((16, 0, 32, 32))
PICTURE = Image.effect_noise((32, 32), 60).convert("RGB")


def test_what_is_black_stays(tiny: Pipeline) -> None:
    result = tiny("a fox", image=PICTURE, mask_image=LEFT, seed=1, strength=1.0)
    clean = tiny.encode_image(PICTURE, seed=1)
    assert torch.equal(result.latents[..., 8:], clean[..., 8:])
    assert (result.latents[..., :8] - clean[..., :8]).abs().mean() > 0.1


def test_masks_are_the_prompts(tiny: Pipeline) -> None:
    """Image k has the mask and the picture of its prompt, in any batch."""
    pictures = [PICTURE, PICTURE.transpose(Image.Transpose.ROTATE_90)]
    call = {"image": pictures, "mask_image": [LEFT, RIGHT], "strength": 0.7}
    result = tiny(["a", "b"], **call, num_images_per_prompt=2, seed=4)
    one = tiny("b", image=pictures[1], mask_image=RIGHT, strength=0.7, seed=6)
    assert (result.latents[2] - one.latents[0]).abs().max() < 1e-4
    shared = tiny(["a", "b"], image=pictures, mask_image=LEFT, strength=0.7, seed=4)
    assert len(shared.images) == 2
    assert len(set(result.receipt["mask_image"])) == 2


@pytest.mark.parametrize("kind", ["L", "1", "RGB", "P", "file"])
def test_any_kind_of_picture_is_a_mask(tiny: Pipeline, tmp_path: Path, kind: str) -> None:
    mask: Image.Image | Path = LEFT
    if kind == "file":
        mask = tmp_path / "mask.png"
        LEFT.save(mask)
    else:
        mask = LEFT.convert(kind)
    latents = tiny("fox", image=PICTURE, mask_image=mask, seed=1).latents
    assert torch.equal(latents, tiny("fox", image=PICTURE, mask_image=LEFT, seed=1).latents)


def test_what_is_transparent_in_a_mask_is_made_anew(tiny: Pipeline) -> None:
    mask = Image.new("RGBA", (32, 32), "black")
    mask.paste((0, 0, 0, 0), (0, 0, 16, 32))
    latents = tiny("fox", image=PICTURE, mask_image=mask, seed=1).latents
    assert torch.equal(latents, tiny("fox", image=PICTURE, mask_image=LEFT, seed=1).latents)


def test_grey_is_cut_at_the_middle(tiny: Pipeline) -> None:
    grey = Image.fromarray(np.where(np.asarray(LEFT) > 0, 128, 127).astype(np.uint8))
    latents = tiny("fox", image=PICTURE, mask_image=grey, seed=1).latents
    assert torch.equal(latents, tiny("fox", image=PICTURE, mask_image=LEFT, seed=1).latents)


def test_a_mask_is_scaled_with_its_picture(tiny: Pipeline) -> None:
    wide, mask = PICTURE.resize((96, 64)), mask_of((0, 0, 48, 64), size=(96, 64))
    result = tiny("fox", image=wide, mask_image=mask, seed=1, strength=1.0)
    clean = tiny.encode_image(wide.resize((48, 32), Image.Resampling.LANCZOS).crop((8, 0, 40, 32)), seed=1)
    assert torch.allclose(result.latents[..., 8:], clean[..., 8:], atol=0.1)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        ({"mask_image": LEFT}, "image"),
        ({"image": PICTURE, "mask_image": mask_of()}, "mask_image"),
        ({"image": PICTURE, "mask_image": mask_of((1, 1, 2, 32))}, "mask_image"),
        ({"image": PICTURE, "mask_image": [LEFT, RIGHT]}, "mask_image"),
        ({"image": PICTURE, "mask_image": []}, "mask_image"),
        ({"image": PICTURE, "mask_image": LEFT.resize((32, 16))}, "mask_image"),
        ({"image": PICTURE, "mask_image": LEFT, "strength": 0.0}, "strength"),
        ({"clip_skip": 2}, "clip_skip"),
        ({"clip_skip": -1}, "clip_skip"),
        ({"original_size": (32, 32)}, "original_size"),
    ],
)
def test_what_is_not_possible_is_refused(tiny: Pipeline, call, argument: str) -> None:
    with refused(argument):
        tiny.steps("fox", **call)


def test_a_mask_that_is_no_picture(tiny: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_text("white")
    with pytest.raises(ImageError, match="is no image"):
        tiny.steps("fox", image=PICTURE, mask_image=tmp_path / "mask.png")


def test_clip_skip_by_hand_and_in_a_call(tiny: Pipeline) -> None:
    told = tiny.encode_prompt("fox", clip_skip=1)
    call = {"seed": 1, "guidance_scale": 1.0}
    assert torch.equal(tiny(conditioning=told, **call).latents, tiny("fox", clip_skip=1, **call).latents)
    states = tiny.text_encoder(tiny.tokenizer.encode("fox"))
    assert torch.equal(told.embeddings, tiny.text_encoder.final_norm(states.hidden_states[-2]))
    with refused("clip_skip", 2):
        tiny.encode_prompt("fox", clip_skip=2)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_replay_with_picture_and_mask(tiny: Pipeline, tmp_path: Path, strength: float) -> None:
    call = {"image": PICTURE, "mask_image": LEFT, "strength": strength, "clip_skip": 1}
    (path,) = tiny("a fox", seed=2, **call).save(tmp_path / "out.png")
    assert "Clip skip: 2" in read_texts(path).texts["parameters"]
    assert ds.replay(path, model=tiny, image=PICTURE, mask_image=LEFT).identical
    with refused("mask_image", None):
        ds.replay(path, model=tiny, image=PICTURE)
    with refused("mask_image", RIGHT):
        ds.replay(path, model=tiny, image=PICTURE, mask_image=RIGHT)
