"""What ``diffuscope lab`` says before its page is open."""

from importlib.util import find_spec

import torch

import diffuscope as ds
import lora_files
from diffuscope.cli.generate import AdapterFlags
from diffuscope.cli.lab import faster
from diffuscope.cli.serve import opened
from diffuscope.loading import has_bfloat16
from diffuscope.model_source import ModelSource


def test_what_gives_more_previews_is_named_where_it_is_there_and_not_used(tiny, tiny_folder):
    hint = faster(tiny) or ""
    assert ("--dtype bfloat16" in hint) == has_bfloat16()
    assert ("--backend openvino" in hint) == (find_spec("openvino") is not None)
    assert "bfloat16" not in (faster(ds.load(str(tiny_folder), dtype="bfloat16")) or "")
    if find_spec("openvino"):
        assert "openvino" not in (faster(ds.load(str(tiny_folder), backend="openvino")) or "")


def test_any_prompt_may_name_what_the_models_folder_has(tiny_folder, tmp_path, capsys):
    width = ds.load(str(tiny_folder)).text_encoder.config.width
    for name in ("Lora", "embeddings"):
        (tmp_path / name).mkdir()
    for name, size in (("old", width), ("wide", 2 * width)):
        path = tmp_path / "embeddings" / f"{name}.safetensors"
        lora_files.write(path, {"emb_params": torch.ones(2, size)})
    lora_files.write(tmp_path / "new.safetensors", {"emb_params": torch.ones(1, width)})
    source = ModelSource(str(tiny_folder), device="cpu", models_dir=tmp_path)
    pipe = opened(source, AdapterFlags(embedding=(tmp_path / "new.safetensors",)))
    assert set(pipe.tokenizer.added_tokens) == {"old", "new"}
    said = capsys.readouterr().err
    assert "embedding 'new': 1 vector\n" in said
    assert "1 loaded, 1 not for this model" in said


def test_the_folder_of_loras_is_given_as_for_an_image(tiny, tiny_folder, tmp_path):
    tensors = lora_files.kohya(lora_files.layers(tiny, wanted=lora_files.trained))
    lora_files.write(tmp_path / "one.safetensors", tensors)
    pipe = opened(ModelSource(str(tiny_folder), device="cpu"), AdapterFlags(tmp_path))
    assert pipe.adapters.names == ["one"]
