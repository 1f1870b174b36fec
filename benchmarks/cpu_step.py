"""A guided step of the U-Net on a CPU: ours beside diffusers and OpenVINO, with random weights, call by call in turns.

    python benchmarks/cpu_step.py --family sd15 --dtype float32 --out benchmarks/results/cpu_step.json

Two groups, one after the other, since together they would not fit into memory: what torch runs (the plain network, the
fast twin, diffusers) and what OpenVINO runs (our twin, diffusers' network). In each round every member of a group is
called once, so that other programs on the machine slow all of them alike; "ratio" is the median over the rounds of
another program's processor seconds over ours. Times of a dtype that the processor has no instructions for mean little.
"""

import argparse
import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from diffuscope.bench import measure, report
from diffuscope.bench.peers import Inputs, Peer, unet_peers
from diffuscope.bench.timing import Call
from diffuscope.config import PRESETS
from diffuscope.models.unet import UNet
from diffuscope.perf.engine import Engine
from diffuscope.weights.store.documents import write_text


def prepared(family: str, dtype: torch.dtype) -> tuple[UNet, Inputs]:
    """The network, and the inputs of a guided step of the family's size."""
    config = PRESETS[family]
    unet: UNet = measure.made(UNet, config.unet, torch.device("cpu"), dtype)
    generator = torch.Generator().manual_seed(0)
    height, width = (side // config.vae.factor for side in (config.preset.height, config.preset.width))
    x = torch.randn(1, config.unet.in_channels, height, width, generator=generator)
    context = torch.randn(2, 77, config.unet.context_dim, generator=generator)
    return unet, Inputs(torch.cat([x, x]).to(dtype), torch.tensor(measure.TIME), context.to(dtype), None)


def in_turns(calls: dict[str, Call], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of each call in each round, of the clock and of the processor; the first calls apart."""
    found: dict[str, dict[str, Any]] = {}
    for name, call in calls.items():
        start = time.perf_counter()
        call()
        found[name] = {"first_s": round(time.perf_counter() - start, 2), "s": [], "cpu_s": []}
    for _ in range(rounds):
        for name, call in calls.items():
            start, used = time.perf_counter(), time.process_time()
            call()
            found[name]["s"].append(round(time.perf_counter() - start, 3))
            found[name]["cpu_s"].append(round(time.process_time() - used, 3))
    return found


def by_torch(unet: UNet, inputs: Inputs, peers: list[Peer]) -> dict[str, Call]:
    """Ours first: the fast twin, the plain network, whose weights lie as the twin wants them, and diffusers."""
    twin = Engine(True).predictor(unet, inputs.context, None, pairs=True)
    return {
        "twin": lambda: twin(inputs.x, inputs.time),
        "plain": lambda: unet(inputs.x, inputs.time, inputs.context),
    } | {each.name: each.make() for each in peers if each.name == "diffusers"}


def by_openvino(unet: UNet, inputs: Inputs, peers: list[Peer]) -> dict[str, Call]:
    """Ours first: the fast twin with ``backend="openvino"``, and diffusers' network converted by OpenVINO."""
    twin = Engine(True, "openvino").predictor(unet, inputs.context, None, pairs=True)
    ours: dict[str, Call] = {"twin": lambda: twin(inputs.x, inputs.time)}
    return ours | {f"diffusers by {each.name}": each.make() for each in peers if each.name == "openvino"}


GROUPS = {"torch": by_torch, "openvino": by_openvino}


def measured(calls: dict[str, Call], rounds: int) -> dict[str, Any]:
    """What ``in_turns`` finds, and the others' processor seconds over those of ours: above 1, ours is faster."""
    found = in_turns(calls, rounds)
    ours = found["twin"]["cpu_s"]
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(each["cpu_s"], ours, strict=True)), 3)
        for name, each in found.items()
    }
    return found | {"ratio": ratios}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="Time a guided step on a CPU beside other programs.")
    parser.add_argument("--family", default="sd15")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    dtype = getattr(torch, asked.dtype)
    document = report.head(torch.device("cpu"), dtype, report.this_command())
    unet, inputs = prepared(asked.family, dtype)
    peers = list(unet_peers(PRESETS[asked.family].unet, unet.state_dict(), inputs, compiled=False))

    for name in asked.groups:
        document[name] = measured(GROUPS[name](unet, inputs, peers), asked.rounds)
        gc.collect()
    text = json.dumps(document, indent=1) + "\n"
    write_text(asked.out, text)
    print(text)


if __name__ == "__main__":
    main()
