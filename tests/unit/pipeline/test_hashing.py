"""The weights' hashes, made beside the first run."""

import threading
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from diffuscope.pipeline import Pipeline, hashing
from diffuscope.pipeline.receipt import weights_hash


def test_the_hashes_are_those_of_the_weights_when_it_began(tiny: Pipeline) -> None:
    networks = {"unet": dict(tiny.unet.state_dict()), "vae": dict(tiny.vae.state_dict())}
    began = hashing.Hashing(networks)
    assert began.daemon
    assert began.result() == {name: tiny.weights[name] for name in networks}
    assert began.result() == began.result()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_fails_costs_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(tensors: Mapping[str, Tensor]) -> str:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("CUDA error")
        return weights_hash(tensors)

    monkeypatch.setattr(hashing, "weights_hash", failing)
    tensors = {"w": torch.arange(3.0)}
    assert hashing.Hashing({"unet": tensors}).result() == {"unet": weights_hash(tensors)}
