"""Time networks and whole calls on a CUDA device, beside diffusers in the same run; write JSON and tables.

python benchmarks/gpu.py --out benchmarks/results/gpu.json docs/reference/gpu-speed.md
python benchmarks/gpu.py --only "SD 1.5" --compile sd15  # the peer by torch.compile too, which takes minutes
python benchmarks/gpu.py --read pair.json --mark pair docs/reference/gpu-speed.md  # tables of an earlier run

Weights are random, of the real shapes and in float16; ``emoji`` is in bfloat16. What is measured and how is that of
``diffuscope bench`` (``diffuscope.bench``), for several families in one run. Where there are two GPUs, one image on
both of them (``second_device``) is timed beside one image on one, and the steps of one row alone, without guidance.
Documents get tables between ``<!-- gpu -->`` and ``<!-- /gpu -->``, or another mark; a part that fails is named in
the JSON, and the others go on.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from diffuscope.bench import measure, report
from diffuscope.bench.timing import Report, Timer
from diffuscope.config import EMOJI, FAMILIES, PRESETS
from diffuscope.images import to_pixels
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline
from diffuscope.request import Request
from diffuscope.weights.store.documents import write_text

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TRIED = DEVICE.type == "cpu"
"""Without a GPU the script runs narrow models once, to see that it works; its numbers mean nothing."""

SECOND = torch.device("cpu") if TRIED else torch.device("cuda:1") if torch.cuda.device_count() > 1 else None


def on_two(pipe: Pipeline, request: Request, timer: Timer) -> Report:
    """Seconds of an image on one GPU and on two, of all of it and of its steps alone; how far the two images differ."""
    report: Report = {}
    found: list[list[torch.Tensor]] = []

    def step_ms(each: Pipeline, request: Request) -> float:
        runs = [each.steps(request) for _ in range(3)]
        return round(
            1e3 * statistics.median(timer.once(lambda run=run: [None for _ in run]) / len(run) for run in runs), 3
        )

    alone = replace(request, guidance_scale=1.0)
    pipe(alone)
    report["one row on one GPU"] = {"step_ms": step_ms(pipe, alone)}
    for name, each in (("one GPU", pipe), ("two GPUs", Pipeline(pipe.components, fast=True, second_device=SECOND))):
        report[name] = timer.whole(lambda each=each: each(request))
        report[name]["step_ms"] = step_ms(each, request)
        result = each(request)
        found.append([next(each.steps(request)).x.cpu(), result.latents, to_pixels(result.images)])
        report[name]["notes"] = result.receipt["notes"]
    times = report["one GPU"], report["two GPUs"]
    for key, title in (("s", "ratio"), ("step_ms", "ratio of the steps")):
        report[title] = round(times[0][key] / times[1][key], 3)
    for title, one, two in zip(("latents after a step", "latents", "image"), *found, strict=True):
        largest = (two - one).abs().max() / one.abs().max()
        report.setdefault("largest difference", {})[title] = float(f"{largest.item():.3g}")
    return report


def parts(timer: Timer, compiled: list[str]) -> dict[str, Callable[[], Report]]:
    """Name -> what measures it."""
    sd15, sdxl, emoji, half, kind = FAMILIES["sd15"], FAMILIES["sdxl"], EMOJI, torch.float16, torch.bfloat16
    side, several, images, steps = 512, 16, 64, 50
    if TRIED:
        sd15, sdxl, half, kind = PRESETS["tiny-sd15"], PRESETS["tiny-sdxl"], torch.float32, torch.float32
        emoji, side, several, images, steps = replace(sd15, name="tried"), 64, 2, 2, 1

    def step(family: str, side: int, images: int = 1) -> Report:
        config = {"sd15": sd15, "sdxl": sdxl}[family]
        unet = measure.made(UNet, config.unet, DEVICE, half)
        return measure.step(unet, config, (side, side), timer, images=images, compiled=family in compiled)

    def decode(side: int) -> Report:
        vae = measure.made(VAE, sd15.vae, DEVICE, half)
        return measure.decode(vae, (side, side), timer, compiled="vae" in compiled)

    def whole(family: str, batch: int, **options: int | str) -> Report:
        config, dtype = (sd15, half) if family == "sd15" else (emoji, kind)
        pipe = measure.random_model(config, DEVICE, dtype)
        return measure.calls(pipe, Request("a red fox", seed=32, **options), timer, batch=batch)  # type: ignore[arg-type]

    def two(family: str, side: int) -> Report:
        pipe = measure.random_model({"sd15": sd15, "sdxl": sdxl}[family], DEVICE, half, fast=True)
        options = {"num_inference_steps": steps, "height": side, "width": side}
        return on_two(pipe, Request("a red fox", seed=32, sampler="euler", **options), timer)  # type: ignore[arg-type]

    found = {
        "SD 1.5 512, step with guidance": lambda: step("sd15", side),
        "SD 1.5 512, step with guidance, 16 images": lambda: step("sd15", side, several),
        "SD 1.5 VAE decode 512": lambda: decode(side),
        "SD 1.5 VAE decode 1024": lambda: decode(2 * side),
        "SD 1.5 512, 50 steps": lambda: whole("sd15", several, num_inference_steps=steps, sampler="euler"),
        "emoji, 12 steps and upscaling": lambda: whole("emoji", images),
        "SDXL 1024, step with guidance": lambda: step("sdxl", 2 * side),
    }
    if SECOND is not None:
        found["SD 1.5 512, two GPUs"] = lambda: two("sd15", side)
        found["SDXL 1024, two GPUs"] = lambda: two("sdxl", 2 * side)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Time networks and calls on a CUDA device.")
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    parser.add_argument("--only", nargs="*", default=[], help="parts whose names contain one of these")
    parser.add_argument("--compile", nargs="*", default=[], help="sd15, sdxl, vae: whose peer torch.compile runs too")
    parser.add_argument("--seconds", type=float, default=0.01 if TRIED else 1.5, help="for each measurement, about")
    parser.add_argument("--read", type=Path, help="measure nothing: the tables are of this JSON")
    parser.add_argument("--mark", default="gpu", help="of the documents' tables")
    parser.add_argument("documents", nargs="*", type=Path)
    asked = parser.parse_args()
    if asked.read is not None:
        place(asked.documents, asked.mark, json.loads(asked.read.read_text(encoding="utf-8")))
        return
    timer = Timer(DEVICE, asked.seconds)
    document = report.head(DEVICE, torch.float16, report.this_command())
    document["rates"] = timer.rates(torch.bfloat16)
    chosen = {
        name: part
        for name, part in parts(timer, asked.compile).items()
        if not asked.only or any(each in name for each in asked.only)
    }
    start = time.perf_counter()

    def tell(name: str) -> None:
        print(f"{time.perf_counter() - start:6.1f} s  {name}", flush=True)

    def keep(found: Report) -> None:
        document["measured"] = found
        if asked.out is not None:
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(asked.out, json.dumps(document, indent=2) + "\n")

    print(json.dumps(measure.measured(chosen, timer, tell, keep)))
    place(asked.documents, asked.mark, document)


def place(documents: list[Path], mark: str, document: Report) -> None:
    """Put the tables into documents."""
    for path in documents:
        write_text(path, report.placed(path.read_text(encoding="utf-8"), mark, report.tables(document)))


if __name__ == "__main__":
    main()
