"""ComfyUI's reading of prompts: the examples that its own documentation of the parser gives, and its rules."""

import pytest

from diffuscope.prompt.comfyui import weighted
from refusals import refused

WEIGHTED = {
    "(foo)": [("foo", 1.1)],
    "(foo)(bar)": [("foo", 1.1), ("bar", 1.1)],
    "(foo:2.0)": [("foo", 2.0)],
    "((foo))": [("foo", 1.21)],
    "((foo):1.1)": [("foo", 1.21)],
    "((foo:1.1))": [("foo", 1.1)],
    "(foo:0.0)": [("foo", 0.0)],
    "((foo:1.0):0.0)": [("foo", 1.0)],
    "foo ((((lol (cat:666) attack:100)))) baz": [
        ("foo ", 1.0),
        ("lol ", 100.0),
        ("cat", 666.0),
        (" attack", 100.0),
        (" baz", 1.0),
    ],
    "foo ((((lol (cat:666) attack):100))) baz": [
        ("foo ", 1.0),
        ("lol ", 110.0),
        ("cat", 666.0),
        (" attack", 110.0),
        (" baz", 1.0),
    ],
}


@pytest.mark.parametrize("text", WEIGHTED)
def test_weights_are_those_of_its_examples(text: str) -> None:
    found = weighted(text)
    assert [piece.text for piece in found] == [piece for piece, _ in WEIGHTED[text]]
    assert [piece.weight for piece in found] == pytest.approx([weight for _, weight in WEIGHTED[text]])


def test_all_else_is_text() -> None:
    for text in ("[ugly]", "a BREAK b", "a AND b", "[a:b:0.5]", "[a|b]", "a: b"):
        assert weighted(text) == [(text, 1.0)]
    assert weighted(r"\(foo\)(bar)") == [("(foo)", 1.0), ("bar", 1.1)]
    assert weighted("") == [("", 1.0)]


def test_impossible_weights_are_refused() -> None:
    for text in ("(a:1e999)", "(a:nan)", "(" * 102 + "a" + ")" * 102):
        with refused("prompt"):
            weighted(text)
