"""What a call says before its first step: in the run, in the result and in the receipt."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffuscope.config import EMOJI
from diffuscope.data.corpus import Corpus, Picture
from diffuscope.errors import WeightsError
from diffuscope.evaluate.contact_sheet import PROMPTS
from diffuscope.model_files import shipped_models
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.notes import size_note
from diffuscope.prompt.positions import untrained_words
from diffuscope.recipes import ship
from diffuscope.weights.layout import own_config
from diffuscope.weights.store import files
from lora_files import kohya, layers, trained
from refusals import refused


@pytest.fixture(scope="module")
def pipe(tiny: Pipeline) -> Pipeline:
    """The tiny model, which never learned the tokens of "photograph" and "fuchs"."""
    pipe = Pipeline(copy.deepcopy(tiny.components))
    with torch.no_grad():
        for word in ("photograph", "fuchs"):
            pipe.text_encoder.token_embedding.weight[pipe.tokenizer.tokenize(word)[-1]] = 0
    return pipe


def test_words_that_the_model_never_learned(pipe: Pipeline) -> None:
    run = pipe.steps(["a photograph of a horse", "ein roter Fuchs, a photograph"], seed=1)
    assert run.notes == ["the model never learned 'photograph', 'fuchs'"]
    assert run.result().notes == run.notes == run.result().receipt["notes"]
    assert "'photograph'" in pipe.steps("a fox", negative_prompt="photograph").notes[0]
    assert pipe.steps("a red fox").notes == []


def test_words_that_a_lora_learned_are_known_with_it(pipe: Pipeline, tmp_path: Path) -> None:
    files.write(tmp_path / "ink.safetensors", kohya(layers(pipe, wanted=trained)), {"captions": "a Fuchs; a zeb"})
    pipe.lora_dir = tmp_path
    assert pipe.steps("a photograph of a fuchs").notes == ["the model never learned 'photograph', 'fuchs'"]
    assert pipe.steps("a photograph of a fuchs <lora:ink>").notes == ["the model never learned 'photograph'"]


def test_a_word_whose_pieces_alone_were_trained(tiny: Pipeline) -> None:
    assert tiny.steps("a roter fox, ter").notes == []  # its folder has no list of words
    pipe = Pipeline(replace(tiny.components, words=frozenset({"a", "fox", "roster"})))
    assert pipe.steps("a roter Fox, ter ???").notes == ["the model never learned 'roter', 'ter'"]


def test_the_shipped_list_has_the_words_of_the_captions() -> None:
    learned, tokenizer = own_config.read_words(shipped_models()["emoji"]), Tokenizer()
    trained = torch.ones(len(tokenizer.tokens), 1)  # a row for each token: the list alone decides
    for prompt in (*PROMPTS, "an astronaut riding a horse", "an otter in a top hat", "a smiling man"):
        assert untrained_words(prompt, tokenizer, trained, learned=learned) == ()
    text = "ein roter Fuchs, a photograph of a horse"
    assert untrained_words(text, tokenizer, trained, learned=learned) == ("ein", "roter", "fuchs", "photograph")


def test_training_writes_the_list(tmp_path: Path) -> None:
    fox = Picture("noto", "red fox", ("vixen",), "animals-nature", "red-fox", "<svg/>")
    ship.write_words(tmp_path / "first", Corpus((fox,)))
    ship.write_words(tmp_path / "second", Corpus((replace(fox, name="owl"),)), tmp_path / "first")
    first, second = (own_config.read_words(tmp_path / name) for name in ("first", "second"))
    assert {"fox", "foxes", "vixen", "noto", "style", "an", "above", "four", "purple"} <= first
    assert "roter" not in first
    assert second == first | {"owl", "owls"}
    (tmp_path / "first" / "words.json").write_text("{}")
    with pytest.raises(WeightsError, match="expected a JSON list"):
        own_config.read_words(tmp_path / "first")
    (tmp_path / "first" / "words.json").write_text("[1]")
    with pytest.raises(WeightsError, match="no list of words"):
        own_config.read_words(tmp_path / "first")


def test_many_words_are_not_all_named(tiny: Pipeline) -> None:
    pipe = Pipeline(copy.deepcopy(tiny.components))
    pipe.text_encoder.token_embedding.weight.zero_()
    (note,) = pipe.steps("one two three four five six seven eight nine ten").notes
    assert "'eight' and 2 other words" in note
    assert len(pipe.steps("x" * 500).notes[0]) < 300


def test_a_loaded_embedding_is_a_known_word(tiny: Pipeline) -> None:
    pipe = Pipeline(copy.deepcopy(tiny.components))
    pipe.tokenizer.set_added_tokens({"mystyle": 1})
    pipe.text_encoder.added_embeddings = torch.ones(1, 32)
    assert pipe.steps("a fox in mystyle").notes == []


def test_the_shipped_model_says_what_it_draws() -> None:
    assert EMOJI.draws.startswith("pictures like emoji")


def test_an_empty_prompt(pipe: Pipeline) -> None:
    for prompt in ("", " ", ["a fox", ""]):
        assert "empty" in pipe.steps(prompt).notes[0]
    assert pipe.steps("", image=Image.new("RGB", (32, 32))).notes == []
    assert pipe.steps(conditioning=pipe.encode_prompt("a fox")).notes == []


def test_sizes_far_from_the_preset() -> None:
    for near in ((128, 128), (192, 128), (64, 192)):
        assert size_note(EMOJI, *near) is None
    for far in ((512, 512), (128, 256), (32, 128)):
        note = size_note(EMOJI, *far)
        assert note is not None
        assert note.startswith(f"{far[1]}x{far[0]} is far from the model's preset, 128x128")
        assert "512x512" in note


def test_a_size_is_noted_in_a_call_and_when_an_image_is_encoded(pipe: Pipeline) -> None:
    large = 2 * pipe.config.preset.width
    assert f"{large}x32" in pipe.steps("a fox", width=large).notes[0]
    with pytest.warns(UserWarning, match=f"image: {large}x{large} is far"):
        pipe.encode_image(Image.new("RGB", (large, large)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.encode_image(Image.new("RGB", (32, 32)))


@pytest.mark.parametrize(
    "text",
    [
        *("(red:1.4) fox", "((cute)) fox", "[[ugly]]", "a BREAK b", "a AND b", "[a:b:0.5]", "[a|b]", "[ugly] fox"),
        *(r"a \(red\) fox", "a (red:1.4 fox", "a fox <hypernet:foo:1>", "red++ fox", "a {red|blue} fox"),
    ],
)
def test_signs_that_are_read_as_text(pipe: Pipeline, text: str) -> None:
    (note,) = pipe.steps(text).notes
    assert "read as plain text" in note
    assert "prompt_syntax" in note
    assert pipe.steps(text, prompt_syntax="comfyui").notes == []


def test_an_embedding_that_only_comfyui_names(pipe: Pipeline) -> None:
    (note,) = pipe.steps("embedding:foo fox").notes
    assert note.startswith("'embedding:foo' in the prompt is read as plain text; prompt_syntax comfyui")


def test_brackets_of_ordinary_writing_need_no_note(pipe: Pipeline) -> None:
    for text in ("a button (blood type)", "a face :) and more (sic)", "time: 12:30", "a C++ book", "red-hot"):
        assert pipe.steps(text).notes == []


@pytest.mark.parametrize("tag", ["<hypernet:foo:1>", "<lyco:foo:0.5>"])
def test_networks_of_the_web_ui_are_refused_where_its_rules_are_asked_for(pipe: Pipeline, tag: str) -> None:
    for texts in ({"prompt": f"a fox {tag}"}, {"prompt": "a fox", "negative_prompt": tag}):
        with refused("prompt", tag):
            pipe.steps(**texts, prompt_syntax="a1111")


def test_options_that_a_call_does_not_read(pipe: Pipeline) -> None:
    for scale in (0, 1):
        (note,) = pipe.steps("a fox", negative_prompt="red", guidance_scale=scale).notes
        assert note == f"negative_prompt is not read: at guidance_scale {scale} guidance is off"
    assert pipe.steps("a fox", strength=0.5).notes == ["strength 0.5 is not read: it needs an image"]
    assert pipe.steps("a fox", negative_prompt="", guidance_scale=1).notes == []
    assert pipe.steps("a fox", negative_prompt="red", guidance_scale=2).notes == []
    assert pipe.steps("a fox", image=Image.new("RGB", (32, 32)), strength=0.5).notes == []


def test_brackets_and_marks_are_no_words(tiny: Pipeline) -> None:
    pipe = Pipeline(copy.deepcopy(tiny.components))
    pipe.text_encoder.token_embedding.weight.zero_()
    assert pipe.steps("(fox:1.4), (cat)", prompt_syntax="comfyui").notes == ["the model never learned 'fox', 'cat'"]
    assert pipe.steps("[a|b]", prompt_syntax="a1111").notes == ["the model never learned 'a', 'b'"]


def test_a_row_that_is_emptied_later_is_noticed() -> None:
    tokenizer = Tokenizer()
    trained = torch.ones(len(tokenizer.tokens), 1)
    assert untrained_words("a red fox", tokenizer, trained) == ()
    trained[tokenizer.words("fox")[0][1]] = 0
    assert untrained_words("a red fox", tokenizer, trained) == ("fox",)
