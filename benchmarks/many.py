"""Many images by several processes, one a GPU: images a second for each number of processes, and whether all agree.

    python benchmarks/many.py --processes 1 2 --family sd15 --requests 32 --out many.json

Each number runs ``diffuscope batch`` under torchrun on a folder with random weights. The rate of a process is that of
the images after its first, by the times of their files, so that starting and the first call do not count; those of the
processes are added up.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from diffuscope import loading
from diffuscope.bench import measure, report
from diffuscope.bench.timing import Report
from diffuscope.config import PRESETS
from diffuscope.images import image_hash, open_image
from diffuscope.weights.store.documents import write_text


def run(place: Path, processes: int, lines: int, device: str) -> tuple[Report, list[str]]:
    """The rate of so many processes, and the hashes of their images."""
    out = place / f"by-{processes}"
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--rdzv-backend", "c10d"]
    command = ["-m", "diffuscope", "batch", str(place / "list.jsonl"), "--model", str(place / "model"), "--quiet"]
    subprocess.run(
        [sys.executable, *launcher, "--rdzv-endpoint", "localhost:0", *command, "--out", str(out), "--device", device],
        check=True,
        env={"OMP_NUM_THREADS": "1"} | os.environ,
    )
    rates, paths = [], sorted(out.glob("0*.png"))
    assert len(paths) == lines
    for rank in range(processes):
        times = [path.stat().st_mtime for path in paths[rank::processes]]
        rates.append((len(times) - 1) / (times[-1] - times[0]))
    found = {"processes": processes, "images a second": round(sum(rates), 3), "of each": [round(r, 3) for r in rates]}
    return found, [image_hash(open_image(path)) for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how many images several processes make in a second.")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--family", default="sd15")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    device = loading.choose_device(asked.device)
    half = torch.float16 if device.type == "cuda" else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        measure.random_model(PRESETS[asked.family], torch.device("cpu"), half).save(place / "model", "diffusers")
        line = {"prompt": "a red fox", "num_inference_steps": asked.steps}
        (place / "list.jsonl").write_text(f"{json.dumps(line)}\n" * asked.requests)
        document = report.head(device, half, report.this_command())
        results = [run(place, processes, asked.requests, asked.device) for processes in asked.processes]
    document["runs"] = [found for found, _ in results]
    one = document["runs"][0]["images a second"] / document["runs"][0]["processes"]
    for found in document["runs"]:
        found["of linear"] = round(found["images a second"] / found["processes"] / one, 3)
    first = results[0][1]
    for found, images in results:
        found["other images than the first run"] = [i for i, image in enumerate(images, 1) if image != first[i - 1]]
    write_text(asked.out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
