"""A checkpoint is restored whole, or refused with a WeightsError and nothing changed."""

import json

import pytest
import torch
from torch import nn

from diffuscope.errors import WeightsError
from diffuscope.training import checkpoints
from diffuscope.training.checkpoints import Progress
from diffuscope.training.muon import MuonAdamW
from diffuscope.weights.store import files
from refusals import refused

SETTINGS = {"lr": 0.01, "batch": [2, 4]}


def parts(width=4):
    torch.manual_seed(0)
    network, ema = nn.Linear(width, 3), nn.Linear(width, 3)
    return network, ema, MuonAdamW(network, 1e-2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "checkpoint.safetensors"
    network, ema, optimiser = parts()
    network(torch.ones(2, 4)).sum().backward()
    optimiser.step(1.0)
    checkpoints.save(path, network, ema, optimiser, Progress(7, 1.5), SETTINGS)
    return path, {name: value.clone() for name, value in checkpoints._state(network, ema, optimiser).items()}


def test_it_comes_back_bit_for_bit(saved):
    path, state = saved
    again = parts()
    assert checkpoints.restore(path, *again, SETTINGS) == Progress(7, 1.5)
    found = checkpoints._state(*again)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def damaged(**progress):
    return {"progress": json.dumps({"step": 7, "seconds": 1.5} | progress), "settings": json.dumps(SETTINGS)}


def nothing(state):
    pass


FINE = damaged()
DAMAGES = {
    "a network's tensor is missing": (lambda s: s.pop("network.weight"), FINE),
    "an average is missing": (lambda s: s.pop("ema.bias"), FINE),
    "the optimiser's state is missing": (lambda s: [s.pop(name) for name in [*s] if "optimiser" in name], FINE),
    "a part of it is missing": (lambda s: s.pop("optimiser.weight.momentum"), FINE),
    "another optimiser": (lambda s: s.update({"optimiser.weight.exp_avg": s.pop("optimiser.weight.momentum")}), FINE),
    "a tensor too many": (lambda s: s.update(more=torch.ones(1)), FINE),
    "a name without a slot": (lambda s: s.update({"optimiser.weight": torch.ones(1)}), FINE),
    "another shape": (lambda s: s.update({"network.weight": torch.ones(3, 5)}), FINE),
    "another shape in the optimiser": (lambda s: s.update({"optimiser.weight.momentum": torch.ones(4, 3)}), FINE),
    "another dtype": (lambda s: s.update({"ema.weight": s["ema.weight"].half()}), FINE),
    "weights that are no numbers": (lambda s: s["network.weight"].fill_(torch.nan), FINE),
    "momentum that is infinite": (lambda s: s["optimiser.weight.momentum"].fill_(torch.inf), FINE),
    "no progress": (nothing, {}),
    "progress is no JSON": (nothing, {"progress": "{"}),
    "progress is a list": (nothing, {"progress": "[1, 2]"}),
    "progress lacks the step": (nothing, {"progress": '{"seconds": 1.0}'}),
    "progress has more": (nothing, damaged(epoch=1)),
    "step is NaN": (nothing, damaged(step=float("nan"))),
    "step is negative": (nothing, damaged(step=-5)),
    "step is a text": (nothing, damaged(step="7")),
    "step is true": (nothing, damaged(step=True)),
    "seconds are NaN": (nothing, damaged(seconds=float("nan"))),
    "seconds are infinite": (nothing, damaged(seconds=float("inf"))),
    "seconds are negative": (nothing, damaged(seconds=-1.0)),
    "no settings": (nothing, {"progress": FINE["progress"]}),
    "settings are no JSON": (nothing, FINE | {"settings": "{"}),
    "settings are a list": (nothing, FINE | {"settings": "[1]"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_refused_and_nothing_changes(saved, tmp_path, damage):
    change, metadata = DAMAGES[damage]
    state = {name: value.clone() for name, value in saved[1].items()}
    change(state)
    path = tmp_path / "checkpoint.safetensors"
    files.write(path, state, metadata)
    again = parts()
    before = {name: value.clone() for name, value in checkpoints._state(*again).items()}
    with pytest.raises(WeightsError, match=r"is no checkpoint of this run: .*; give another folder"):
        checkpoints.restore(path, *again, SETTINGS)
    assert all(torch.equal(value, before[name]) for name, value in checkpoints._state(*again).items())


def test_another_architecture_is_refused(saved):
    with pytest.raises(WeightsError, match=r"network.weight' is F32 \[3, 4\], expected torch.float32 \[3, 6\]"):
        checkpoints.restore(saved[0], *parts(6), SETTINGS)


@pytest.mark.parametrize("other", [{"lr": 0.02, "batch": [2, 4]}, {"lr": 0.01}, SETTINGS | {"seed": 1}])
def test_other_settings_are_refused_by_name(saved, other):
    (name,) = (each for each in (*SETTINGS, "seed") if SETTINGS.get(each) != other.get(each))
    with refused(name, other.get(name)):
        checkpoints.restore(saved[0], *parts(), other)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_ends_early_is_refused(saved, tmp_path, share):
    path = tmp_path / "checkpoint.safetensors"
    content = saved[0].read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError):
        checkpoints.restore(path, *parts(), SETTINGS)
