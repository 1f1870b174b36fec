"""diffusers and PEFT compute the same with the files that are trained here."""

import copy
import re
from pathlib import Path

import diffusers
import peft
import pytest
import torch
from PIL import Image

from diffuscope.finetune.lora import LoraTask, configs_of, pairs_of
from diffuscope.finetune.networks import updated
from diffuscope.finetune.options import LoraTraining
from diffuscope.pipeline import Pipeline
from diffuscope.weights.adapter import lora_files, textual_inversion
from diffuscope.weights.store import files
from narrow import made

TOLERANCE = 1e-5
"""Largest absolute difference, float32."""

ALL = LoraTraining(caption="a ball", rank=3, alpha=2.0, targets="all", text_encoder=True)
IDS = ["a red fox", "two cats"]


def near(ours, theirs):
    return (ours - theirs).abs().max().item() <= TOLERANCE * max(1.0, theirs.abs().max().item())


def trained(pipe: Pipeline) -> LoraTask:
    """Updates of all layers, as if training had moved them."""
    task = LoraTask(pipe, torch.zeros(1, 4, 8, 8), ["a ball"], 16, ALL)
    generator = torch.Generator().manual_seed(3)
    for parameter in task.network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return task


def written(pipe: Pipeline, task: LoraTask, dialect: lora_files.Dialect, path: Path) -> Path:
    lora_files.write(path, pairs_of(task.network), task.scale, configs_of(pipe, task.network), dialect, {})
    return path


def inputs(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, width, generator=generator)


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_a_lora_is_the_same_in_training_here_and_in_diffusers(tiny, tmp_path, dialect):
    task = trained(tiny)
    path = written(tiny, task, dialect, tmp_path / "a.safetensors")
    x, context = inputs(32)
    pipe = Pipeline(copy.deepcopy(tiny.components))
    report = pipe.load_lora(path)
    assert (report.unmatched, report.unused) == ((), ())
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(
        tiny.save(tmp_path / "model"), local_files_only=True, safety_checker=None
    )
    theirs.load_lora_weights(tmp_path, weight_name=path.name)
    ids = pipe.tokenizer.encode(IDS)
    with torch.no_grad():
        output, states = pipe.unet(x, 3.0, context), pipe.text_encoder(ids).last_hidden_state
        assert near(output, task.unet(x, 3.0, context))
        assert near(output, theirs.unet(x, 3.0, context).sample)
        encoder = updated(tiny.text_encoder, task.network.of("text_encoder"), task.scale)
        assert near(states, encoder(ids).last_hidden_state)
        assert near(states, theirs.text_encoder(ids).last_hidden_state)
        assert not near(output, tiny.unet(x, 3.0, context))
        assert not near(states, tiny.text_encoder(ids).last_hidden_state)


def test_peft_by_itself_reads_diffusers_names(tiny, tmp_path):
    """Its model of the U-Net alone, from the tensors as they are, without a rule of diffusers."""
    task = trained(tiny)
    tensors = files.read(written(tiny, task, "diffusers", tmp_path / "a.safetensors"))
    unet = diffusers.UNet2DConditionModel.from_pretrained(tiny.save(tmp_path / "model") / "unet")
    names = {name.removeprefix("unet.") for name in tensors if name.startswith("unet.")}
    layers = sorted({name.partition(".lora_")[0] for name in names})
    model = peft.get_peft_model(unet, peft.LoraConfig(r=3, lora_alpha=3, target_modules=layers)).eval()
    own = {f"base_model.model.{name}": tensors[f"unet.{name}"] for name in names}
    assert not peft.set_peft_model_state_dict(model, own).unexpected_keys
    x, context = inputs(32)
    with torch.no_grad():
        assert near(model(x, 3.0, context).sample, task.unet(x, 3.0, context))


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_sdxl_with_both_text_encoders(tmp_path, dialect):
    pipe = made("sdxl")
    task = trained(pipe)
    path = written(pipe, task, dialect, tmp_path / "a.safetensors")
    if dialect == "kohya":
        first = re.compile(r"lora_unet_input_blocks_\d_1_transformer_blocks_0_attn1_to_q.alpha")
        assert any(first.match(name) for name in files.read(path))
    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(pipe.save(tmp_path / "model"), local_files_only=True)
    theirs.load_lora_weights(tmp_path, weight_name=path.name)
    opened = Pipeline(copy.deepcopy(pipe.components))
    assert opened.load_lora(path).unmatched == ()
    x, context = inputs(64)
    extra = {"pooled": torch.randn(2, 32), "sizes": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    added = {"text_embeds": extra["pooled"], "time_ids": extra["sizes"]}
    ids = pipe.tokenizer.encode(IDS)
    with torch.no_grad():
        output = opened.unet(x, 3.0, context, extra=extra)
        assert near(output, task.unet(x, 3.0, context, extra=extra))
        assert near(output, theirs.unet(x, 3.0, context, added_cond_kwargs=added).sample)
        for part in ("text_encoder", "text_encoder_2"):
            states = getattr(opened, part)(ids).hidden_states[-1]
            assert near(states, getattr(theirs, part)(ids, output_hidden_states=True).hidden_states[-1])


@pytest.mark.parametrize("vectors", [1, 3])
def test_diffusers_encodes_a_learned_word_the_same(tiny, tmp_path, vectors):
    path = tmp_path / "blob.safetensors"
    textual_inversion.write(path, "<blob>", {"text_encoder": torch.randn(vectors, 32) / 8})
    pipe = Pipeline(copy.deepcopy(tiny.components))
    pipe.load_embedding(path)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(
        tiny.save(tmp_path / "model"), local_files_only=True, safety_checker=None
    )
    theirs.load_textual_inversion(tmp_path, weight_name=path.name)
    texts = ["a <blob> in the snow", "no blob"]
    with torch.no_grad():
        states, _ = theirs.encode_prompt(texts, "cpu", 1, False)
    assert near(pipe.encode_prompt(texts).embeddings, states)


def test_sdxl_has_a_tensor_for_each_text_encoder(tmp_path):
    from diffuscope.finetune import train_word

    pipe = made("sdxl")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    report = train_word(
        pipe, tmp_path / "a.png", tmp_path / "x.safetensors", word="<x>", like="ball", vectors=2, steps=3, lr=0.05
    )
    shapes = {name: list(value.shape) for name, value in files.read(report.path).items()}
    assert shapes == {"clip_l": [2, 32], "clip_g": [2, 32]}
    assert pipe.load_embedding(report.path, word="<x>").vectors == 2
