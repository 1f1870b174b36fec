import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from diffuscope.errors import InputError
from diffuscope.training.curves import draw
from diffuscope.training.loop import LoopConfig, rate, train

CONFIG = LoopConfig(lr=0.2, steps=60, warmup=5, log_every=10, average=0.9)


class Line:
    """A real task, small: learn y = A x from samples."""

    edges = ()

    def __init__(self):
        torch.manual_seed(0)
        self.network = nn.Linear(4, 3)
        self.truth = torch.randn(3, 4, generator=torch.Generator().manual_seed(9))

    def loss(self, draw):
        x = torch.randn(32, 4, generator=draw.generator)
        error = (self.network(x) - x @ self.truth.T).square().mean()
        return error, {"error": error.detach()}

    def validate(self, network):
        return {"distance": (network.weight - self.truth).norm().item()}


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_it_learns_and_says_so(tmp_path):
    task = Line()
    before = task.validate(task.network)["distance"]
    average = train(task, CONFIG, tmp_path)
    assert task.validate(average)["distance"] < 0.3 * before
    lines = log(tmp_path)
    assert lines[0]["loss"] > lines[-2]["loss"]
    assert lines[-1]["validation.distance"] == pytest.approx(task.validate(average)["distance"], rel=1e-4)


def test_a_run_in_two_parts_equals_a_whole_one_bit_for_bit(tmp_path):
    whole = train(Line(), CONFIG, tmp_path / "whole")
    parts = tmp_path / "parts"
    calls = 0
    while not (parts / "log.jsonl").exists() or log(parts)[-1]["step"] < CONFIG.steps:
        resumed = train(Line(), CONFIG, parts, stop_after=0.02)
        calls += 1
    assert calls > 1
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_the_caller_hears_of_every_checkpoint(tmp_path):
    heard = []
    average = train(Line(), CONFIG, tmp_path, saved=heard.append)
    assert heard == [average]


def test_two_processes_train_as_one_that_draws_for_both(tmp_path):
    """Started by torchrun: equal to one process whose gradient is the mean over both processes' draws."""
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
from pathlib import Path
from test_loop import CONFIG, Line
from diffuscope.training import ranks
from diffuscope.training.loop import train
torch.set_num_threads(1)
with ranks.joined(torch.device("cpu")):
    average = train(Line(), CONFIG, Path({str(tmp_path)!r}) / "two")
    torch.save(average.state_dict(), Path({str(tmp_path)!r}) / f"rank{{ranks.rank()}}.pt")
"""
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    subprocess.run(torchrun, check=True, timeout=600, capture_output=True)

    class Both(Line):
        def loss(self, draw):
            other = torch.Generator().manual_seed(draw.seed + 1)
            first, numbers = super().loss(draw)
            second, _ = super().loss(replace(draw, generator=other))
            return (first + second) / 2, numbers

    alone = train(Both(), CONFIG, tmp_path / "one").state_dict()
    for rank in range(2):
        state = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert all(torch.allclose(state[name], alone[name], atol=1e-5) for name in alone)
    assert [line["step"] for line in log(tmp_path / "two")] == [line["step"] for line in log(tmp_path / "one")]


def test_the_rate_warms_up_holds_and_falls():
    config = LoopConfig(steps=100, warmup=10, hold=0.5, floor=0.1)
    assert rate(config, 0, 0.0) == pytest.approx(0.1)
    assert rate(config, 30, 0.3) == 1.0
    assert rate(config, 75, 0.75) == pytest.approx(0.55)
    assert rate(config, 99, 1.0) == pytest.approx(0.1)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    task = Line()
    task.network.weight.data.fill_(math.nan)
    with pytest.raises(RuntimeError, match="became nan by step 0"):
        train(task, CONFIG, tmp_path)


def test_a_run_has_one_length():
    with pytest.raises(InputError, match="give one of the two"):
        LoopConfig()
    with pytest.raises(InputError, match="give one of the two"):
        replace(CONFIG, seconds=1.0)
    with pytest.raises(InputError, match="at least 1 step"):
        replace(CONFIG, warmup=0)


def test_curves_are_drawn(tmp_path):
    train(Line(), CONFIG, tmp_path)
    draw(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
