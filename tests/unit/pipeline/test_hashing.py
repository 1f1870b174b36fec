"""The weights' hashes, made beside the first run."""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import diffuscope as ds
from diffuscope import loading
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.hashing import Hashing
from diffuscope.weights.store import hashing, host
from diffuscope.weights.store.hashing import weights_hash


def test_the_hashes_are_those_of_the_weights_when_it_began(tiny: Pipeline) -> None:
    began = Hashing(tiny.adapters, {}).begin()
    assert [each.daemon for each in began._threads.values()] == [True] * len(tiny.components.networks)
    expected = {name: weights_hash(network.state_dict()) for name, network in tiny.components.networks.items()}
    assert began.result() == expected == tiny.weights
    assert began.result() == began.result()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_fails_costs_time_only(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(tensors: Mapping[str, Tensor], *others: Any) -> str:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("CUDA error")
        return weights_hash(tensors, *others)

    monkeypatch.setattr(hashing, "weights_hash", failing)
    assert Hashing(tiny.adapters, {}).begin().result() == tiny.weights


def test_python_may_end_while_a_hash_is_made() -> None:
    code = """
import torch
from diffuscope.weights.store.hashing import Hash
Hash({str(k): torch.ones(16) for k in range(50_000)})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_several_threads_make_the_same_hash_and_each_number_counts(tiny: Pipeline) -> None:
    tensors = tiny.unet.state_dict()
    first, name = weights_hash(tensors), "conv_in.weight"
    assert {weights_hash(tensors, threads=threads) for threads in (2, 3, 8)} == {first}
    for changed in (tensors[name].flip(0), tensors[name].half(), tensors[name].flatten()):
        assert weights_hash(tensors | {name: changed}, threads=3) != first
    assert weights_hash({name.replace("in", "out"): tensors[name]}) != weights_hash({name: tensors[name]})


@pytest.mark.parametrize("layout", ["diffusers", "own", "single"])
def test_files_are_hashed_beside_their_reading_unless_something_changed(
    layout: Literal["diffusers", "own", "single"], tiny: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a GPU, whose weights have the dtype of their files."""
    path = tiny.save(tmp_path / ("model.safetensors" if layout == "single" else "model"), layout)
    monkeypatch.setattr(loading, "HASHED_EARLY", ("cpu",))
    pipe = ds.load(path)
    assert Hashing(pipe.adapters, pipe.components.hashes).known.keys() == pipe.components.networks.keys()
    assert pipe.weights == tiny.weights == pipe("a fox", num_inference_steps=1).receipt["weights"]
    with torch.no_grad():
        pipe.vae.decoder.conv_in.bias.add_(1)
    assert "vae" not in Hashing(pipe.adapters, pipe.components.hashes).known
    assert Hashing(pipe.adapters, pipe.components.hashes).begin().result()["unet"] == tiny.weights["unet"]
    for file in pipe.components.files:
        os.utime(file, (1, 1))
    assert Hashing(pipe.adapters, pipe.components.hashes).known == {}
    half = ds.load(path, dtype="bfloat16")
    expected = {name: weights_hash(network.state_dict()) for name, network in half.components.networks.items()}
    assert {name: each.result() for name, each in half.components.hashes.items()} == expected == half.weights


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
