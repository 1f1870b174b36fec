"""Reads a caption back: the inverse of ``caption_text``."""

import re
from collections.abc import Iterable
from dataclasses import replace

from diffuscope.data.captions import (
    COUNTS,
    PLACES,
    PREFIXES,
    RELATIONS,
    SIZES,
    Caption,
    Thing,
    plural,
    with_article,
    with_prefix,
)
from diffuscope.data.palette import COLOUR_WORDS

_STYLE = re.compile(r"(?P<rest>.*), (?P<style>[^,]+) style")
_BACKGROUND = re.compile(rf"(?P<rest>.*) on an? (?P<colour>{'|'.join(COLOUR_WORDS)}) background")


class CaptionParser:
    """Reads captions whose names it knows."""

    def __init__(self, names: Iterable[str]) -> None:
        """``names``: every name and tag that may occur, and every name without its colour word."""
        self._names = frozenset(names)
        self._plurals = {plural(name): name for name in sorted(self._names)}

    def parse(self, text: str) -> Caption | None:
        """The caption that ``caption_text`` turns into ``text``; None if there is none.

        A colour before a name is read as part of the name where that name exists ("red apple").
        """
        rest, style, background = text, None, None
        if found := _STYLE.fullmatch(rest):
            rest, style = found["rest"], found["style"]
        if found := _BACKGROUND.fullmatch(rest):
            rest, background = found["rest"], found["colour"]
        for read in (self._single, self._pair, self._several, self._tags):
            caption = read(rest)
            if caption is not None:
                return replace(caption, background=background, style=style)
        return None

    def _thing(self, words: str, *, several: bool = False) -> Thing | None:
        known = self._plurals if several else {}
        for colour in (None, *COLOUR_WORDS):
            name = words if colour is None else words.removeprefix(f"{colour} ")
            if colour is not None and name == words:
                continue
            if several and name in known:
                return Thing(known[name], colour)
            if not several and name in self._names:
                return Thing(name, colour)
        return None

    def _after_article(self, words: str) -> Thing | None:
        thing = self._thing(re.sub(r"^an? ", "", words))
        return thing if thing is not None and with_article(str(thing)) == words else None

    def _single(self, text: str) -> Caption | None:
        place = next((place for place in PLACES if text.endswith(f" {place}")), None)
        rest = text if place is None else text.removesuffix(f" {place}")
        for prefix in sorted(PREFIXES, key=len, reverse=True):
            start = prefix.removesuffix("a")
            if not rest.startswith(start):
                continue
            words = re.sub(r"^an? ", "", rest[len(start) :]) if prefix else rest
            for size in (None, *SIZES):
                if size is not None and not words.startswith(f"{size} "):
                    continue
                thing = self._thing(words if size is None else words.removeprefix(f"{size} "))
                if thing is not None and with_prefix(prefix, words) == rest:
                    return Caption(things=(thing,), prefix=prefix, size=size, place=place)
        return None

    def _pair(self, text: str) -> Caption | None:
        for relation in RELATIONS:
            sides = relation == RELATIONS[0]
            if sides and not text.endswith(f" {relation}"):
                continue
            joint = " and " if sides else f" {relation} "
            whole = text.removesuffix(f" {relation}") if sides else text
            for cut in re.finditer(re.escape(joint), whole):
                first, second = self._after_article(whole[: cut.start()]), self._after_article(whole[cut.end() :])
                if first is not None and second is not None:
                    return Caption(things=(first, second), relation=relation)
        return None

    def _several(self, text: str) -> Caption | None:
        for count, word in COUNTS.items():
            thing = self._thing(text.removeprefix(f"{word} "), several=True) if text.startswith(f"{word} ") else None
            if thing is not None:
                return Caption(things=(thing,), count=count)
        return None

    def _tags(self, text: str) -> Caption | None:
        words = text.split(", ")
        if len(words) in (2, 3) and all(word in self._names for word in words):
            return Caption(things=tuple(Thing(word) for word in words), tags=True)
        return None
