import math
from dataclasses import replace

import pytest

from diffuscope.errors import InputError
from diffuscope.training.curves import draw
from diffuscope.training.loop import LoopConfig, rate, train
from line import CONFIG, Line


def test_the_caller_hears_of_every_checkpoint(tmp_path):
    heard = []
    average = train(Line(), CONFIG, tmp_path, saved=heard.append)
    assert heard == [average]


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
