"""What an error's sentence is made of stays short, whatever a stranger's file says."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import diffuscope as ds
from diffuscope.errors import DiffuscopeError, InputError, OutOfMemoryError, is_out_of_memory, nearest
from refusals import refused


def test_a_name_of_five_megabytes_is_compared_with_none() -> None:
    assert nearest("euller", ["euler", "heun"]) == "Did you mean 'euler'?"
    assert nearest("e" * 5_000_000, ["euler"]) == ""
    assert nearest("euler", ["e" * 5_000_000]) == ""


def test_a_sampler_of_five_megabytes_is_refused_in_a_line(tiny: ds.Pipeline) -> None:
    with refused("sampler") as caught:
        tiny.steps("a fox", sampler="x" * 5_000_000)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("error", [OutOfMemoryError("sampling", "cpu", "Ask for less."), InputError("width", 33, "8")])
def test_an_error_of_another_process_says_the_same(error: DiffuscopeError) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)


MEMORY = (
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ValueError("DefaultCPUAllocator: can't allocate memory"),  # from einsum
    RuntimeError("could not create a primitive"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
)
"""As Python, torch and oneDNN say it under a real limit of a process's memory."""


def test_all_ways_to_say_that_memory_is_exhausted_are_known() -> None:
    assert all(map(is_out_of_memory, MEMORY))
    others = [
        OutOfMemoryError("sampling", "cpu", ""),  # told already
        RuntimeError("could not create a primitive descriptor for the convolution forward propagation primitive"),
        ValueError("shape"),
    ]
    assert not any(map(is_out_of_memory, others))


LONG = "x" * 1_000_000
FILES = {
    "a name of no kind": {LONG: torch.ones(1)},
    "a name in the U-Net": {f"model.diffusion_model.{LONG}.weight": torch.ones(1)},
    "a ControlNet of a long name": {f"control_model.{LONG}": torch.ones(1)},
    "vectors of a long name": {LONG: torch.ones(2, 768)},
}


@pytest.mark.parametrize("name", FILES)
def test_a_tensor_of_a_long_name_is_refused_on_one_screen(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file(FILES[name], path)
    with pytest.raises(DiffuscopeError) as caught:
        ds.load(path)
    assert len(str(caught.value)) < 2000


def test_a_network_with_a_tensor_of_a_long_name(folder: Path) -> None:
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {f"{LONG}.weight": torch.ones(1)}, path)
    with pytest.raises(DiffuscopeError) as caught:
        ds.load(folder)
    assert len(str(caught.value)) < 2000
