"""AUTOMATIC1111's reading of prompts: the examples that its own documentation of the parsers gives, and its rules."""

import pytest

from diffuscope.prompt.a1111 import BREAK, joined_by_and, schedule, weighted
from refusals import refused

WEIGHTED = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.5730000000000004),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641000000000006),
        (".", 1.1),
    ],
}


@pytest.mark.parametrize("text", WEIGHTED)
def test_weights_are_those_of_its_examples(text: str) -> None:
    assert [tuple(piece) for piece in weighted(text)] == WEIGHTED[text]


def test_brackets_that_close_nothing_and_colons_are_text() -> None:
    assert weighted("a) b] c:1.3) d: e") == [("a) b] c:1.3) d: e", 1.0)]
    assert weighted("") == [("", 1.0)]
    assert weighted("(red: 1.4 )") == [("red", 1.4)]
    assert weighted("[ugly]") == [("ugly", 1 / 1.1)]


def test_break_is_a_piece_of_its_own_and_within_brackets_a_word() -> None:
    assert weighted("a fox BREAK a hen") == [("a fox", 1.0), BREAK, ("a hen", 1.0)]
    assert weighted("a BREAK  BREAK\n b") == [("a", 1.0), BREAK, ("", 1.0), BREAK, ("b", 1.0)]
    assert weighted("BREAKING") == [("BREAKING", 1.0)]
    assert ("BREAK", -1.1) in weighted("(a BREAK b)")


def test_impossible_weights_are_refused() -> None:
    for text in ("(a:1.2.3)", f"(a:{'9' * 400})"):
        with refused("prompt"):
            weighted(text)
    with refused("prompt"):
        weighted("(" * 101 + "a")


SCHEDULES = {
    "test": [(10, "test")],
    "a [b:3]": [(3, "a "), (10, "a b")],
    "a [b: 3]": [(3, "a "), (10, "a b")],
    "a [[[b]]:2]": [(2, "a "), (10, "a [[b]]")],
    "[(a:2):3]": [(3, ""), (10, "(a:2)")],
    "a [b : c : 1] d": [(1, "a b  d"), (10, "a  c  d")],
    "a[b:[c:d:2]:1]e": [(1, "abe"), (2, "ace"), (10, "ade")],
    "a [unbalanced": [(10, "a [unbalanced")],
    "a [b:.5] c": [(5, "a  c"), (10, "a b c")],
    "((a][:b:c [d:3]": [(3, "((a][:b:c "), (10, "((a][:b:c d")],
    "[a|(b:1.1)]": [(step, "a" if step % 2 else "(b:1.1)") for step in range(1, 11)],
    "[fe|]male": [(step, "female" if step % 2 else "male") for step in range(1, 11)],
    "[fe|||]male": [(step, "female" if step % 4 == 1 else "male") for step in range(1, 11)],
}


@pytest.mark.parametrize("text", SCHEDULES)
def test_schedules_are_those_of_its_examples(text: str) -> None:
    assert [tuple(entry) for entry in schedule(text, 10)] == SCHEDULES[text]


def test_the_long_example_of_its_documentation() -> None:
    text = "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6]"
    text += "[: in background:0.25] [shoddy:masterful:0.5]"
    at = dict(schedule(text, 100))
    assert [*at] == [25, 50, 60, 75, 100]
    assert at[25] == "fantasy landscape with a mountain and an oak in foreground shoddy"
    assert at[100] == "fantasy landscape with a lake and a christmas tree in background masterful"


def test_what_its_grammar_does_not_read_never_changes() -> None:
    """A bar outside of brackets, or mixed with colons; a backslash at the end of a line."""
    for text in ("a | b [c:d:3]", "a [b|c:.5]", "[a|b", "[c:d:3] \\"):
        assert schedule(text, 10) == [(10, text)]
    assert len(schedule("\\[a:b:3\\] [c:d:3]", 10)) == 2


def test_long_and_deep_prompts_take_no_quadratic_time() -> None:
    for text in ("[" * 50_000 + "a" + "]" * 50_000, "[a:" * 20_000 + "b" + ":3]" * 20_000, "([" * 50_000):
        assert schedule(text, 4)[-1].end == 4


def test_prompts_joined_by_and() -> None:
    assert joined_by_and("a fox") == [("a fox", 1.0)]
    assert joined_by_and("a fox :1.2 AND a hen\nAND b: -0.5") == [("a fox", 1.2), (" a hen", 1.0), (" b", -0.5)]
    assert joined_by_and("SAND (a:1.5)") == [("SAND (a:1.5)", 1.0)]
