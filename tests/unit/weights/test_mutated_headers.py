"""Damaged headers, twenty thousand of them: each is read or refused. ``benchmarks/mutated_headers.py`` reads more."""

import runpy
from pathlib import Path

TOOL = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "mutated_headers.py"))
COUNT = 20_000


def test_each_is_read_or_refused_in_bounded_memory(tmp_path: Path) -> None:
    outcomes = TOOL["run"](7, COUNT, tmp_path / "model.safetensors")
    assert outcomes["read"] + outcomes["refused"] == COUNT
    assert outcomes["read"] > COUNT // 100  # some are still sound, so that more than the first check is reached


def test_the_same_seed_gives_the_same_files() -> None:
    assert list(TOOL["mutations"](3, 99)) == list(TOOL["mutations"](3, 99))
    assert list(TOOL["mutations"](3, 99)) != list(TOOL["mutations"](4, 99))
