"""``verify`` runs on any model; of the published numbers only SD 1's text encoder can give an account."""

import re
from pathlib import Path

import torch

from diffuscope.cli import main
from diffuscope.cli.verify import ROWS, TOLERANCE, Finite, distance
from diffuscope.pipeline import Pipeline


def test_it_reports_and_paints(tiny: Pipeline, tmp_path: Path, capsys) -> None:
    path = tiny.save(tmp_path / "model.safetensors", layout="single")
    assert main(["verify", str(path), "--out", str(tmp_path / "out"), "--steps", "2", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"opens {path} as tiny, epsilon prediction" in said
    assert tiny.weights["unet"][:16] in said
    assert "the tokens of 'A picture of a puppy' are the published ones" in said
    assert "no published numbers" in said
    assert re.search(r"all of [\d,]+ numbers are finite in float16", said)
    assert {picture.name for picture in (tmp_path / "out").iterdir()} == {"otter.png", "puppy.png"}


def test_published_rows_are_told_from_others() -> None:
    states = torch.zeros(77, 768)
    for row, (first, last) in enumerate(ROWS):
        states[row, :3], states[row, -3:] = torch.tensor(first), torch.tensor(last)
    assert distance(states) < TOLERANCE
    states[2, -1] += 0.01
    assert abs(distance(states) - 0.01) < TOLERANCE


def test_numbers_that_overflow_are_counted_by_name() -> None:
    tap = Finite()
    tap("unet.conv_out", torch.tensor([1.0, float("inf"), float("nan")]))
    tap("unet.x", torch.ones(2))
    assert tap.values == 5
    assert tap.broken == {"unet.conv_out": 2}
    assert not tap.wants("unet.mid.attn.0.block.0.self_attn.weights")


def test_a_mistake_is_one_line(capsys, tmp_path: Path) -> None:
    assert main(["verify", str(tmp_path / "gone.safetensors"), "--out", str(tmp_path / "out")]) == 2
    assert "gone.safetensors" in capsys.readouterr().err
