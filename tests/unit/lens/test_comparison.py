"""Where two runs part: at the step of a branch, at a bit, or where one of them ends."""

import pytest
import torch

from diffuscope.lens.comparison import compare
from diffuscope.pipeline import Pipeline
from refusals import refused


def test_a_branch_parts_from_its_run_where_it_left(tiny: Pipeline) -> None:
    run = tiny.steps("a fox", seed=1, sampler="heun")
    run.result()
    other = run.branch(2, prompt="a hen")
    other.result()
    found = compare(run, other)
    assert found.first == 2
    assert [distance > 0 for distance in found.distances] == [False, False, True, True]
    assert all(largest >= distance for largest, distance in zip(found.largest, found.distances, strict=True))
    same = run.branch(2)
    same.result()
    assert compare(run, same).first is None


def test_one_bit_and_a_missing_step() -> None:
    steps = [torch.ones(1, 4, 2, 2) for _ in range(3)]
    changed = [step.clone() for step in steps]
    changed[1][0, 0, 0, 0] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert compare(steps, changed).first == 1
    assert compare(steps, changed).largest[1] == pytest.approx(2**-23)
    assert compare(steps, steps[:2]).first == 2
    assert compare(steps, steps).distances == (0.0, 0.0, 0.0)


def test_what_cannot_be_compared(tiny: Pipeline) -> None:
    with refused("left"):
        compare(tiny.steps("a fox", seed=1), [])
    with refused("right"):
        compare([torch.zeros(1, 4, 2, 2)], [torch.zeros(1, 4, 2, 3)])
    run = tiny.steps("a fox", seed=1)
    run.answers.budget = 1
    run.result()
    with refused("left"):
        compare(run, run)
