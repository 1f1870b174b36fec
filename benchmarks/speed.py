"""Time what a user waits for, and write it as JSON and into documents.

python benchmarks/speed.py --out benchmarks/results/speed.json README.md

Whole processes are timed from start to end, images in a warm process, the models and dtypes in turn; each time is the
median of several. Documents get a table between ``<!-- speed -->`` and ``<!-- /speed -->``. Run it on an otherwise idle
machine: how many cores others used meanwhile is measured too, where Linux counts it.
"""

import argparse
import compileall
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import diffuscope as ds
from diffuscope.bench.report import commit, placed, processor
from diffuscope.data.processes import available_cores
from diffuscope.weights.store.documents import write_text

PROMPT = "a red fox"
TITLES = {
    "import": "`import diffuscope`, beyond what Python itself takes (s)",
    "help": "`diffuscope --help` (s)",
    "generate": "`diffuscope generate`, process start to 512x512 PNG (s)",
    "generate_memory": "the same, peak memory (GB)",
    "preset": "an image at the model's preset, before upscaling, in a warm process (s)",
    "steps_25": "the same with 25 guided steps (s)",
    "turbo": "an image of `emoji-turbo`, four steps (s)",
    "turbo_1": "the same with one step (s)",
    "turbo_share": "four steps of `emoji-turbo`, as a share of `emoji`'s preset",
    "bfloat16_generate": "`diffuscope generate --dtype bfloat16 --fast True`, as above (s)",
    "bfloat16_preset": 'an image at the preset, `dtype="bfloat16", fast=True` (s)',
    "bfloat16_turbo": "the same of `emoji-turbo`, four steps (s)",
    "beside_busy": "25 guided steps from Python beside one busy process, over the time without it",
    "others": "cores that other programs used meanwhile",
}
BFLOAT16 = {"dtype": "bfloat16", "fast": True}
"""Faster where the processor has instructions for it."""


def median(repeats: int, run: Callable[[], float]) -> float:
    return statistics.median(run() for _ in range(repeats))


def process(*command: str) -> tuple[float, float]:
    """Seconds from start to end, and the peak memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {child.returncode}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def picture(pipe: ds.Pipeline, **settings: int) -> float:
    start = time.perf_counter()
    pipe(PROMPT, seed=32, upscale=1, **settings)
    return time.perf_counter() - start


def others() -> float:
    """Seconds that the cores have worked for other programs; 0 where Linux does not count it."""
    if not (stat := Path("/proc/stat")).is_file():
        return 0.0
    user, nice, system, _, _, *interrupts = map(int, stat.read_text().split("\n", 1)[0].split()[1:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


BESIDE = """
import statistics, subprocess, sys, time
import diffuscope as ds
pipe, alone, beside = ds.load(sys.argv[1]), [], []
def call(times):
    start = time.perf_counter()
    pipe("a red fox", seed=32, upscale=1, num_inference_steps=int(sys.argv[2]))
    times.append(time.perf_counter() - start)
call([])
for _ in range(3):
    call(alone)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        call(beside)
    finally:
        busy.kill()
        busy.wait()
print(statistics.median(beside) / statistics.median(alone))
"""


def beside_busy(model: str, steps: int = 25) -> float:
    """How many times as long an image takes beside one busy process, in turns; the waiting of threads as by default."""
    environment = {name: each for name, each in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", BESIDE, model, str(steps)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def measure(model: str) -> dict[str, float]:
    compileall.compile_dir(Path(ds.__file__).parent, quiet=1)  # as pip does when it installs
    python, command = sys.executable, [sys.executable, "-m", "diffuscope"]
    start, before = time.perf_counter(), others()
    bare = median(5, lambda: process(python, "-c", "pass")[0])
    found = {
        "import": median(5, lambda: process(python, "-c", "import diffuscope")[0]) - bare,
        "help": median(5, lambda: process(*command, "--help")[0]),
    }
    generate = [*command, "generate", PROMPT, "--model", model, "--seed", "32", "--quiet"]
    whole = [(process(*generate), process(*generate, "--dtype", "bfloat16", "--fast", "True")) for _ in range(5)]
    found["generate"] = statistics.median(seconds for (seconds, _), _ in whole)
    found["generate_memory"] = max(memory for (_, memory), _ in whole)
    teacher, student = ds.load(model), ds.load("emoji-turbo")
    quick, quicker = ds.load(model, **BFLOAT16), ds.load("emoji-turbo", **BFLOAT16)
    calls: dict[str, Callable[[], float]] = {
        "preset": lambda: picture(teacher),
        "steps_25": lambda: picture(teacher, num_inference_steps=25),
        "turbo": lambda: picture(student),
        "turbo_1": lambda: picture(student, num_inference_steps=1),
        "bfloat16_preset": lambda: picture(quick),
        "bfloat16_turbo": lambda: picture(quicker),
    }
    rounds = [{name: call() for name, call in calls.items()} for _ in range(8)]
    times = {name: statistics.median(each[name] for each in rounds[1:]) for name in calls}
    found |= times | {"turbo_share": times["turbo"] / times["preset"]}
    found["bfloat16_generate"] = statistics.median(seconds for _, (seconds, _) in whole)
    found["beside_busy"] = beside_busy(model)
    found["others"] = (others() - before) / (time.perf_counter() - start)
    return {name: found[name] for name in TITLES}


def table(report: dict[str, object], seconds: dict[str, float]) -> str:
    rows = [f"| {TITLES[name]} | {value:.2f} |" for name, value in seconds.items()]
    where = f"{report['cores']} cores of {report['processor']}, torch {report['torch']}, {report['device']}"
    return "\n".join(["| | |", "|---|---|", *rows, "", f"`{report['command']}`; {where}."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time what a user waits for.")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    parser.add_argument("documents", nargs="*", type=Path)
    asked = parser.parse_args()
    seconds = measure(asked.model)
    report: dict[str, object] = {
        "command": f"python {' '.join(sys.argv)}",
        "commit": commit(),
        "processor": processor(),
        "cores": available_cores(),
        "torch": torch.__version__,
        "device": str(ds.load(asked.model).device),
        "measured": seconds,
    }
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(asked.out, text)
    made = table(report, seconds)
    for path in asked.documents:
        write_text(path, placed(path.read_text(encoding="utf-8"), "speed", made))


if __name__ == "__main__":
    main()
