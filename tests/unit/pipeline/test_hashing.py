"""The weights' hashes, made beside the first run."""

import threading
from collections.abc import Mapping

import pytest
from torch import Tensor

from diffuscope.pipeline import Pipeline, hashing
from diffuscope.pipeline.receipt import weights_hash


def test_the_hashes_are_those_of_the_weights_when_it_began(tiny: Pipeline) -> None:
    began = hashing.Hashing(tiny.adapters)
    assert began.daemon
    expected = {name: weights_hash(network.state_dict()) for name, network in tiny.components.networks.items()}
    assert began.result() == expected == tiny.weights
    assert began.result() == began.result()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_fails_costs_time_only(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(tensors: Mapping[str, Tensor]) -> str:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("CUDA error")
        return weights_hash(tensors)

    monkeypatch.setattr(hashing, "weights_hash", failing)
    assert hashing.Hashing(tiny.adapters).result() == tiny.weights
