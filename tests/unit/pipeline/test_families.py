"""SDXL, its refiner, models for inpainting and distilled ones in a call: what they read, and what they refuse."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import diffuscope as ds
from diffuscope.config import PRESETS
from diffuscope.errors import ModelNotFoundError, WeightsError
from diffuscope.nn.embeddings import guidance_scale_embedding
from diffuscope.pipeline import Pipeline
from diffuscope.weights.layout import diffusers_folder
from narrow import made
from refusals import refused

PICTURE = Image.effect_noise((32, 32), 60).convert("RGB")


@pytest.fixture(scope="module")
def sdxl() -> Pipeline:
    return made("sdxl")


def test_both_text_encoders_have_their_taps(sdxl: Pipeline) -> None:
    names = [name for encoder in (sdxl.text_encoder, sdxl.text_encoder_2) for name in ds.tap_points(encoder)]
    assert "text_encoder.layer.0.self_attn.weights" in names
    assert "text_encoder_2.layer.0.self_attn.weights" in names
    assert len(set(names)) == len(names)
    rows: dict[str, int] = {}
    tap = {f"{name}.embeddings": lambda value, name=name: rows.update({name: len(value)}) for name in NAMES}
    sdxl(["fox", "cat"], negative_prompt="blue", tap=tap, num_inference_steps=1)
    assert rows == dict.fromkeys(NAMES, 3)


NAMES = ("text_encoder", "text_encoder_2")


def test_a_tap_on_either_text_encoder_changes_the_picture(sdxl: Pipeline) -> None:
    call = {"seed": 1, "num_inference_steps": 2}
    plain = sdxl("fox", **call).latents
    for name in NAMES:
        changed = sdxl("fox", **call, tap={f"{name}.layer.0": torch.zeros_like}).latents
        assert (changed - plain).abs().max() > 1e-3


def test_the_conditioning_of_sdxl(sdxl: Pipeline) -> None:
    told = sdxl.encode_prompt(["fox", "cat"])
    assert told.embeddings.shape == (2, 77, 64)
    assert told.pooled is not None
    assert told.pooled.shape == (2, 32)
    call = {"seed": [1, 2], "num_inference_steps": 2}
    by_hand, by_prompt = sdxl(conditioning=told, **call), sdxl(["fox", "cat"], **call)
    assert torch.equal(by_hand.latents, by_prompt.latents)
    with refused("conditioning", None):
        sdxl(conditioning=replace(told, pooled=None))
    with refused("conditioning"):
        sdxl(conditioning=replace(told, pooled=told.pooled[:1]))


def test_conditioning_of_another_length(sdxl: Pipeline) -> None:
    """It does not go into one batch with the negative prompt, and means the same as if it did."""
    told = sdxl.encode_prompt("fox")
    long = replace(told, embeddings=torch.cat([told.embeddings, told.embeddings], dim=1))  # attention does not mind
    call = {"seed": 1, "num_inference_steps": 2, "guidance_scale": 3.0}
    assert torch.allclose(sdxl(conditioning=long, **call).latents, sdxl("fox", **call).latents, atol=1e-4)


def test_an_empty_negative_prompt_is_encoded_and_none_is_zeros(sdxl: Pipeline) -> None:
    call = {"num_inference_steps": 2, "guidance_scale": 3.0}
    both = sdxl(["fox", "cat"], negative_prompt=["", "blue"], seed=1, **call).latents
    empty, none = sdxl("fox", negative_prompt="", seed=1, **call), sdxl("fox", seed=1, **call)
    assert torch.allclose(both[:1], empty.latents, atol=1e-5)
    assert (empty.latents - none.latents).abs().max() > 0.01
    assert (empty.receipt["negative_prompt"], none.receipt["negative_prompt"]) == ([""], None)


@pytest.mark.parametrize("negative", [None, "", "blue"])
def test_the_negative_prompt_of_a_receipt(sdxl: Pipeline, tmp_path: Path, negative: str | None) -> None:
    result = sdxl("fox", negative_prompt=negative, seed=1, num_inference_steps=1, guidance_scale=3.0)
    (path,) = result.save(tmp_path / "out.png")
    assert ds.replay(path, model=sdxl).identical


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        ({"original_size": 32}, "original_size"),
        ({"target_size": (32, -1)}, "target_size"),
        ({"crops_coords_top_left": (1, 2, 3)}, "crops_coords_top_left"),
        ({"clip_skip": 1}, "clip_skip"),
    ],
)
def test_sizes_that_are_none_are_refused(sdxl: Pipeline, call, argument: str) -> None:
    with refused(argument):
        sdxl.steps("fox", **call)


def test_replay_of_sdxl_with_sizes(sdxl: Pipeline, tmp_path: Path) -> None:
    (path,) = sdxl("fox", seed=1, original_size=(64, 48), crops_coords_top_left=(3, 4)).save(tmp_path / "out.png")
    again = ds.replay(path, model=sdxl)
    assert again.identical
    assert again.result.receipt["original_size"] == [64, 48]
    assert again.result.receipt["target_size"] == [32, 32]
    assert again.result.receipt["weights"].keys() == {"text_encoder", "text_encoder_2", "unet", "vae"}


def test_an_autoencoder_that_overflows_runs_in_float32(sdxl: Pipeline, tmp_path: Path) -> None:
    folder = sdxl.save(tmp_path / "sdxl", layout="own")
    half, brain = (ds.load(folder, device="cpu", dtype=dtype) for dtype in ("float16", "bfloat16"))
    assert half.dtype == torch.float16
    assert half.vae.quant_conv.weight.dtype == torch.float32
    assert brain.vae.quant_conv.weight.dtype == torch.bfloat16
    latents = sdxl.encode_image(PICTURE, sample=False)
    assert torch.equal(half.encode_image(PICTURE, sample=False), latents)
    assert half.decode(latents)[0].tobytes() == sdxl.decode(latents)[0].tobytes()


def test_a_model_for_inpainting_asks_for_picture_and_mask() -> None:
    pipe = made("sd15-inpaint")
    for given in ({}, {"image": PICTURE}):
        with refused("mask_image", None):
            pipe("fox", **given)


def test_a_distilled_model_is_called_once_a_step_and_takes_no_negative_prompt() -> None:
    pipe, rows = made("sd15-lcm"), []
    pipe("fox", seed=1, sampler="euler", tap={"unet.x": lambda x: rows.append(len(x))})
    assert rows == [1] * 4
    with refused("negative_prompt", "blue"):
        pipe("fox", negative_prompt="blue", seed=1)


def test_guidance_scale_embedding() -> None:
    embedding = guidance_scale_embedding(torch.tensor([1.0, 1.001]), 5)
    assert embedding.shape == (2, 5)
    assert torch.equal(embedding[0], torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]))
    angles = torch.tensor([1.0, 1e-4])
    assert torch.allclose(embedding[1, :4], torch.cat([angles.sin(), angles.cos()]), atol=1e-3)


def test_a_folder_that_lacks_a_text_encoder_is_refused(tmp_path: Path) -> None:
    diffusers_folder.write_config(tmp_path, PRESETS["tiny-sdxl"])
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "text_encoder_2" / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"text_encoder_2.config\.json is missing"):
        diffusers_folder.describe(tmp_path)
    alone = index | {"text_encoder_2": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps(alone))
    with pytest.raises(WeightsError, match="reads text of width 64, the encoder writes 32"):
        diffusers_folder.describe(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps(alone | {"text_encoder": None}))
    with pytest.raises(WeightsError, match="names no text encoder"):
        diffusers_folder.describe(tmp_path)


def test_pooled_text_of_another_width_is_refused(tmp_path: Path) -> None:
    diffusers_folder.write_config(tmp_path, PRESETS["tiny-sdxl"])
    path = tmp_path / "text_encoder_2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"projection_dim": 48}))
    with pytest.raises(WeightsError, match="with pooled text of width 48 it must be 1584, or for a refiner 1328"):
        diffusers_folder.describe(tmp_path)


@pytest.mark.parametrize(("token", "pad"), [("!", 0), ("<|endoftext|>", 49407), ({"content": "!"}, 0), (None, 0)])
def test_the_padding_is_the_tokenizers(tmp_path: Path, token: object, pad: int) -> None:
    """Where its files do not say, it is that of the text encoder's kind."""
    diffusers_folder.write_config(tmp_path, PRESETS["tiny-sd21"])
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"pad_token": token}))
    assert diffusers_folder.describe(tmp_path).config.text_encoder.pad == pad
