"""Damaged files, twenty thousand of them: each is read or refused. ``benchmarks/mutated_headers.py`` reads more."""

import contextlib
import runpy
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuscope.errors import WeightsError
from diffuscope.weights.store import files

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "mutated_headers.py"))
COUNT = 20_000


def test_each_is_read_or_refused_in_bounded_memory(tmp_path: Path) -> None:
    outcomes = TOOL["run"](7, COUNT, tmp_path / "model.safetensors")
    assert outcomes["read"] + outcomes["refused"] == COUNT
    assert outcomes["read"] > COUNT // 100  # some are still sound, so that more than the first check is reached


def test_the_same_seed_gives_the_same_files() -> None:
    assert list(TOOL["mutations"](3, 99)) == list(TOOL["mutations"](3, 99))
    assert list(TOOL["mutations"](3, 99)) != list(TOOL["mutations"](4, 99))


@settings(max_examples=200)
@given(position=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 400))
def test_any_damage_is_read_as_it_stands_or_refused(tmp_path, position, value, cut):
    """One byte changed or the end cut off: a WeightsError or some tensors, nothing else."""
    path = tmp_path / "a.safetensors"
    files.write(path, {"a": torch.ones(3, 4), "b": torch.ones(5, dtype=torch.int8)}, {"k": "v"})
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content[: len(content) - cut % len(content)])
    with contextlib.suppress(WeightsError):
        assert files.read(path).keys()
