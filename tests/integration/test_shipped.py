"""The shipped models, at full size."""

import json
from dataclasses import asdict
from pathlib import Path

import diffuscope as ds
from diffuscope.config import EMOJI
from diffuscope.evaluate.generation import Sampling
from diffuscope.loading import shipped_models

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_shipped_models_are_whole() -> None:
    for name in shipped_models():
        pipe = ds.load(name, device="cpu")
        assert pipe.config.name == name
    assert "emoji" not in shipped_models() or ds.load("emoji", device="cpu").config == EMOJI


def test_the_scores_are_of_the_weights_and_the_preset_that_ship() -> None:
    scores = json.loads((RESULTS / "emoji.json").read_text(encoding="utf-8"))
    pipe = ds.load("emoji", device="cpu", dtype=scores["model"]["dtype"])
    assert pipe.weights == scores["model"]["weights"]
    assert scores["preset"] == asdict(Sampling.of(pipe.config.preset))
    heat = json.loads((RESULTS / "heat_maps.json").read_text(encoding="utf-8"))
    assert heat["unet"] == ds.load("emoji", device="cpu", dtype=heat["dtype"]).weights["unet"]
