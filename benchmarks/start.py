"""From the start of a process to its first images, part by part, for a folder in the size of a family.

    python benchmarks/start.py --family sd15 --out start.json

A folder with random weights in float16 is written first. Then processes open it, each a fresh one, and make two images:
the first with an empty cache of kernels, the others with a full one, and at last one with another empty cache, when the
libraries' files are in memory. Times are seconds since the process was started, by the host's clock after the device
has done its work. Then, of the shipped model, the same, and whole
processes from their start to their end: ``diffuscope generate``, and Python that opens it.
"""

import argparse
import compileall
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from diffuscope import loading
from diffuscope.bench import measure, report
from diffuscope.config import PRESETS
from diffuscope.weights.store.documents import write_text

CHILD = """
import json, sys, time
start, model, device, steps = float(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
found = {}
def mark(name):
    if "torch" in sys.modules and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    found[name] = round(time.time() - start, 3)
mark("python")
import torch
mark("torch")
import diffuscope as ds
from diffuscope.pipeline import Pipeline
mark("diffuscope")
torch.cuda.is_available() and torch.cuda.init()
mark("device")
pipe = ds.load(model, device=device)
mark("opened")
for image in ("first", "second"):
    run = pipe.steps("a red fox", seed=1, num_inference_steps=steps)
    mark(f"{image}: prompt encoded")
    for step in run:
        if step.index in (0, 1, steps - 1):
            mark(f"{image}: step {step.index + 1}")
    pipe.weights
    mark(f"{image}: weights hashed")
    result = run.result()
    mark(f"{image}: decoded")
    if image == "first":
        result.save(sys.argv[5], overwrite=True)
        mark("first: written")
print(json.dumps({"seconds": found, "notes": result.receipt["notes"]}))
"""

PROFILED = """
import cProfile, io, json, pstats, sys
import torch
import diffuscope as ds
pipe, found = ds.load(sys.argv[2], device=sys.argv[3]), {}
def profiled(name, call):
    profiler, text = cProfile.Profile(), io.StringIO()
    result = profiler.runcall(lambda: (call(), torch.cuda.is_available() and torch.cuda.synchronize())[0])
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(25)
    found[name] = [line.strip() for line in text.getvalue().splitlines() if line.strip()]
    return result
run = profiled("prompt", lambda: pipe.steps("a red fox", seed=1, num_inference_steps=int(sys.argv[4])))
profiled("first step", lambda: next(run))
profiled("second step", lambda: next(run))
profiled("rest", run.result)
print(json.dumps(found))
"""
"""Where the host's time goes in a first call, in a process of its own, since profiling takes time."""


def whole(folder: str, device: str, repeats: int, environment: Mapping[str, str]) -> dict[str, object]:
    """Seconds of processes with the shipped model; of each kind the first is the first with these kernels."""
    opening = f"import diffuscope as ds; ds.load('emoji', device={device!r})"
    generate = ["-m", "diffuscope", "generate", "a red fox", "--seed", "1", "--quiet", "--device", device]
    found: dict[str, object] = {}
    for name, command in (("generate emoji, to the PNG", generate), ("import, and load emoji", ["-c", opening])):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False, env=environment
            )
            times.append(round(time.perf_counter() - start, 2))
            if done.returncode != 0:
                found["failed"] = done.stderr[-2000:]
        found[name] = times
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a process from its start to its first images.")
    parser.add_argument("--family", default="sd15")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    compileall.compile_dir(Path(loading.__file__).parent, quiet=1)  # as pip does when it installs
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        device = loading.choose_device(asked.device)
        half = torch.float16 if device.type == "cuda" else torch.float32
        start = time.perf_counter()
        measure.random_model(PRESETS[asked.family], device, half).save(folder, "diffusers")
        document = report.head(device, half, report.this_command())
        document["folder written in"] = round(time.perf_counter() - start, 1)
        environment = os.environ | {"TRITON_CACHE_DIR": f"{place}/triton"}
        empty = os.environ | {"TRITON_CACHE_DIR": f"{place}/another"}
        image = f"{place}/out.png"

        def child(code: str, model: str, steps: int, environment: Mapping[str, str] = environment) -> dict[str, object]:
            arguments = (str(time.time()), model, asked.device, str(steps), image)
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=environment
            )
            lines = done.stdout.strip().splitlines()
            report = json.loads(lines[-1]) if done.returncode == 0 else {"failed": done.stderr[-2000:]}
            return report | {"process ended after": round(time.time() - float(arguments[0]), 3)}

        document["processes"] = [child(CHILD, str(folder), asked.steps) for _ in range(asked.processes)]
        document["process with an empty cache of kernels"] = child(CHILD, str(folder), asked.steps, empty)
        document["profile of a first call"] = child(PROFILED, str(folder), asked.steps)
        document["processes of emoji"] = [child(CHILD, "emoji", 12) for _ in range(asked.processes)]
        document["emoji, s"] = whole(place, asked.device, max(2, asked.processes), environment)
    write_text(asked.out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
