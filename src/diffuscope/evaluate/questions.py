"""What is asked of the model: every prompt with the answer that is right, chosen by stable hashes alone."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from diffuscope.data.captions import Caption, Thing, caption_text
from diffuscope.data.packages import EMOJI_STYLES
from diffuscope.data.palette import COLOUR_WORDS, COLOURS, MIN_SHARE, oklab
from diffuscope.data.split import colour_key, has_colour, stable_hash, without_colour
from diffuscope.evaluate.material import Material

PICTURES = 1000
"""Pictures a score, at least."""

_PLAIN = tuple(word for word in COLOUR_WORDS if word != "white")  # on white paper nobody can be asked for white
_CHUNK = 200  # questions looked through at a time
_BACKGROUNDS = 5  # colours of background asked for, for each concept
_PAIRS = 10  # colours of thing and background asked for, for each concept
_APART = 0.2  # OKLab distance between thing and background, below which training never puts one on the other


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and a real picture that would answer it."""

    prompt: str
    row: int
    """Of ``Material.pictures``: a real picture of what is asked for."""
    style: str | None = None
    colour: str | None = None
    background: str | None = None
    word: str | None = None


@dataclass(frozen=True)
class Exam:
    """Questions of one kind, each asked ``each`` times. Picture i is of question ``i // each`` and has the seed i."""

    questions: tuple[Question, ...]
    each: int

    @property
    def prompts(self) -> list[str]:
        """One for each picture."""
        return [question.prompt for question in self.questions for _ in range(self.each)]


def exam(
    questions: Iterable[Question],
    pictures: int = PICTURES,
    answerable: Callable[[Sequence[Question]], Sequence[bool]] | None = None,
) -> Exam:
    """At least ``pictures`` pictures of ``questions``, or of as many of them as that number allows.

    Args:
        questions: in any order; they are asked in the order of a hash.
        pictures: how many.
        answerable: which of a few questions can be judged; the others are left out.
    """
    shuffled = sorted(questions, key=lambda question: stable_hash("question", question.prompt))
    chosen: list[Question] = []
    for start in range(0, len(shuffled), _CHUNK):
        part = shuffled[start : start + _CHUNK]
        fit = [True] * len(part) if answerable is None else answerable(part)
        chosen += [question for question, keep in zip(part, fit, strict=True) if keep]
        if len(chosen) >= pictures:
            break
    chosen = chosen[:pictures]
    return Exam(tuple(chosen), max(1, math.ceil(pictures / max(1, len(chosen)))))


def held_out(material: Material) -> list[Question]:
    """Every evaluation concept in every style that it was never shown in: "a fox, noto style"."""
    return [_styled(material, row) for row in _first_rows(material) if material.is_held_out(row)]


def seen(material: Material) -> list[Question]:
    """Every evaluation concept in one of the styles that it was trained in."""
    chosen: dict[str, int] = {}
    for row in _first_rows(material):
        if not material.is_held_out(row):
            concept = material.pictures[row].concept
            chosen[concept] = min(chosen.get(concept, row), row, key=lambda r: _lot(material, "seen", r))
    return [_styled(material, row) for row in chosen.values()]


def colours(material: Material) -> list[Question]:
    """Held-out (colour, concept): "a green fox", on white. Only things whose leading colour can be replaced."""
    return [
        _coloured(material, row, colour)
        for row in _colourful_rows(material)
        for colour in _PLAIN
        if (colour, colour_key(material.pictures[row].name)) in material.split.colours
    ]


def backgrounds(material: Material) -> list[Question]:
    """Every evaluation concept on five colours: "a fox on a blue background"."""
    found = []
    for concept in material.split.concepts:
        row = min(_emoji_rows(material, concept), key=lambda r: _lot(material, "background", r))
        name = material.pictures[row].name
        for colour in _shuffled(_PLAIN, "background", concept)[:_BACKGROUNDS]:
            prompt = caption_text(Caption(things=(Thing(name),), background=colour))
            found.append(Question(prompt, row, background=colour))
    return found


def both(material: Material) -> list[Question]:
    """Colour on colour: "a green fox on a blue background"; all things of one colour, ten pairs of colours each."""
    found = []
    for row in _colourful_rows(material):
        key = colour_key(material.pictures[row].name)
        pairs = [f"{own} {under}" for own in COLOUR_WORDS for under in _PLAIN if _distance(own, under) > _APART]
        for pair in _shuffled(pairs, "both", key)[:_PAIRS]:
            own, under = pair.split(" ")
            found.append(_coloured(material, row, own, under))
    return found


def tag_words(material: Material) -> list[Question]:
    """Words that stand in tags alone: "a puppy"."""
    found = []
    for word, carriers in material.telling.items():
        rows = [row for concept in sorted(carriers) for row in _emoji_rows(material, concept)]
        row = min(rows, key=lambda r: _lot(material, word, r))
        found.append(Question(caption_text(Caption(things=(Thing(word),))), row, word=word))
    return found


def captions(material: Material, style: str | None) -> list[str]:
    """What is said of each of ``split.concepts``, in that order, in one style."""
    names = [material.pictures[material.rows[concept][0]].name for concept in material.split.concepts]
    return [caption_text(Caption(things=(Thing(name),), style=style)) for name in names]


def in_every_style(material: Material, question: Question) -> list[Question]:
    """``question`` once for each emoji picture of its thing; where it asks for a colour, of those that one leads."""
    rows = _emoji_rows(material, material.pictures[question.row].concept)
    if question.colour is not None:
        rows = [row for row in rows if material.canvas.tones[row, 3].item() >= MIN_SHARE]
    return [replace(question, row=row) for row in rows]


def _styled(material: Material, row: int) -> Question:
    picture = material.pictures[row]
    prompt = caption_text(Caption(things=(Thing(picture.name),), style=picture.style))
    return Question(prompt, row, style=picture.style)


def _coloured(material: Material, row: int, colour: str, background: str | None = None) -> Question:
    name = without_colour(material.pictures[row].name)
    prompt = caption_text(Caption(things=(Thing(name, colour),), background=background))
    return Question(prompt, row, colour=colour, background=background)


def _first_rows(material: Material) -> list[int]:
    """The first row of every (concept, style) of the evaluation concepts."""
    found: dict[tuple[str, str], int] = {}
    for concept in material.split.concepts:
        for row in material.rows[concept]:
            found.setdefault((concept, material.pictures[row].style), row)
    return list(found.values())


def _emoji_rows(material: Material, concept: str) -> list[int]:
    return [row for row in material.rows[concept] if material.pictures[row].style in EMOJI_STYLES]


def _colourful_rows(material: Material) -> list[int]:
    """One row for each evaluation concept of which half the emoji pictures or more have a colour that leads."""
    found = []
    for concept in material.split.concepts:
        rows: Sequence[int] = _emoji_rows(material, concept)
        fit = [row for row in rows if material.canvas.tones[row, 3].item() >= MIN_SHARE]
        if 2 * len(fit) >= len(rows) and not has_colour(without_colour(material.pictures[rows[0]].name)):
            found.append(min(fit, key=lambda r: _lot(material, "colour", r)))
    return found


def _shuffled(words: Iterable[str], *of: str) -> list[str]:
    return sorted(words, key=lambda word: stable_hash(*of, word))


def _lot(material: Material, purpose: str, row: int) -> float:
    """A stable number for a row: of what the picture is, not of where it stands."""
    picture = material.pictures[row]
    return stable_hash(purpose, picture.concept, picture.style, picture.svg)


def _distance(one: str, other: str) -> float:
    """Between two colour words, in OKLab."""
    return math.dist(oklab(*COLOURS[one]), oklab(*COLOURS[other]))
