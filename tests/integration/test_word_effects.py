"""The words that an image needs have an effect: over the contact sheet, as measured, and on two of its images, anew."""

import json
from pathlib import Path

import pytest

import diffuscope as ds
from diffuscope.evaluate.contact_sheet import PROMPTS, SEED
from diffuscope.lens.recording import Record
from diffuscope.lens.word_effects import LITTLE, word_effects
from diffuscope.pipeline import Pipeline

MEASURED = json.loads(
    (Path(__file__).parents[2] / "benchmarks" / "results" / "word_effects.json").read_text(encoding="utf-8")
)

LITTLE_WORDS = {"a", "an", "and", "the", "on", "in", "of", "with", "by", "side", "style", "background", "face", ","}
"""Words of the sheet that name no thing, colour, number, size, place or style."""


@pytest.fixture(scope="module")
def emoji() -> Pipeline:
    return ds.load("emoji", device="cpu")


def test_the_measurement_is_of_the_shipped_model_and_the_whole_sheet(emoji: Pipeline) -> None:
    assert MEASURED["unet"] == emoji.weights["unet"]
    rows = MEASURED["rows"][: len(PROMPTS)]
    assert [(row["prompt"], row["seed"]) for row in rows] == [(p, SEED + k) for k, p in enumerate(PROMPTS)]


def test_no_thing_that_the_classifier_sees_counts_as_neglected() -> None:
    """The classifier's name for the image is a word of the prompt, and that word has an effect."""
    right = 0
    for row in MEASURED["rows"]:
        named = {word for word in row["effects"] if word in row["classifier"].split("-")}
        right += bool(named)
        assert all(row["effects"][word] >= 3 * LITTLE for word in named), row
    assert right >= 12


def test_only_words_that_say_little_do_little() -> None:
    idle = {word for row in MEASURED["rows"] for word, effect in row["effects"].items() if effect < LITTLE}
    assert {"a", "an"} <= idle <= LITTLE_WORDS | {"right"}  # "in the top corner" makes nearly the same image


@pytest.mark.parametrize("row", [0, 1], ids=PROMPTS[:2])
def test_the_measurement_repeats(emoji: Pipeline, row: int) -> None:
    record, wanted = Record(), MEASURED["rows"][row]
    run = emoji.steps(wanted["prompt"], seed=wanted["seed"], guidance=record, upscale=1)
    run.result()
    assert word_effects(emoji, wanted["prompt"], record, run.levels) == pytest.approx(wanted["effects"], abs=0.02)
