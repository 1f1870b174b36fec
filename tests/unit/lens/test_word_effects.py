"""The effect of a word is that of leaving it out."""

import pytest
import torch

from diffuscope.diffusion.prediction import denoiser
from diffuscope.lens.explain import explain
from diffuscope.lens.recording import Record
from diffuscope.lens.text import debug
from diffuscope.lens.word_effects import word_effects
from diffuscope.pipeline import Pipeline
from narrow import made
from refusals import refused

PROMPT = "a red fox, a cat"


def recorded(pipe: Pipeline, prompt: str = PROMPT):
    record = Record()
    run = pipe.steps(prompt, seed=1, num_inference_steps=3, guidance=record)
    run.result()
    return record, run.levels


def test_it_is_the_change_without_the_word_relative_to_that_without_any(tiny: Pipeline) -> None:
    record, levels = recorded(tiny)
    effects = word_effects(tiny, PROMPT, record, levels, calls=1)
    assert [*effects] == ["a", "red", "fox", ",", "cat"]

    def estimate(text: str) -> torch.Tensor:
        context = tiny.encode_prompt(text).embeddings
        predict = lambda x, time: tiny.unet(x, time, context)  # noqa: E731
        with torch.no_grad():
            return denoiser(predict, levels, tiny.config.schedule.prediction)(record.x[0], record.sigmas[0])

    whole = estimate(PROMPT)
    change = {word: (estimate(text) - whole).norm() for word, text in WITHOUT.items()}
    for word in ("red", "a"):  # a word stands for all its occurrences
        assert effects[word] == pytest.approx(float(change[word] / change[""]), rel=1e-3)


WITHOUT = {"red": "a fox, a cat", "a": "red fox, cat", "": ""}


def test_a_word_that_the_model_does_not_see_has_no_effect(tiny: Pipeline) -> None:
    long = "cat " * 75 + "fox"
    record, levels = recorded(tiny, long)
    effects = word_effects(tiny, long, record, levels, calls=2)
    assert effects["fox"] == 0
    report = debug(tiny, long, effects=effects)
    assert report.neglected() == ["fox"]
    assert "effect 0.00" in str(report)


def test_the_page_shows_effects_and_claims_nothing_of_neglect(tiny: Pipeline) -> None:
    page = explain(tiny, "a red fox", num_inference_steps=2)
    assert "<th>effect<th>" in page
    assert "neglect" not in page
    assert "<th>effect<th>" in explain(tiny, "a (red:1.2) fox", num_inference_steps=2, prompt_syntax="comfyui")
    assert explain(made("sdxl"), "a red fox", num_inference_steps=1).count("<td>") > 0


def test_what_cannot_be_measured_is_refused(tiny: Pipeline) -> None:
    record, levels = recorded(tiny)
    with refused("record"):
        word_effects(tiny, PROMPT, Record(), levels)
    with refused("record"):
        word_effects(tiny, PROMPT, record, levels, calls=0)
    with refused("pipe"):
        word_effects(made("sdxl"), PROMPT, record, levels)
