"""Prompts as ComfyUI reads them: weights in round brackets, and nothing else.

``(text)`` weighs 1.1 times what is around it and ``(text:1.4)`` weighs 1.4, whatever is around it; a backslash makes a
bracket a letter. Square brackets, ``BREAK`` and ``AND`` are text.
"""

import math
from collections.abc import Iterator

from diffuscope.errors import InputError, Unquoted
from diffuscope.prompt.a1111 import MAX_NESTED, ROUND, Piece

_LETTERS = {"\\)": "\0\1", "\\(": "\0\2"}
"""An escaped bracket, and what stands for it while brackets are read: control characters, which no prompt has."""


def weighted(text: str) -> list[Piece]:
    """The pieces of a text with their weights; empty ones are left out.

    Raises:
        InputError: a weight that is not finite, or brackets in more than 100 others.
    """
    for escaped, sign in _LETTERS.items():
        text = text.replace(escaped, sign)
    pieces = [Piece(_unescaped(piece), weight) for piece, weight in _weighted(text, 1.0, 0) if piece]
    return pieces or [Piece("", 1.0)]


def _weighted(text: str, weight: float, depth: int) -> Iterator[Piece]:
    if depth > MAX_NESTED:
        raise InputError("prompt", Unquoted("more nested brackets"), f"at most {MAX_NESTED}")
    for group in _groups(text):
        if len(group) < 2 or group[0] != "(" or group[-1] != ")":
            yield Piece(group, weight)
            continue
        inner, colon, number = group[1:-1].rpartition(":")
        own = _number(number) if inner and colon else None
        if own is None:
            yield from _weighted(group[1:-1], weight * ROUND, depth + 1)
        else:
            yield from _weighted(inner, own, depth + 1)


def _number(text: str) -> float | None:
    """The number that a text is to Python, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        raise InputError("prompt", f":{text})", "a finite number for a weight, such as :1.4)")
    return value


def _groups(text: str) -> Iterator[str]:
    """The outermost bracketed groups of a text, brackets included, and the texts between them.

    A closing bracket without its opening one lowers the level below that of the text, as in ComfyUI, so that the next
    opening bracket is a letter.
    """
    level, start = 0, 0
    for i, sign in enumerate(text):
        if sign == "(":
            if level == 0 and i > start:
                yield text[start:i]
                start = i
            level += 1
        elif sign == ")":
            level -= 1
            if level == 0:
                yield text[start : i + 1]
                start = i + 1
    if start < len(text):
        yield text[start:]


def _unescaped(text: str) -> str:
    for escaped, sign in _LETTERS.items():
        text = text.replace(sign, escaped[1])
    return text
