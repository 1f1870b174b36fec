"""Words that textual inversion and transformers add to a folder's tokenizer give the same ids and states here."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import save_file

import diffuscope as ds
from diffuscope.errors import WeightsError
from diffuscope.pipeline import Pipeline
from refusals import refused

TEXTS = [
    "a <cat-toy> in the snow, zed Zed",
    "Beehive BEE! <CAT-TOY>",
    "x<cat-toy>y <cat-toy>_1",
    "a whole-grain unwholey wholes grainy",
    "xZedy no such word",
]
ADDED = (
    "Bee",
    transformers.AddedToken("Zed", normalized=False),
    transformers.AddedToken("grainy", single_word=True, normalized=True),
)


@pytest.fixture(scope="module")
def saved(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of diffusers, with an embedding of three vectors and further words."""
    place = tmp_path_factory.mktemp("added")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(
        tiny.save(place / "plain"), local_files_only=True, safety_checker=None
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file({"<cat-toy>": torch.randn(3, 32) / 8}, place / "toy.safetensors")
        theirs.load_textual_inversion(place / "toy.safetensors")
        theirs.tokenizer.add_tokens(list(ADDED))
        theirs.text_encoder.resize_token_embeddings(len(theirs.tokenizer))
    theirs.save_pretrained(place / "saved")
    return place / "saved"


@pytest.fixture(scope="module")
def pipe(saved: Path) -> Pipeline:
    return ds.load(saved, device="cpu")


def expanded(text: str) -> str:
    """As diffusers writes an embedding of several vectors, where its name is written as the token is."""
    return text.replace("<cat-toy>", "<cat-toy> <cat-toy>_1 <cat-toy>_2") if "_1" not in text else text


def test_the_ids_are_those_of_transformers(saved: Path, pipe: Pipeline) -> None:
    theirs = transformers.CLIPTokenizer.from_pretrained(saved / "tokenizer")
    assert (saved / "tokenizer" / "merges.txt").exists() is False  # transformers 5 writes one file
    for text in TEXTS:
        text = text.replace("x<cat-toy>y ", "").replace("<CAT-TOY>", "")
        wanted = theirs(expanded(text))["input_ids"]
        assert [49406, *pipe.tokenizer.tokenize(text), 49407] == wanted, text
    names = [pipe.tokenizer.decode([i])[0] for i in range(49408, 49414)]
    assert names == ["<cat-toy>", "<cat-toy>_1", "<cat-toy>_2", "Bee", "Zed", "grainy"]


def test_diffusers_encodes_the_same(saved: Path, pipe: Pipeline) -> None:
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(saved, local_files_only=True, safety_checker=None)
    texts = [TEXTS[0], TEXTS[3], "<cat-toy>, <cat-toy>"]
    with torch.no_grad():
        states, _ = theirs.encode_prompt(texts, "cpu", 1, False)
    assert (pipe.encode_prompt(texts).embeddings - states).abs().max().item() <= 1e-5


@pytest.mark.parametrize("layout", ["diffusers", "own"])
def test_what_is_saved_keeps_the_words(saved: Path, pipe: Pipeline, tmp_path: Path, layout: str) -> None:
    again = ds.load(pipe.save(tmp_path / "again", layout=layout), device="cpu")
    assert again.weights == pipe.weights
    for text in TEXTS:
        assert again.tokenizer.tokenize(text) == pipe.tokenizer.tokenize(text)
    place = tmp_path / "again" / "tokenizer"
    theirs, before = (transformers.CLIPTokenizer.from_pretrained(each) for each in (place, saved / "tokenizer"))
    assert [theirs(text)["input_ids"] for text in TEXTS] == [before(text)["input_ids"] for text in TEXTS]
    with refused("layout"):
        pipe.save(tmp_path / "one.safetensors", layout="single")


def test_an_embedding_that_is_loaded_comes_after_them(pipe: Pipeline, tmp_path: Path) -> None:
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)) / 8
    save_file({"emb_params": vectors}, tmp_path / "ink.safetensors")
    save_file({"emb_params": vectors}, tmp_path / "bee.safetensors")
    before = pipe.encode_prompt(TEXTS).embeddings
    pipe.load_embedding(tmp_path / "ink.safetensors")
    assert pipe.tokenizer.tokenize("ink") == [49414, 49415]
    assert torch.equal(pipe.text_encoder.vectors(torch.tensor([49414, 49415])), vectors)
    assert torch.equal(pipe.encode_prompt(TEXTS).embeddings, before)
    pipe.load_embedding(tmp_path / "bee.safetensors")  # goes before the model's own
    assert pipe.tokenizer.tokenize("bee") == [49416, 49417]
    pipe.unload_embedding()
    assert pipe.tokenizer.tokenize("bee") == [49411]
    assert torch.equal(pipe.encode_prompt(TEXTS).embeddings, before)


def _whole(document: dict, change: Callable[[dict], object]) -> dict:
    change(document)
    return document


DAMAGE: dict[str, tuple[str, Callable[[dict], object], str]] = {
    "another id": ("tokenizer.json", lambda d: d["model"]["vocab"].update({"fox</w>": 0}), "'fox</w>' differs"),
    "a token more": ("tokenizer.json", lambda d: d["model"]["vocab"].update({"zz": 9}), "'zz' differs"),
    "other merges": ("tokenizer.json", lambda d: d["model"]["merges"].reverse(), "other merges"),
    "no embedding": ("tokenizer.json", lambda d: d["added_tokens"][-1].update(id=60000), "id 60000.*49414 embeddings"),
    "white space": ("tokenizer.json", lambda d: d["added_tokens"][-1].update(content="two words"), "white space"),
    "a word of the vocabulary": (
        "tokenizer.json",
        lambda d: d["added_tokens"][-1].update(id=320),
        "id 320, of 'a</w>'",
    ),
    "no number": ("tokenizer.json", lambda d: d["added_tokens"][-1].update(id="x"), "with the id 'x'"),
    "two of one id": ("tokenizer.json", lambda d: d["added_tokens"][-1].update(id=49408), "have the id 49408"),
    "no list": ("tokenizer.json", lambda d: d.update(added_tokens=5), "are no list"),
    "no model": ("tokenizer.json", lambda d: d.update(model=5), "has no model"),
    "no table": ("tokenizer.json", lambda d: d["model"].update(vocab=5), "has no vocabulary"),
    "no merges": ("tokenizer.json", lambda d: d["model"].update(merges=5), "no list of merges"),
    "another normalizer": ("tokenizer.json", lambda d: d["normalizer"]["normalizers"].pop(), "has normalizer = "),
    "another pre-tokenizer": (
        "tokenizer.json",
        lambda d: d["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
        "has pre_tokenizer = ",
    ),
    "other ends": ("tokenizer.json", lambda d: d["post_processor"].update(cls=["!", 0]), "has post_processor = "),
    "dropout": ("tokenizer.json", lambda d: d["model"].update(dropout=0.5), "has dropout = 0.5"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_tokenizer_that_means_something_else_is_refused(saved: Path, tmp_path: Path, case: str) -> None:
    name, change, says = DAMAGE[case]
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    path = folder / "tokenizer" / name
    path.write_text(json.dumps(_whole(json.loads(path.read_text()), change)))
    with pytest.raises(WeightsError, match=says):
        ds.load(folder, device="cpu")


def test_an_unknown_field_of_the_tokenizer_is_named(saved: Path, pipe: Pipeline, tmp_path: Path) -> None:
    assert pipe.components.notes == ()
    shutil.copytree(saved, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"foo": 1}))
    (note,) = ds.load(tmp_path / "model", device="cpu").components.notes
    assert note == "tokenizer/tokenizer.json has fields that are not used: 'foo'"


def test_a_vocabulary_beside_its_merges_is_compared(diffusers_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(diffusers_folder, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer" / "vocab.json"
    words = json.loads(path.read_text())
    words["fox</w>"], words["cat</w>"] = words["cat</w>"], words["fox</w>"]
    path.write_text(json.dumps(words))
    with pytest.raises(WeightsError, match=r"vocab\.json is not the vocabulary of the merges"):
        ds.load(tmp_path / "model", device="cpu")
