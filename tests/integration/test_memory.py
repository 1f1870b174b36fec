"""Memory that is really short: child processes that may take some more, at limits from nothing to plenty."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffuscope.config import PRESETS
from diffuscope.errors import OutOfMemoryError
from lora_files import kohya, layers
from narrow import random_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no limit of a process's addresses")

LIMITS = (0, 4, 12, 32, 96)
"""MiB more than the process has."""

TESTS = str(Path(__file__).parents[1])
SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from integration.test_memory import report
report({folder!r})
"""
"""A process of its own, of one thread: one that has several cannot be forked."""


def report(folder: str) -> None:
    """Print how a call and the loading of a LoRA end at each limit."""
    torch.set_num_threads(1)
    pipe, file = random_model(PRESETS["tiny"]), Path(folder) / "lora.safetensors"
    save_file(kohya(layers(pipe)), file)
    pipe.load_lora(file)  # what torch imports to read one is no part of this
    pipe.unload_lora()
    plain = pipe("fox", seed=2, num_inference_steps=1).latents

    def call() -> None:
        (image,) = pipe("fox", seed=1, width=96, height=96, num_inference_steps=1, upscale=4).images
        assert len(image.getcolors(1 << 20)) > 1000

    def is_sound() -> bool:
        pipe.unload_lora()
        return torch.equal(pipe("fox", seed=2, num_inference_steps=1).latents, plain)

    works: tuple[Callable[[], object], ...] = (call, lambda: pipe.load_lora(file))
    sys.stdout.write(json.dumps([[_within(more, work, is_sound) for more in LIMITS] for work in works]))


def _within(more: int, work: Callable[[], object], is_sound: Callable[[], bool]) -> str:
    """How ``work`` ends in a child process that may take ``more`` MiB, and whether all is as before."""
    import resource

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + (more << 20), hard))
        try:
            work()
            said = "done"
        except OutOfMemoryError as error:
            said = error.phase
        except BaseException as error:
            said = f"{more} MiB: {type(error).__name__}: {error}"
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        try:
            said += "" if is_sound() else ", and then other numbers"
        except BaseException as error:
            said += f", and then {error!r}"
        os.write(write, said.encode()[:4000])
        os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as answer:  # noqa: PTH123
        said = answer.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.slow
def test_it_ends_in_a_result_or_in_its_error_and_leaves_all_as_it_was(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT.format(tests=TESTS, folder=str(tmp_path))]
    run = subprocess.run(command, check=True, timeout=600, capture_output=True, text=True)
    call, lora = json.loads(run.stdout)
    assert {*call} <= {"done", "encoding the prompt", "sampling", "decoding", "upscaling"}
    assert {*lora} <= {"done", "loading the LoRA", "merging LoRAs"}
    for said in (call, lora):
        assert said[0] != "done"
        assert said[-1] == "done"
