"""Embeddings in a pipeline: a word of a prompt, exact, written into the receipt."""

import copy
from pathlib import Path

import pytest
import torch

import diffuscope as ds
from diffuscope.cli import main
from diffuscope.errors import WeightMismatchError
from diffuscope.pipeline import Pipeline
from diffuscope.weights.store import files
from refusals import refused


@pytest.fixture
def pipe(tiny: Pipeline) -> Pipeline:
    return Pipeline(copy.deepcopy(tiny.components))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)) / 8
    files.write(tmp_path / "ink.safetensors", {"<ink>": vectors})
    return tmp_path / "ink.safetensors"


def test_the_word_changes_the_picture_and_is_forgotten(pipe: Pipeline, path: Path) -> None:
    prompt = "a fox in <ink>"
    before, hashes = pipe(prompt, seed=1), pipe.weights
    report = pipe.load_embedding(path)
    assert str(report) == "embedding '<ink>': 2 vectors"
    after = pipe(prompt, seed=1)
    assert not torch.equal(before.latents, after.latents)
    assert torch.equal(pipe("a fox", seed=1).latents, Pipeline(pipe.components)("a fox", seed=1).latents)
    assert after.receipt["embeddings"][0]["word"] == "<ink>"
    assert pipe("a fox", seed=1).receipt["embeddings"] == []
    assert after.receipt["weights"] == hashes
    pipe.unload_embedding("<ink>")
    assert torch.equal(pipe(prompt, seed=1).latents, before.latents)


def test_a_word_with_the_vector_of_a_token_is_that_token(pipe: Pipeline, tmp_path: Path) -> None:
    (fox,) = pipe.tokenizer.tokenize("fox")
    files.write(tmp_path / "a.safetensors", {"emb_params": pipe.text_encoder.token_embedding.weight[fox].clone()})
    pipe.load_embedding(tmp_path / "a.safetensors", "<other>")
    assert torch.equal(pipe("a red <other>", seed=1).latents, pipe("a red fox", seed=1).latents)


def test_several_words_live_together(pipe: Pipeline, path: Path) -> None:
    pipe.load_embedding(path, "one")
    first = pipe.encode_prompt("one").embeddings
    pipe.load_embedding(path, "two")
    assert torch.equal(pipe.encode_prompt("two").embeddings, first)
    pipe.unload_embedding("one")
    assert torch.equal(pipe.encode_prompt("two").embeddings, first)
    pipe.unload_embedding()
    assert pipe.text_encoder.added_embeddings is None


def test_what_is_refused_changes_nothing(pipe: Pipeline, path: Path, tmp_path: Path) -> None:
    pipe.load_embedding(path)
    before = pipe.encode_prompt("<ink>").embeddings
    files.write(tmp_path / "wide.safetensors", {"<ink>": torch.zeros(1, 768)})
    with pytest.raises(WeightMismatchError, match="trained for SD 1: its vectors have 768 dims"):
        pipe.load_embedding(tmp_path / "wide.safetensors")
    with refused("word", "two words"):
        pipe.load_embedding(path, "two words")
    with refused("word", "<INK>"):
        pipe.load_embedding(path, "<INK>")
    with refused("word", "ink"):
        pipe.unload_embedding("ink")
    assert torch.equal(pipe.encode_prompt("<ink>").embeddings, before)


def test_replay_wants_the_same_embedding(
    pipe: Pipeline, tiny: Pipeline, tiny_folder: Path, path: Path, tmp_path: Path
) -> None:
    pipe.load_embedding(path)
    picture = pipe("a fox in <ink>", seed=1).save(tmp_path / "out.png")[0]
    assert ds.replay(picture, model=pipe).identical
    with refused("embeddings"):
        ds.replay(picture, model=tiny)
    assert ds.replay(picture, model=tiny_folder, embeddings=[path]).identical
    assert main(["replay", str(picture), "--model", str(tiny_folder), "--embedding", str(path)]) == 0


def test_replay_finds_embeddings_in_the_folder_of_another_program(
    pipe: Pipeline, tiny_folder: Path, path: Path, tmp_path: Path
) -> None:
    (tmp_path / "webui" / "embeddings").mkdir(parents=True)
    named = tmp_path / "webui" / "embeddings" / "inky.safetensors"
    files.write(named, {"emb_params": files.read(path)["<ink>"]})  # the word is the file's name there
    pipe.load_embedding(named)
    picture = pipe("a fox in inky", seed=1).save(tmp_path / "out.png")[0]
    assert ds.replay(picture, model=ds.ModelSource(tiny_folder, models_dir=tmp_path / "webui")).identical
