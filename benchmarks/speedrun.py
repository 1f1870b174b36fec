"""From icon packages to a model that passes an exam: one command, one clock, one table.

    python benchmarks/speedrun.py --packages node_modules --feature-net F --out RUN --note "what is new"

The clock begins with this process and ends when the exam has been scored: reading packages, rendering, compiling and
the exam itself are in it; the download of the packages is not. A run that was stopped (`--stop-after`) goes on with the
same command, and its seconds are added up. The record is appended to `--records`, a file of JSON lines, and the table
of all records printed. docs/how-to/beat-the-speedrun.md has the rules. With `--is-tiny` the networks are tiny.
"""

from time import monotonic

STARTED = monotonic()

import json  # noqa: E402  (the clock is read before anything is imported)
import os  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402

import tyro  # noqa: E402

from diffuscope.config import EMOJI, Preset, TextEncoderConfig, UNetConfig, VAEConfig  # noqa: E402
from diffuscope.data import corpus as corpora  # noqa: E402
from diffuscope.errors import DiffuscopeError, InputError  # noqa: E402
from diffuscope.loading import choose_device  # noqa: E402
from diffuscope.recipes import speedrun, stages  # noqa: E402
from diffuscope.training.loop import LoopConfig  # noqa: E402
from diffuscope.training.text import TextTraining  # noqa: E402
from diffuscope.training.unet import UNetTraining  # noqa: E402

RECORDS = Path(__file__).parent / "results" / "speedrun.jsonl"


def main(
    *,
    feature_net: Path,
    out: Path,
    packages: Path | None = None,
    corpus: Path | None = None,
    note: str = "",
    seed: int = 0,
    stop_after: float | None = None,
    records: Path = RECORDS,
    is_tiny: bool = False,
    device: str = "auto",
) -> None:
    """Run, examine, record.

    Args:
        feature_net: EfficientNet-Lite0's weights.
        out: folder of the run.
        packages: node_modules folder with the packages of the corpus.
        corpus: a corpus file instead, as one that was built before; the record says so.
        note: what is new in this run.
        seed: of random weights, scenes and noise.
        stop_after: seconds of U-Net training after which this call stops.
        records: JSON lines to which the record is appended.
        is_tiny: tiny networks, few steps.
        device: auto, cpu, cuda.
    """
    if (packages is None) == (corpus is None):
        raise InputError("packages", packages and str(packages), "either packages or a corpus file")
    stages.prefer_speed()
    out.mkdir(parents=True, exist_ok=True)
    laps = speedrun.Laps(out, STARTED)
    laps.end("imports")
    built = corpus or out / "corpus.jsonl.xz"
    if not built.exists():
        corpora.build(packages, built)
        laps.end("corpus")
    recipe = speedrun.with_seed(tiny() if is_tiny else speedrun.Speedrun(), seed)
    try:
        record = speedrun.run(recipe, built, feature_net, out, choose_device(device), laps, stop_after)
    except BaseException:
        laps.end("interrupted")  # what was lost counts too
        raise
    if record is None:
        print(f"stopped after {sum(laps.seconds.values()):.0f} s; the same command goes on")
        return
    record |= {
        "note": note,
        "commit": commit(),
        "seed": seed,
        "data": "corpus file" if packages is None else "packages",
    }
    with records.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(speedrun.table([json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]))


def commit() -> str:
    """The commit of the code, if there is one; COMMIT names it where there is no repository."""
    if "COMMIT" in os.environ:
        return os.environ["COMMIT"]
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def tiny() -> speedrun.Speedrun:
    """Networks of a few thousand numbers, and an exam that asks nothing."""
    model = replace(
        EMOJI,
        text_encoder=TextEncoderConfig(width=16, layers=1, heads=2, hidden=32, projection=16),
        unet=UNetConfig(channels=(16, 16), blocks=1, depth=(1, 0), heads=(1, 1), context_dim=16, norm_groups=4),
        vae=VAEConfig(channels=(8, 8, 16, 16), norm_groups=4, scale=1.0, blocks=1),
        preset=Preset(num_inference_steps=1, guidance_scale=2.5, sampler="ddim", height=32, width=32, upscale=1),
    )
    loop = LoopConfig(steps=3, warmup_steps=1, log_every=2)
    full = speedrun.Speedrun()
    return replace(
        full,
        vae=replace(full.vae, model=model, batch_size=4, scenes=64, loop=loop),
        examples=replace(full.examples, scenes=32, held_out=16),
        text=replace(full.text, model=model, training=TextTraining(batch_size=8), loop=loop),
        unet=replace(full.unet, model=model, training=UNetTraining(batch_size=8), loop=loop),
        exam=tuple(replace(bar, least=0.0) for bar in full.exam),
        images=4,
        size=32,
    )


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except DiffuscopeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
