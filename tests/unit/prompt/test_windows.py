"""Prompts in windows of 75 tokens: where each program starts a new one, which token has which weight."""

import pytest
import torch

from diffuscope.models.tokenizer import Tokenizer
from diffuscope.prompt.windows import COMMA, Layout, layout
from refusals import refused

TOKENIZER = Tokenizer()


def counts(laid: Layout) -> list[int]:
    return [len(window.ids) for window in laid.windows]


def test_plain_is_the_tokenizers_own_row() -> None:
    for text in ("", "a red fox", "cat " * 100, "(a:1.4) [b] BREAK \\("):
        (window,) = layout(text, TOKENIZER).windows
        assert torch.equal(torch.tensor([window.row(TOKENIZER)]), TOKENIZER.encode(text))
        assert set(window.factors(77)) == {1.0}


@pytest.mark.parametrize("syntax", ["a1111", "comfyui"])
def test_a_prompt_without_signs_is_the_same_window_in_every_syntax(syntax) -> None:
    for text in ("", "a red fox, on a blue background", "cat " * 75):
        assert layout(text, TOKENIZER, syntax).windows == layout(text, TOKENIZER).windows


@pytest.mark.parametrize("syntax", ["a1111", "comfyui"])
def test_long_prompts_take_windows_of_75(syntax) -> None:
    laid = layout("cat " * 160, TOKENIZER, syntax)
    assert counts(laid) == [75, 75, 10]
    rows = [window.row(TOKENIZER) for window in laid.windows]
    assert all(len(row) == 77 and row[0] == TOKENIZER.start for row in rows)
    assert rows[0][76] == rows[2][11] == TOKENIZER.end
    with refused("prompt"):
        layout("cat " * 5000, TOKENIZER, syntax)


def test_the_web_ui_moves_what_follows_a_comma_within_20_tokens() -> None:
    assert COMMA in TOKENIZER.tokenize(",")
    assert counts(layout("cat " * 60 + "," + " dog" * 20, TOKENIZER, "a1111")) == [61, 20]
    assert counts(layout("cat " * 55 + "," + " dog" * 20, TOKENIZER, "a1111")) == [56, 20]
    assert counts(layout("cat " * 54 + "," + " dog" * 21, TOKENIZER, "a1111")) == [75, 1]
    assert counts(layout("cat " * 60 + "," + " dog" * 14, TOKENIZER, "a1111")) == [75]
    assert counts(layout("cat " * 74 + ", dog", TOKENIZER, "a1111")) == [75, 1]


def test_break_ends_a_window() -> None:
    assert counts(layout("a fox BREAK a red hen", TOKENIZER, "a1111")) == [2, 3]
    assert counts(layout("a fox BREAK", TOKENIZER, "a1111")) == [2]
    assert counts(layout("BREAK a fox", TOKENIZER, "a1111")) == [0, 2]
    assert counts(layout("a fox BREAK a hen", TOKENIZER, "comfyui")) == [5]


def test_comfyui_keeps_fewer_than_eight_tokens_of_one_weight_together() -> None:
    assert counts(layout("cat " * 72 + "(" + "dog " * 7 + ":1.5)", TOKENIZER, "comfyui")) == [72, 7]
    assert counts(layout("cat " * 72 + "(" + "dog " * 8 + ":1.5)", TOKENIZER, "comfyui")) == [75, 5]
    assert counts(layout("cat " * 72 + "(" + "dog " * 7 + ":1.5)", TOKENIZER, "a1111")) == [75, 4]


def test_weights_stand_at_their_tokens() -> None:
    window = layout("a (red:1.4) fox", TOKENIZER, "a1111").windows[0]
    assert window.factors(77)[:6] == [1.0, 1.0, 1.4, 1.0, 1.0, 1.0]
    assert [layout("a (red:1.4) fox", TOKENIZER, "a1111").words[word][0] for word in window.words] == [
        "a",
        "red",
        "fox",
    ]


def test_an_embedding_is_never_broken() -> None:
    tokenizer = Tokenizer()
    tokenizer.set_added_tokens({"style": 4})
    assert counts(layout("cat " * 73 + "style", tokenizer, "a1111")) == [73, 4]
    assert counts(layout("cat " * 73 + "embedding:style, dog", tokenizer, "comfyui")) == [73, 6]
    assert counts(layout("cat " * 50 + ", " + "dog " * 19 + " cat cat style", tokenizer, "a1111")) == [72, 4]
    with refused("prompt", "embedding:other"):
        layout("a embedding:other", tokenizer, "comfyui")
