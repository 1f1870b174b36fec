"""diffusers with the same embedding file encodes the same prompts to the same states."""

import copy
from pathlib import Path

import diffusers
import pytest
import torch

from diffuscope.pipeline import Pipeline
from diffuscope.weights.store import files

TOLERANCE = 1e-5
"""Text states in float32, largest absolute difference."""

PROMPTS = ["a <cat-toy> in the snow", "<cat-toy>, <cat-toy>", "no toy"]


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("dialect", ["safetensors", "learned_embeds.bin", "web UI"])
def test_diffusers_encodes_the_same(tiny: Pipeline, saved: Path, tmp_path: Path, dialect: str, vectors: int) -> None:
    tensor = torch.randn(vectors, 32, generator=torch.Generator().manual_seed(0)) / 8
    if dialect == "safetensors":
        path = tmp_path / "learned_embeds.safetensors"
        files.write(path, {"<cat-toy>": tensor})
    else:
        path = tmp_path / ("learned_embeds.bin" if dialect == "learned_embeds.bin" else "<cat-toy>.pt")
        plain = {"<cat-toy>": tensor}
        web = {"string_to_token": {"*": 265}, "string_to_param": {"*": tensor}, "name": "<cat-toy>"}
        torch.save(plain if dialect == "learned_embeds.bin" else web, path)
    pipe = Pipeline(copy.deepcopy(tiny.components))
    assert pipe.load_embedding(path, allow_pickle=True).word == "<cat-toy>"
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(saved, local_files_only=True, safety_checker=None)
    theirs.load_textual_inversion(tmp_path, weight_name=path.name)
    with torch.no_grad():
        states, _ = theirs.encode_prompt(PROMPTS, "cpu", 1, False)
    assert (pipe.encode_prompt(PROMPTS).embeddings - states).abs().max().item() <= TOLERANCE


@pytest.fixture(scope="module")
def saved(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("ours") / "tiny", layout="diffusers")
