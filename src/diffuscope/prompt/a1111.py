"""Prompts as AUTOMATIC1111's web UI 1.10 reads them: weights, ``BREAK``, ``AND``, and texts that change during a run.

``(text)`` weighs 1.1, ``[text]`` 1/1.1, ``(text:1.4)`` 1.4; nested weights multiply, and a bracket that is not closed
counts to the end. A backslash makes a bracket a letter. ``[from:to:when]``, ``[to:when]`` and ``[from::when]`` change
the text after the step, or share of the steps, ``when``; ``[one|other]`` takes turns. ``AND`` joins prompts, each with
a weight after a colon (Liu et al. 2022, composable diffusion).
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from diffuscope.errors import InputError, Unquoted

ROUND, SQUARE = 1.1, 1 / 1.1
MAX_NESTED = 100
"""Open brackets at one place; each letter within costs one multiplication for each of them."""


class Piece(NamedTuple):
    """A part of a text, and its weight."""

    text: str
    weight: float


BREAK = Piece("BREAK", -1.0)
"""Ends a window. Weights around it apply to it too, and then it is a word: as in the web UI."""


class Entry(NamedTuple):
    """A text of a prompt that changes, up to a step."""

    end: int
    """The last step, counted from 0, that reads it."""
    text: str


_SIGN = re.compile(r"\\[\]\[()\\]?|[\[(]|:\s*([+-]?[.\d]+)\s*\)|[\])]|[^\]\[()\\:]+|:")
_BREAK = re.compile(r"(?<!\s)\s*\bBREAK\b\s*|\bBREAK\b\s*")  # white space is tried from its beginning only


def weighted(text: str) -> list[Piece]:
    """The pieces of a text with their weights; neighbours of one weight are one piece.

    Raises:
        InputError: a weight that is no finite number, or more than 100 open brackets.
    """
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # the piece at which each open bracket begins

    def weigh(first: int, factor: float) -> None:
        weights[first:] = [weight * factor for weight in weights[first:]]

    def add(piece: str, weight: float = 1.0) -> None:
        texts.append(piece)
        weights.append(weight)

    for sign in _SIGN.finditer(text):
        shown = sign[0]
        if shown in opened:
            opened[shown].append(len(texts))
            if sum(map(len, opened.values())) > MAX_NESTED:
                raise InputError("prompt", Unquoted("more open brackets"), f"at most {MAX_NESTED} at one place")
        elif sign[1] is not None and opened["("]:
            weigh(opened["("].pop(), _number(sign[1], shown))
        elif shown == ")" and opened["("]:
            weigh(opened["("].pop(), ROUND)
        elif shown == "]" and opened["["]:
            weigh(opened["["].pop(), SQUARE)
        elif shown[0] == "\\":
            add(shown[1:])
        else:
            first, *others = _BREAK.split(shown)
            add(first)
            for other in others:
                add(*BREAK)
                add(other)
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        for first_piece in opened[bracket]:
            weigh(first_piece, factor)
    return _merged(map(Piece, texts, weights)) or [Piece("", 1.0)]


def _number(digits: str, shown: str) -> float:
    try:
        weight = float(digits)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise InputError("prompt", shown, "a finite number for a weight, such as :1.4)")
    return weight


def _merged(pieces: Iterator[Piece]) -> list[Piece]:
    """Pieces with those of equal weight joined: what they have is read as one text, words across them included."""
    merged: list[Piece] = []
    for piece in pieces:
        if merged and merged[-1].weight == piece.weight:
            merged[-1] = Piece(merged[-1].text + piece.text, piece.weight)
        else:
            merged.append(piece)
    return merged


_NETWORK = re.compile(r"<(?:hypernet|lyco):[^<>]*>", re.IGNORECASE)


def refuse_networks(prompt: str) -> None:
    """Refuse tags of networks that the web UI takes out of the text, and that are not loaded here."""
    if (tag := _NETWORK.search(prompt)) is not None:
        hint = "Leave hypernetworks out; a LyCORIS file is written <lora:NAME:WEIGHT>."
        raise InputError("prompt", tag[0], "no tags but those of LoRAs", hint)


_AND = re.compile(r"\bAND\b")
_PART_WEIGHT = re.compile(r"(?<!\s)\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+))\s*\Z")


def joined_by_and(prompt: str) -> list[Piece]:
    """The prompts that ``AND`` joins, each with its weight."""
    parts = []
    for text in _AND.split(prompt):
        weight = _PART_WEIGHT.search(text)
        if weight is None:
            parts.append(Piece(text.rstrip(), 1.0))
        else:
            parts.append(Piece(text[: weight.start()], _number(weight[1], weight[0].strip())))
    return parts


@dataclass
class _Bracket:
    """A bracket of a prompt: its parts between colons or bars, and what it does."""

    sign: str = ""
    parts: list[list["str | _Bracket"]] = field(default_factory=lambda: [[]])
    separators: str = ""
    when: int | None = None
    """The last step, counted from 1, of the first of two parts."""

    def at(self, step: int) -> "list[str | _Bracket]":
        """What the bracket is at a step, counted from 1."""
        if self.when is not None:
            before, after = (self.parts[0], self.parts[1]) if len(self.parts) == 3 else ([], self.parts[0])
            return before if step <= self.when else after
        if self.separators:
            if self.sign == "[":
                return self.parts[(step - 1) % len(self.parts)]
            return ["(", *self.parts[0], ":", *self.parts[1], ")"]
        return [self.sign, *self.parts[0], ")" if self.sign == "(" else "]"] if self.sign else self.parts[0]


_OPENS = {")": "(", "]": "["}
_WORD = re.compile(r"\\.|[\]\[():|]|[^\]\[():|\\]+")
_WHEN = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\Z")


def schedule(prompt: str, steps: int) -> list[Entry]:
    """The texts of a prompt in the order of a run of ``steps`` steps; one where nothing changes.

    A number with a point is a share of the steps. The web UI counts network calls from 0, so that ``[a:b:5]`` reads a
    in six of them; ``Entry.end`` is that number.
    """
    changes: set[int] = set()
    tree = _tree(prompt, steps, changes)
    if tree is None:
        return [Entry(steps, prompt)]
    return [Entry(end, _written(tree, end)) for end in sorted({*changes, steps})]


def _tree(prompt: str, steps: int, changes: set[int]) -> _Bracket | None:
    """The brackets of a prompt; None where the web UI's grammar does not read it, so that nothing changes.

    A bracket that does nothing is text; then those around it are text too, as they hold what is no bracket.
    """
    open_: list[_Bracket] = [_Bracket()]
    position = 0

    def give_up() -> bool:
        """Make all open brackets text; False where a bar is left outside of brackets, which the grammar refuses."""
        for bracket in open_[1:]:
            if "|" in bracket.separators:
                return False
            open_[0].parts[0].append(bracket.sign)
            for part, separator in zip(bracket.parts, [*bracket.separators, ""], strict=True):
                open_[0].parts[0] += [*part, separator]
        del open_[1:]
        return True

    for word in _WORD.finditer(prompt):
        if word.start() != position:  # a backslash at the end of a line
            return None
        position, sign = word.end(), word[0]
        if sign in ("(", "["):
            open_.append(_Bracket(sign))
        elif sign in (":", "|") and len(open_) > 1:
            open_[-1].separators += sign
            open_[-1].parts.append([])
        elif sign == "|":
            return None
        elif sign in (")", "]"):
            if open_[-1].sign == _OPENS[sign] and _closes(open_[-1], steps, changes):
                closed = open_.pop()
                open_[-1].parts[-1].append(closed)
                continue
            if not give_up():
                return None
            open_[0].parts[0].append(sign)
        else:
            open_[-1].parts[-1].append(sign)
    return open_[0] if position == len(prompt) and give_up() else None


def _closes(bracket: _Bracket, steps: int, changes: set[int]) -> bool:
    """Whether a bracket means something, now that it ends; notes the steps at which it changes."""
    separators = bracket.separators
    if not separators:
        return True
    if bracket.sign == "(":
        return separators == ":"
    if set(separators) == {"|"}:
        changes.update(range(1, steps + 1))
        return True
    last = bracket.parts[-1]
    when = _WHEN.match("".join(map(str, last))) if all(isinstance(part, str) for part in last) else None
    if separators not in (":", "::") or when is None:
        return False
    steps_before = float(when[1]) * (steps if "." in when[1] else 1)
    bracket.when = int(min(steps, steps_before))
    if bracket.when >= 1:
        changes.add(bracket.when)
    return True


def _written(tree: _Bracket, step: int) -> str:
    """The text of a prompt at a step, counted from 1."""
    texts, waiting = [], [*reversed(tree.at(step))]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            texts.append(part)
        else:
            waiting += reversed(part.at(step))
    return "".join(texts)
