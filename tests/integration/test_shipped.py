"""The shipped models, at full size."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import diffuscope as ds
from diffuscope.config import EMOJI
from diffuscope.diffusion.samplers import TABLE
from diffuscope.evaluate.generation import Sampling
from diffuscope.model_files import shipped_models
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.notes import LARGEST_DEVIATION, STEADY
from diffuscope.pipeline.receipt import request_of

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_shipped_models_are_whole() -> None:
    for name in shipped_models():
        pipe = ds.load(name, device="cpu")
        assert pipe.config.name == name
        assert pipe.steps(pipe.config.examples).notes == []  # it has learned the words that it offers
    assert "emoji" not in shipped_models() or ds.load("emoji", device="cpu").config == EMOJI


def test_shipped_files_stay_small() -> None:
    assets = Path(ds.__file__).with_name("assets")
    assert sum(path.stat().st_size for path in assets.rglob("*.*")) < 90e6


def test_the_scores_are_of_the_weights_and_the_preset_that_ship() -> None:
    scores = json.loads((RESULTS / "emoji.json").read_text(encoding="utf-8"))
    pipe = ds.load("emoji", device="cpu", dtype=scores["model"]["dtype"])
    assert pipe.weights == scores["model"]["weights"]
    assert scores["preset"] == asdict(Sampling.of(pipe.config.preset))
    heat = json.loads((RESULTS / "heat_maps.json").read_text(encoding="utf-8"))
    assert heat["unet"] == ds.load("emoji", device="cpu", dtype=heat["dtype"]).weights["unet"]


DIVERGING = {"lms", "ipndm", "pndm", "f_pndm"}
"""Those of high order, whose region of stability is small: strong guidance in few steps leads them away."""


@pytest.fixture(scope="module")
def emoji() -> Pipeline:
    return ds.load("emoji", device="cpu")


@pytest.mark.parametrize("name", TABLE)
def test_guidance_of_lessons_keeps_the_range_or_says_so(emoji: Pipeline, name: str) -> None:
    """The scale 7.5 of the course's lessons, in few steps: every sampler makes latents of an image, or has a note."""
    call = {"num_inference_steps": 8, "guidance_scale": 7.5, "seed": 32, "height": 64, "width": 64, "upscale": 1}
    result = emoji("An otter", sampler=name, **call)
    left = result.latents.std().item() > LARGEST_DEVIATION
    assert left is (name in DIVERGING)
    notes = [note for note in result.notes if "left the range" in note]
    assert len(notes) == left
    for note in notes:
        assert STEADY in note
        assert "guidance_scale than 7.5" in note
        assert "more steps than 8" in note


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "dpmpp_sde", "unipc"])
def test_a_branch_of_the_emoji_model(emoji: Pipeline, sampler: str) -> None:
    """Nothing changed, and every bit is the same; a word changed, and the steps before it are."""
    size = {"height": 64, "width": 64, "upscale": 1}
    run = emoji.steps("a red fox", seed=32, sampler=sampler, num_inference_steps=6, output_type="latent", **size)
    before = [step.x.clone() for step in run]
    assert all(torch.equal(step.x, x) for step, x in zip(run.branch(4), before, strict=True))
    other = [step.x.clone() for step in run.branch(4, prompt="a blue fox")]
    assert [torch.equal(a, b) for a, b in zip(other, before, strict=True)] == [True] * 4 + [False] * 2
    anew = emoji(request_of(run.branch(4).receipt), output_type="latent")
    assert torch.equal(anew.latents, run.result().latents)
