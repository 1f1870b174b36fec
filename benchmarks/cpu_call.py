"""Whole calls on a CPU beside stable-diffusion.cpp: from one file with random weights, call by call in turns.

    pip install stable-diffusion-cpp-python  # it is compiled: ten minutes on two cores
    python benchmarks/cpu_call.py --out benchmarks/results/cpu_call.json

Text, guided Euler steps and decoding, each program in a process of its own that has made one call before; the file has
float16 weights, of which ours makes float32. Random weights draw nothing; only times are compared. "ratio" is the
median over the rounds of a program's processor seconds over those of ours, by the fast twins.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import tyro

from diffuscope.bench import measure, report
from diffuscope.config import PRESETS
from diffuscope.weights.store.documents import write_text

OURS = """
import diffuscope as ds
pipe = ds.load(sys.argv[1], family="sd15", fast={fast})
def call():
    pipe("a red fox", seed=1, sampler="euler", width=side, height=side, num_inference_steps=steps, guidance_scale=7.5)
"""
THEIRS = """
from stable_diffusion_cpp import StableDiffusion
pipe = StableDiffusion(model_path=sys.argv[1], n_threads=int(sys.argv[4]), verbose=False, {flags})
options = dict(width=side, height=side, sample_steps=steps, cfg_scale=7.5, sample_method="euler", seed=1)
def call():
    pipe.generate_image("a red fox", **options)
"""
SERVED = """
import json, os, sys, time
side, steps = int(sys.argv[2]), int(sys.argv[3])
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
{program}
call()
print("ready", file=answers, flush=True)
for _ in sys.stdin:
    start, used = time.perf_counter(), time.process_time()
    call()
    print(json.dumps([time.perf_counter() - start, time.process_time() - used]), file=answers, flush=True)
"""
PROGRAMS = {
    "ours, fast twins": OURS.format(fast=True),
    "ours, plain": OURS.format(fast=False),
    "stable-diffusion.cpp": THEIRS.format(flags=""),
    "stable-diffusion.cpp, flash attention, direct convolutions": THEIRS.format(
        flags="diffusion_flash_attn=True, diffusion_conv_direct=True, vae_conv_direct=True"
    ),
}


def main(*, out: Path, side: int = 256, steps: int = 4, rounds: int = 3, family: str = "sd15") -> None:
    """Measure.

    Args:
        out: JSON file.
        side: of the images, in pixels.
        steps: guided steps.
        rounds: calls of each program.
        family: whose size the model has.
    """
    document = report.head(torch.device("cpu"), torch.float32, report.this_command())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        measure.random_model(PRESETS[family], torch.device("cpu"), torch.float16).save(file, "single")
        arguments = [str(file), str(side), str(steps), str(torch.get_num_threads())]
        found: dict[str, list[list[float]]] = {name: [] for name in PROGRAMS}
        processes = {
            name: subprocess.Popen(
                [sys.executable, "-c", SERVED.format(program=program), *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for name, program in PROGRAMS.items()
        }  # fmt: skip
        for process in processes.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for _ in range(rounds):
            for name, process in processes.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                found[name].append(json.loads(process.stdout.readline()))
                print(name, found[name][-1], flush=True)
        for process in processes.values():
            process.communicate()
    ours = [cpu for _, cpu in found["ours, fast twins"]]
    for name, each in found.items():
        document[name] = {
            "s": [round(clock, 2) for clock, _ in each],
            "cpu_s": [round(cpu, 2) for _, cpu in each],
            "ratio": round(statistics.median(cpu / own for (_, cpu), own in zip(each, ours, strict=True)), 3),
        }
    write_text(out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
