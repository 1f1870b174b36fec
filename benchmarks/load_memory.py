"""Time and memory of opening a single file of the size of SD 1.5, made on the fly; written as JSON.

python benchmarks/load_memory.py --out benchmarks/results/load_memory.json

Each loading is a process of its own, with the file in the page cache. Time is counted from after the import of torch;
memory is the peak of the process beyond what importing takes. Pages of the file itself that are mapped count in
``resident`` and not in ``allocated``: the system takes them back whenever it needs them.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from diffuscope.config import PRESETS, ModelConfig
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.weights.layout import ldm
from diffuscope.weights.store.documents import write_text

FAMILY = "sd15"

CHILD = """
import json, sys, threading, time, torch, numpy, safetensors.torch
path, dtype, touch = sys.argv[1], sys.argv[2], sys.argv[3] == "touch"
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
base, anonymous, highest, done = status("VmRSS"), status("RssAnon"), 0, threading.Event()
def watch():
    global highest
    while not done.wait(0.002):
        highest = max(highest, status("RssAnon"))
watcher = threading.Thread(target=watch)
watcher.start()
start = time.perf_counter()
import diffuscope as ds
pipe = ds.load(path, device="cpu", dtype=dtype)
seconds = time.perf_counter() - start
if touch:
    for network in pipe.components.networks.values():
        for parameter in network.parameters():
            parameter.view(-1)[::1024].sum()
highest = max(highest, status("RssAnon"))
done.set()
watcher.join()
own = sum(p.nbytes for network in pipe.components.networks.values() for p in network.parameters())
print(json.dumps({"seconds": seconds, "resident": status("VmHWM") - base, "allocated": highest - anonymous,
                  "weights": own}))
"""


def make(path: Path, config: ModelConfig) -> None:
    """Write a file with the names and shapes of a model in float16, of small random numbers."""
    prefixes = ldm.prefixes(config)
    with torch.device("meta"):
        networks = {"text_encoder": TextEncoder(config.text_encoder), "unet": UNet(config.unet), "vae": VAE(config.vae)}
    table: dict[str, object] = {}
    position = 0
    for part, network in networks.items():
        for name, tensor in ldm.to_ldm(network.half().state_dict(), getattr(config, part)).items():
            offsets = [position, position + tensor.nbytes]
            table[prefixes[part] + name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": offsets}
            position += tensor.nbytes
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)  # as the format's own library does, so that tensors are aligned
    block = (torch.randn(1 << 24) / 64).half().numpy().tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while position > 0:
            file.write(block[: min(position, len(block))])
            position -= len(block)


def load(path: Path, dtype: str, touch: str) -> dict[str, float]:
    """What a fresh process measures."""
    command = [sys.executable, "-c", CHILD, str(path), dtype, touch]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    results: dict[str, object] = {"command": " ".join(["python", *sys.argv]), "machine": platform.machine()}
    results |= {"cores": len(os.sched_getaffinity(0)), "torch": torch.__version__, "family": FAMILY}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        make(path, PRESETS[FAMILY])
        results["file"] = size = path.stat().st_size
        for dtype, touch in (("float16", "map"), ("float16", "touch"), ("float32", "map"), ("bfloat16", "map")):
            runs = [load(path, dtype, touch) for _ in range(asked.repeats)]
            best = min(runs, key=lambda run: run["seconds"])
            held = best["weights"]
            best["resident_per_weights"] = round(best["resident"] / held, 3)
            best["allocated_per_weights"] = round(best["allocated"] / held, 3)
            results[f"{dtype}, {touch}"] = best
            print(
                f"{dtype}, {touch}: {best['seconds']:.2f} s, resident {best['resident'] / size:.2f}x the file, "
                f"allocated {best['allocated'] / held:.2f}x the weights"
            )
    if asked.out is not None:
        write_text(asked.out, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
