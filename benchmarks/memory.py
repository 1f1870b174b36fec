"""The peak of memory that is planned and the one that is measured; and calls in memory that does not suffice.

    python benchmarks/memory.py --family sd15 --out memory.json

The peaks are measured with all networks on the device, and then with those alone that run (offload), which has to
give the same latents; there a call that is not counted brings the others away first, as if the model had been opened
so. On a CUDA device memory is filled up to some MiB before each of the last calls: each has to end in an image, with
a note of what was done, or in an error that names a size.
"""

import argparse
import gc
import json
import time
from pathlib import Path

import torch

from diffuscope import loading
from diffuscope.bench import measure, report
from diffuscope.bench.timing import Report, peak
from diffuscope.config import PRESETS
from diffuscope.errors import DiffuscopeError
from diffuscope.perf import peak as predicted
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.receipt import checksums
from diffuscope.weights.store.documents import write_text


def peaks(pipe: Pipeline, sizes: list[tuple[int, int, int]], *, offload: bool) -> list[Report]:
    """Planned and measured peak in MiB, with the weights, for widths, heights and numbers of images; and seconds."""
    found = []
    for width, height, images in sizes:
        at_once = max(1, min(images, (1 << 20) // (width * height)))
        fast, asked = pipe.engine.runs(pipe.unet, None), {"width": width, "height": height}
        planned = predicted.call(
            pipe.components, **asked, rows=2 * images, images=at_once, upscale=1, fast=fast, offload=offload
        )
        row: Report = {"size": f"{width}x{height}", "images": images, "offload": offload, "planned_mib": planned >> 20}
        times, sums, most = [], [], 0
        if offload:
            pipe("a fox", seed=1, **asked, num_inference_steps=1)
        for _ in range(3):  # the first loads kernels, the second records graphs, the third may allocate nothing
            here = sum(each.nbytes for net in pipe.components.networks.values() for each in net.parameters())
            if offload and pipe.device.type == "cuda":
                here = torch.cuda.memory_allocated(pipe.device)
            begin = time.perf_counter()
            with peak(pipe.device, row):
                result = pipe("a fox", seed=1, **asked, num_images_per_prompt=images, num_inference_steps=10)
            times.append(round(time.perf_counter() - begin, 2))
            most = max(most, row.pop("peak_mib", 0) + (here >> 20))
            sums.append(checksums(result.latents))
        row["measured_mib"] = most
        row["planned over measured"] = round(row["planned_mib"] / row["measured_mib"], 3)
        row["s"], row["latents"], row["the same in each call"] = times, sums[-1], sums.count(sums[0]) == len(sums)
        found.append(row)
        print(row, flush=True)
    return found


def scarce(pipe: Pipeline, left: list[int], sizes: list[tuple[int, int, int]]) -> list[Report]:
    """Calls with only so many MiB left on the device."""
    found = []
    for mib in left:
        for width, height, images in sizes:
            pipe.engine.release()
            gc.collect()
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info()
            filler = torch.empty(max(0, free - (mib << 20)), dtype=torch.uint8, device=pipe.device)
            row: Report = {"left_mib": mib, "size": f"{width}x{height}", "images": images}
            start = time.perf_counter()
            try:
                options = {"width": width, "height": height, "num_images_per_prompt": images}
                result = pipe("a fox", seed=1, num_inference_steps=3, **options)
                row["notes"] = result.receipt["notes"]
                row["finite"] = bool(result.latents.isfinite().all())
            except DiffuscopeError as error:
                row["refused"] = f"{type(error).__name__}: {error}"
            except Exception as error:
                row["FAILED"] = f"{type(error).__name__}: {error}"[:300]
            row["s"] = round(time.perf_counter() - start, 2)
            del filler
            found.append(row)
            print(row, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure peaks of memory, and calls where it does not suffice.")
    parser.add_argument("--family", default="sd15")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--sides", type=int, nargs="*", default=[512, 768, 1024])
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    device = loading.choose_device(asked.device)
    dtype = loading.choose_dtype(asked.dtype, device)
    pipe = measure.random_model(PRESETS[asked.family], device, dtype)
    side = asked.sides[0]
    document = report.head(device, dtype, report.this_command())

    def keep() -> None:
        write_text(asked.out, json.dumps(document, indent=1) + "\n")

    pipe.engine.offload.allowed = False  # until it is asked for
    sizes = [(side, side, 1), (side, side, 4), *((each, each, 1) for each in asked.sides[1:])]
    document["peaks"] = peaks(pipe, sizes, offload=False)
    keep()
    pipe.engine.release()
    pipe.engine.offload.begin(device, pipe.components.networks.values())
    document["offload"] = peaks(pipe, sizes[:1], offload=True)
    same = document["offload"][0]["latents"] == document["peaks"][0]["latents"]
    document["the same latents with offload"] = same
    keep()
    if device.type == "cuda":
        del pipe
        gc.collect()
        pipe = measure.random_model(PRESETS[asked.family], device, dtype)
        left = [3000, 1000, 500, 250, 120, 60, 20]
        document["scarce"] = scarce(pipe, left, [(side, side, 1), (side, side, 16), (2 * side, 2 * side, 1)])
        keep()


if __name__ == "__main__":
    main()
