"""What an Engine costs and gives: a lone request against the library, and many against one after the other.

    python benchmarks/serve.py --out serve.json

Requests are mixed: three samplers, four numbers of steps, with and without guidance. Both sides decode and upscale.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro

import diffuscope as ds
from diffuscope.evaluate.scores import device_name
from diffuscope.serve import Engine
from diffuscope.weights.store import documents

KINDS: tuple[dict[str, Any], ...] = (
    {"sampler": "dpmpp_2m", "num_inference_steps": 12},
    {"sampler": "euler_ancestral", "num_inference_steps": 16},
    {"sampler": "ddim", "num_inference_steps": 8, "guidance_scale": 1.0},
    {"sampler": "dpmpp_2m", "num_inference_steps": 10, "guidance_scale": 4.0},
)


def seconds(function: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(
    *, model: str = "emoji", device: str = "auto", requests: int = 16, rounds: int = 7, running: int = 8, out: Path
) -> None:
    """Measure, and write JSON.

    Args:
        model: what is served.
        device: auto, cpu, cuda.
        requests: in the mix.
        rounds: of lone requests, alternating between library and engine.
        running: images that run at the same time.
        out: file to write.
    """
    pipe = ds.load(model, device=device)
    mix = [ds.Request(prompt=f"a red fox, number {k}", seed=k, **KINDS[k % len(KINDS)]) for k in range(requests)]
    engine = Engine(pipe, running=running)
    pipe(mix[0])
    engine.submit(mix[0]).result()
    library, served = [], []
    for _ in range(rounds):
        library.append(seconds(lambda: pipe(mix[0])))
        served.append(seconds(lambda: engine.submit(mix[0]).result()))
    one_by_one = seconds(lambda: [pipe(request) for request in mix])
    calls = engine.batcher.calls, engine.batcher.joined

    def all_at_once() -> None:
        for job in [engine.submit(request) for request in mix]:
            job.result()

    together = seconds(all_at_once)
    engine.stop()
    lone = statistics.median(served) / statistics.median(library)
    document = {
        "lone request over the library's, median": lone,
        "one after the other over together": one_by_one / together,
        "seconds": {"library": library, "engine": served, "one by one": one_by_one, "together": together},
        "rows of a call, mean": (engine.batcher.joined - calls[1]) / (engine.batcher.calls - calls[0]),
        "machine": device_name(pipe.device),
        "torch": torch.__version__,
        "command": " ".join(sys.argv),
    }
    documents.write_text(out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
