"""The loop, from its first step to its last."""

import pytest
import torch

from diffuscope.training.loop import train
from line import CONFIG, Line, log


def test_it_learns_and_says_so(tmp_path):
    task = Line()
    before = task.validate(task.network)["distance"]
    average = train(task, CONFIG, tmp_path)
    assert task.validate(average)["distance"] < 0.3 * before
    lines = log(tmp_path)
    assert lines[0]["loss"] > lines[-2]["loss"]
    assert lines[-1]["validation.distance"] == pytest.approx(task.validate(average)["distance"], rel=1e-4)


def test_a_run_in_parts_equals_a_whole_one_bit_for_bit(tmp_path):
    whole = train(Line(), CONFIG, tmp_path / "whole")
    parts = tmp_path / "parts"
    reached = []
    for stop_after in (1e-9, 0.01, None):
        resumed = train(Line(), CONFIG, parts, stop_after=stop_after)
        reached.append(log(parts)[-1]["step"])
    assert reached[0] < reached[-1] == CONFIG.steps
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
