import math
from dataclasses import replace

import pytest

from diffuscope.training.curves import plot
from diffuscope.training.loop import LoopConfig, lr_factor, train
from line import CONFIG, Line
from refusals import refused


def test_the_caller_hears_of_every_checkpoint(tmp_path):
    heard = []
    ema = train(Line(), CONFIG, tmp_path, on_save=heard.append)
    assert heard == [ema]


def test_the_learning_rate_warms_up_holds_and_decays():
    config = LoopConfig(steps=100, warmup_steps=10, hold=0.5, min_lr_factor=0.1)
    assert lr_factor(config, 0, 0.0) == pytest.approx(0.1)
    assert lr_factor(config, 30, 0.3) == 1.0
    assert lr_factor(config, 75, 0.75) == pytest.approx(0.55)
    assert lr_factor(config, 99, 1.0) == pytest.approx(0.1)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    task = Line()
    task.network.weight.data.fill_(math.nan)
    with pytest.raises(RuntimeError, match="became nan by step 0"):
        train(task, CONFIG, tmp_path)


def test_a_run_has_one_length():
    with refused("steps"):
        LoopConfig()
    with refused("steps"):
        replace(CONFIG, seconds=1.0)
    with refused("warmup_steps", 0):
        replace(CONFIG, warmup_steps=0)


def test_curves_are_plotted(tmp_path):
    train(Line(), CONFIG, tmp_path)
    plot(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
