"""The weights' hashes, made beside the first run."""

import threading
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from diffuscope.pipeline import Pipeline, hashing
from diffuscope.pipeline.hashing import weights_hash
from diffuscope.weights.store import host


def test_the_hashes_are_those_of_the_weights_when_it_began(tiny: Pipeline) -> None:
    began = hashing.Hashing(tiny.adapters)
    assert [each.daemon for each in began._threads.values()] == [True] * len(tiny.components.networks)
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


@pytest.mark.parametrize("shape", [(), (0,), (7,), (5, 3), (6, 4, 3, 3), (1, 500)])
def test_bytes_in_pieces_through_two_buffers(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """As they come from a GPU, whose convolutions lie channels-last."""
    monkeypatch.setattr(host, "PIECE", 100)
    reader = host.Host()
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        if tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        found = b"".join(map(bytes, reader.staged(tensor)))
        assert found == b"".join(map(bytes, reader.pieces(tensor)))
        assert found == tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
