"""Where a step's time goes on a CUDA device: its kernels, attention by each backend, and the step without single parts;
and what its linear layers would take in 8-bit floats.

python benchmarks/step_kernels.py --out kernels.json
"""

import argparse
import cProfile
import io
import json
import math
import pstats
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from diffuscope.bench import measure, report
from diffuscope.bench.timing import Call, Report, Timer
from diffuscope.config import FAMILIES, PRESETS
from diffuscope.models.unet import UNet
from diffuscope.perf import tokens
from diffuscope.perf.engine import Engine
from diffuscope.weights.store.documents import write_text

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TRIED = DEVICE.type == "cpu"
HALF = torch.float32 if TRIED else torch.float16
SHAPES = {
    "sd15": [(2, 8, 40, 4096), (2, 8, 80, 1024), (2, 8, 160, 256), (2, 8, 160, 64)],
    "sdxl": [(2, 10, 64, 4096), (2, 20, 64, 1024)],
}
"""Rows, heads, head width, tokens of the self-attentions of a guided step; the cross-attentions have 77 keys."""
LINEAR = {
    "sd15": [
        (8192, 320, 960), (8192, 320, 2560), (8192, 1280, 320), (2048, 640, 1920), (2048, 640, 5120), (2048, 2560, 640),
        (512, 1280, 3840), (512, 1280, 10240), (512, 5120, 1280),
    ],
    "sdxl": [
        (8192, 640, 1920), (8192, 640, 5120), (8192, 2560, 640), (2048, 1280, 3840), (2048, 1280, 10240),
        (2048, 5120, 1280),
    ],
}  # fmt: skip
"""Tokens, inputs and outputs of the joined projections, and of the two layers of the feed-forward part."""
SMALL = torch.float8_e4m3fn
LARGEST = torch.finfo(SMALL).max
BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)


@torch.no_grad()
def attention(timer: Timer) -> Report:
    """Microseconds of each attention by each backend, by torch's own choice, and as the twins make it."""
    found: Report = {}
    for family, shapes in SHAPES.items():
        for rows, heads, width, count in shapes[-1:] if TRIED else shapes:
            for keys in (count, 77):
                q = torch.randn(rows, count, heads, width, device=DEVICE, dtype=HALF).transpose(1, 2)
                k, v = (
                    torch.randn(rows, keys, heads, width, device=DEVICE, dtype=HALF).transpose(1, 2) for _ in range(2)
                )

                def call(q: Any = q, k: Any = k, v: Any = v) -> object:
                    return F.scaled_dot_product_attention(q, k, v)

                row = {"chosen": round(timer.timed(call)["ms"] * 1e3, 1)}
                row["here"] = round(timer.timed(partial(tokens.attention, q, k, v))["ms"] * 1e3, 1)
                for backend in () if TRIED else BACKENDS:
                    try:
                        with sdpa_kernel(backend):
                            row[backend.name] = round(timer.timed(call)["ms"] * 1e3, 1)
                    except RuntimeError as error:
                        row[backend.name] = str(error).splitlines()[0][:80]
                found[f"{family}: {rows}x{heads} heads of {width}, {count} to {keys}"] = row
    return found


def recorded(call: Call) -> Call:
    """Ten calls, on a GPU as one CUDA graph, so that the host's time does not count."""
    if TRIED:
        return lambda: [call() for _ in range(10)]
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            call()
    return graph.replay


@torch.no_grad()
def eight_bits(timer: Timer) -> Report:
    """Microseconds of linear layers in half precision and in 8-bit floats, of rounding their input, and the errors.

    One scale a tensor, or one for each row of the input and of the weight, whose result torch has in bfloat16 only.
    """
    found: Report = {}
    for family, shapes in LINEAR.items():
        for rows, inputs, outputs in [(64, 32, 96)] if TRIED else shapes:
            x = torch.randn(rows, inputs, device=DEVICE, dtype=HALF)
            weight = torch.randn(outputs, inputs, device=DEVICE, dtype=HALF) * inputs**-0.5
            with measure.full_precision():
                exact = F.linear(x.float(), weight.float()).double()
            calls: dict[str, Callable[[], torch.Tensor]] = {"half": partial(F.linear, x, weight)}
            for name, dims, dtype in (("tensor", (0, 1), HALF), ("rows", (1,), torch.bfloat16)):
                scales = [each.float().abs().amax(dims, keepdim=True) / LARGEST for each in (x, weight)]
                a, b = ((each / scale).to(SMALL) for each, scale in zip((x, weight), scales, strict=True))
                both = (scales[0], scales[1].T) if name == "rows" else [each.squeeze() for each in scales]
                calls[f"product, {name}"] = partial(
                    torch._scaled_mm, a, b.T, *both, out_dtype=dtype, use_fast_accum=not TRIED
                )
            factor = torch.tensor(1 / 50, device=DEVICE, dtype=HALF)
            calls["rounding with a known scale"] = lambda x=x, factor=factor: (x * factor).to(SMALL)
            calls["rounding by rows"] = lambda x=x: (x * (LARGEST / x.abs().amax(1, keepdim=True))).to(SMALL)
            row: Report = {}
            for name, call in calls.items():
                try:
                    row[name] = {"us": round(timer.timed(recorded(call))["ms"] * 100, 1)}
                    if "rounding" not in name:
                        row[name]["error"] = measure.relative(call(), exact)
                except (RuntimeError, ValueError, NotImplementedError) as error:
                    row[name] = {"failed": str(error).splitlines()[0][:120]}
            found[f"{family}: {rows}x{inputs} to {outputs}"] = row
    return found


@torch.no_grad()
def step(timer: Timer, family: str) -> Report:
    """The fast step as it is and without single parts, and the time of its kernels by name."""
    config = PRESETS["tiny-sd15"] if TRIED else FAMILIES[family]
    unet = measure.made(UNet, config.unet, DEVICE, HALF)
    side = 64 if family == "sd15" else 128
    side = 8 if TRIED else side
    x = torch.randn(1, 4, side, side, device=DEVICE, dtype=HALF)
    x, when = torch.cat([x, x]), torch.tensor(501.0)
    context = torch.randn(2, 77, config.unet.context_dim, device=DEVICE, dtype=HALF)
    extra = measure.extra_inputs(unet, config, (8 * side, 8 * side), 2, torch.Generator().manual_seed(0), DEVICE, HALF)
    found: Report = {}

    def timed(name: str, **patched: object) -> None:
        kept = {key: getattr(tokens, key) for key in patched}
        for key, value in patched.items():
            setattr(tokens, key, value)
        predict = Engine(True).predictor(unet, context, extra, pairs=True)
        found[name] = timer.timed(lambda: predict(x, when))
        for key, value in kept.items():
            setattr(tokens, key, value)

    timed("as it is")
    timed("the gate after its product", MANY=math.inf)
    timed("attention by torch alone", SHORT=0)
    timed("as it is, again")
    predict = Engine(True).predictor(unet, context, extra, pairs=True)
    for _ in range(3):
        predict(x, when)
    activities = [ProfilerActivity.CPU] if TRIED else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities) as seen:
        for _ in range(5):
            predict(x, when)
        timer.wait()
    kernels: dict[str, list[float]] = defaultdict(list)
    for event in seen.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kernels[event.name].append(event.time_range.elapsed_us())
    rows = sorted(((sum(times) / 5, len(times) // 5, name[:110]) for name, times in kernels.items()), reverse=True)
    found["kernels: us a step, number, name"] = [[round(us, 1), count, name] for us, count, name in rows[:45]]
    found["kernels in all"] = [round(sum(us for us, _, _ in rows), 1), sum(count for _, count, _ in rows)]
    return found


def host() -> Report:
    """What the host does in one warm call of 50 steps."""
    config = PRESETS["tiny-sd15"] if TRIED else FAMILIES["sd15"]
    pipe = measure.random_model(config, DEVICE, HALF)
    options = {"num_inference_steps": 2 if TRIED else 50, "sampler": "euler", "seed": 1}
    times = []
    for k in range(4):
        start = time.perf_counter()
        pipe(f"a red fox, number {k}", **options)
        times.append(round(time.perf_counter() - start, 4))
    marks: Report = {}
    start = time.perf_counter()

    def mark(name: str) -> None:
        if not TRIED:
            torch.cuda.synchronize()
        marks[name] = round(time.perf_counter() - start, 4)

    run = pipe.steps("a blue fox", **options)
    mark("begun")
    for step in run:
        if step.index == 0:
            mark("first step")
    mark("steps")
    run.result()
    mark("result")
    profiler = cProfile.Profile()
    profiler.runcall(pipe, "a green fox", **options)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("cumulative").print_stats(45)
    return {"calls": times, "marks": marks, "profile": text.getvalue().splitlines()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Show where a step's time goes.")
    parser.add_argument("--only", nargs="*", default=[], help="parts: step, host, attention, 8-bit floats")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    timer = Timer(DEVICE, 0.01 if TRIED else 0.5)
    document = report.head(DEVICE, HALF, report.this_command())
    parts = {
        "step": lambda: step(timer, "sd15"),
        "host": host,
        "attention": lambda: attention(timer),
        "8-bit floats": lambda: eight_bits(timer),
    }

    def keep(found: Report) -> None:
        write_text(asked.out, json.dumps(document | {"measured": found}, indent=1) + "\n")

    parts = {name: part for name, part in parts.items() if not asked.only or name in asked.only}
    measure.measured(parts, timer, lambda name: print(name, flush=True), keep)


if __name__ == "__main__":
    main()
