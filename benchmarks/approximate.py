"""What the approximate modes gain and cost: seconds, and PSNR against the exact call; and merging in SD 1.5's size.

    python benchmarks/approximate.py --out benchmarks/results/approximate.json

The pictures are those of the preset, without upscaling, in one call for each mode. Seconds are of the processor on a
CPU, of the clock elsewhere. The first part is one transformer of the finest stage of Stable Diffusion 1.5 at 512x512
with guidance and random weights: its self-attention alone is merged, and it is there five times.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import diffuscope as ds
from diffuscope import loading
from diffuscope.bench import measure, report
from diffuscope.bench.timing import Report, Timer
from diffuscope.config import FAMILIES
from diffuscope.images import to_pixels
from diffuscope.models.unet import UNet
from diffuscope.nn.blocks import Transformer
from diffuscope.perf.ops import Map, channels_last
from diffuscope.perf.unet import FastUNet
from diffuscope.perf.weights import modules
from diffuscope.weights.store.documents import write_text

PROMPTS = ["a red fox", "a green pear on a blue background", "a rocket", "a yellow cat"]

MODES: list[dict[str, object]] = [
    {"step_caching": 2},
    {"step_caching": 3},
    {"step_caching": 5},
    {"guidance_options": {"interval": (0.5, 10)}},
    {"token_merging": 0.25},
    {"token_merging": 0.5},
    {"token_merging": 0.75},
    {"token_merging": 0.5, "step_caching": 2},
]


def psnr(found: Tensor, exact: Tensor) -> float:
    """In dB, of pixels in [-1,1]."""
    return round(-10 * math.log10(max(float(((found - exact) / 2).square().mean()), 1e-12)), 1)


def modes(pipe: ds.Pipeline, steps: int | None) -> list[Report]:
    """Seconds of a picture and PSNR of each."""
    clock = time.process_time if pipe.device.type == "cpu" else time.perf_counter

    def call(**options: object) -> tuple[float, Tensor]:
        start = clock()
        result = pipe(PROMPTS, seed=[0, 1, 2, 3], upscale=1, num_inference_steps=steps, **options)  # type: ignore[arg-type]
        return (clock() - start) / len(PROMPTS), to_pixels(result.images)

    call()
    seconds, exact = call()
    found: list[Report] = [{"mode": {}, "s": round(seconds, 3)}]
    if not pipe.engine.runs(pipe.unet, None):  # what approximates is the fast twin
        pipe.engine.wanted = True
        call()
        seconds, pixels = call()
        found.append({"mode": {}, "fast": True, "s": round(seconds, 3), "psnr": list(map(psnr, pixels, exact))})
        pipe.engine.wanted = None
    for mode in MODES:
        if pipe.device.type != "cpu":
            call(**mode)  # loads and compiles
        seconds, pixels = call(**mode)
        found.append({"mode": mode, "s": round(seconds, 3), "psnr": list(map(psnr, pixels, exact))})
        print(found[-1], flush=True)
    return found


@torch.no_grad()
def transformer(timer: Timer, dtype: torch.dtype) -> Report:
    """Milliseconds of one transformer of the finest stage, by the share of tokens that are merged."""
    config = FAMILIES["sd15"].unet
    twin = FastUNet(measure.made(UNet, config, timer.device, dtype))
    (network, *_) = modules(twin.down[0].attn, Transformer)
    x = channels_last(torch.randn(2, config.channels[0], 64, 64).to(timer.device, dtype))
    prompt = twin.read(torch.randn(2, 77, config.context_dim).to(timer.device, dtype), None)
    text = twin.texts(prompt)[0]

    def run(share: float) -> object:
        return twin._transformer(network, Map(x), iter([text]), share)

    calls: dict[float, Callable[[], object]] = {share: partial(run, share) for share in (0.0, 0.25, 0.5, 0.75)}
    return {f"{share:g}": timer.timed(call) for share, call in calls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the approximate modes.")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--steps", type=int, help="the preset's by default")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    device = loading.choose_device(asked.device)
    dtype = loading.choose_dtype(asked.dtype, device)
    document = report.head(device, dtype, report.this_command())
    document["transformer of SD 1.5, ms"] = transformer(Timer(device, 1.0), dtype)
    print(document["transformer of SD 1.5, ms"], flush=True)
    pipe = ds.load(asked.model, device=device, dtype=dtype)
    document["pictures"] = modes(pipe, asked.steps)
    write_text(asked.out, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
