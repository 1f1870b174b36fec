"""Every family of models is taught, with the code that teaches the shipped one."""

import pytest
import torch
from PIL import Image, ImageDraw

import diffuscope
from diffuscope.finetune import load_imagic, train_imagic, train_lora, train_word
from diffuscope.images import to_pixels
from narrow import made


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "sd21-v", "sdxl"])
def test_a_family_is_taught(family, tmp_path):
    """Two steps each of a word, a LoRA of text encoders too, and an Imagic, with checkpoints of activations."""
    pipe, pictures = made(family), tmp_path / "a.png"
    Image.new("RGB", (32, 32), "purple").save(pictures)
    two = {"steps": 2, "batch_size": 2, "gradient_checkpointing": True}
    word = train_word(pipe, pictures, tmp_path / "x.safetensors", word="<x>", like="ball", lr=0.05, **two)
    pipe.load_embedding(word.path, word="<x>")
    lora = train_lora(
        pipe, pictures, tmp_path / "l.safetensors", caption="a <x>", lr=0.01, text_encoder=True, prior=("a cup",),
        prior_count=2, **two,
    )  # fmt: skip
    assert pipe.load_lora(lora.path).unmatched == ()
    pipe.unload_lora()
    report = train_imagic(
        pipe, pictures, tmp_path / "edit.safetensors", prompt="a red ball", embedding_steps=2, embedding_lr=0.05,
        lr=0.01, **two,
    )  # fmt: skip
    edit = load_imagic(pipe, report.path)
    assert edit.at(0.5).pooled.shape == pipe.encode_prompt("a ball").pooled.shape
    assert pipe(conditioning=edit.at(0.5), seed=1, num_inference_steps=1).images


@pytest.mark.slow
def test_the_shipped_model_learns_one_picture(tmp_path):
    """Half size and few steps: at 0 it is the picture, and at 1 what the text says."""
    pipe = diffuscope.load("emoji")
    cup = Image.new("RGB", (64, 64), "white")
    pen = ImageDraw.Draw(cup)
    pen.ellipse((40, 20, 60, 44), outline="darkorange", width=4)
    pen.rounded_rectangle((8, 12, 48, 56), 8, fill="lightseagreen")
    pen.ellipse((20, 22, 36, 38), fill="white")
    cup.save(tmp_path / "cup.png")
    prompt = "a red cup on a yellow background"
    path = tmp_path / "red.safetensors"
    rates = {"embedding_lr": 0.02, "lr": 0.006}  # with those of the defaults twice as many steps do less
    train_imagic(pipe, tmp_path / "cup.png", path, prompt=prompt, size=64, embedding_steps=20, steps=15, **rates)
    call = {"seed": 0, "height": 64, "width": 64, "upscale": 1, "num_inference_steps": 6, "output_type": "pt"}
    plain = pipe(prompt, **call).images
    edit = load_imagic(pipe, path)
    first, last = (pipe(conditioning=edit.at(eta), **call).images for eta in (0.0, 1.0))
    given = to_pixels([cup]) / 2 + 0.5
    psnr = [-10 * (image - given).square().mean().log10().item() for image in (plain, first, last)]
    assert psnr[1] > psnr[0] + 5
    assert psnr[1] > psnr[2] + 1
    edit.unload()
    assert torch.equal(pipe(prompt, **call).images, plain)
