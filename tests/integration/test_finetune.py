"""Every family of models is taught, with the code that teaches the shipped one."""

import pytest
from PIL import Image

from diffuscope.finetune import load_imagic, train_imagic, train_lora, train_word
from narrow import made


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "sd21-v", "sdxl"])
def test_a_family_is_taught(family, tmp_path):
    """Four steps each of a word, a LoRA of text encoders too, and an Imagic, with checkpoints of activations."""
    pipe, pictures = made(family), tmp_path / "a.png"
    Image.new("RGB", (32, 32), "purple").save(pictures)
    two = {"steps": 4, "batch_size": 2, "gradient_checkpointing": True}
    word = train_word(pipe, pictures, tmp_path / "x.safetensors", word="<x>", like="ball", lr=0.05, **two)
    pipe.load_embedding(word.path, word="<x>")
    lora = train_lora(
        pipe, pictures, tmp_path / "l.safetensors", caption="a <x>", lr=0.01, text_encoder=True, prior=("a cup",),
        prior_count=2, **two,
    )  # fmt: skip
    assert pipe.load_lora(lora.path).unmatched == ()
    pipe.unload_lora()
    report = train_imagic(
        pipe, pictures, tmp_path / "edit.safetensors", prompt="a red ball", embedding_steps=4, embedding_lr=0.05,
        lr=0.01, **two,
    )  # fmt: skip
    edit = load_imagic(pipe, report.path)
    assert (edit.at(0.5).pooled is None) is (family != "sdxl")
    assert pipe(conditioning=edit.at(0.5), seed=1, num_inference_steps=1).images
