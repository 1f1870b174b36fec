"""``diffuscope bench``: how fast this machine is with a model, and other programs beside it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from diffuscope.cli.flags import command
from diffuscope.cli.terminal import say, tell
from diffuscope.errors import InputError, OutputError
from diffuscope.model_source import ModelSource
from diffuscope.request import Side
from diffuscope.schema import Group

PROMPT = "a red fox"


@dataclass(frozen=True)
class BenchFlags:
    """What is measured, and where the numbers go."""

    height: Annotated[Side | None, Group("measurement")] = None
    """pixels, before upscaling; by default those of the preset"""
    width: Side | None = None
    """pixels, before upscaling"""
    steps: int | None = None
    """denoising steps of a whole call"""
    batch: int | None = None
    """also measure whole calls with so many images"""
    seconds: float = 3.0
    """time for each measurement, about"""
    random: bool = False
    """random weights: the model is a family, such as sd15 or sdxl, of which only the shapes count"""
    no_peers: bool = False
    """leave out other programs, which are measured where they are installed: diffusers, OpenVINO, ONNX Runtime"""
    compile: bool = False
    """measure diffusers by torch.compile too, which takes minutes"""
    json: Path | None = None
    """write the measurement to this file"""
    page: Path | None = None
    """write the tables into this page, between <!-- bench --> and <!-- /bench -->"""


@command(positional="model")
def bench(flags: BenchFlags, source: ModelSource) -> None:
    """Measure a model on this machine: whole calls, one step of the U-Net with guidance, the decoder.

    Times are medians, with the first call apart. "fast" are the fast twins, "plain" the networks that taps run.
    """
    if flags.seconds <= 0:
        raise InputError("seconds", flags.seconds, "a number above 0")
    if flags.batch is not None and flags.batch < 2:
        raise InputError("batch", flags.batch, "2 images or more")
    if flags.page is not None and not flags.page.is_file():
        raise InputError("page", str(flags.page), "a file that exists")
    if flags.json is not None and not flags.json.absolute().parent.is_dir():
        raise OutputError(f"cannot write {flags.json}: there is no folder {flags.json.parent}; make it first")
    from diffuscope import loading
    from diffuscope.bench import measure, report
    from diffuscope.bench.timing import Timer
    from diffuscope.config import FAMILIES, PRESETS
    from diffuscope.pipeline import open_model
    from diffuscope.request import Request
    from diffuscope.weights.store.documents import write_text

    family = str(source.model)
    if flags.random and family not in PRESETS:
        raise InputError("model", family, f"one of {', '.join(FAMILIES)}, with random")
    if flags.random:
        device = loading.choose_device(source.device)
        dtype = loading.choose_dtype(source.dtype, device)
        pipe = measure.random_model(PRESETS[family], device, dtype, fast=source.fast)
    else:
        pipe = open_model(source)
    timer = Timer(pipe.device, flags.seconds)
    preset = pipe.config.preset
    size = flags.height or preset.height, flags.width or preset.width
    request = Request(PROMPT, seed=32, num_inference_steps=flags.steps, height=size[0], width=size[1])
    others = {"peers": not flags.no_peers, "compiled": flags.compile}
    title = f"{pipe.config.name} {size[1]}x{size[0]}"
    count = request.num_inference_steps or preset.num_inference_steps
    upscaled = " and upscaling" if preset.upscale > 1 else ""
    document = report.head(pipe.device, pipe.dtype, report.this_command())
    document["rates"] = timer.rates(pipe.dtype)
    parts = {
        f"{title}, {count} steps{upscaled}": lambda: measure.calls(pipe, request, timer, batch=flags.batch),
        f"{title}, step with guidance": lambda: measure.step(pipe.unet, pipe.config, size, timer, **others),
        f"{title}, decoder": lambda: measure.decode(pipe.vae, size, timer, **others),
    }
    document["measured"] = measure.measured(parts, timer, tell)
    text = report.tables(document)
    say(text.rstrip())
    if flags.json is not None:
        write_text(flags.json, json.dumps(document, indent=2) + "\n")
    if flags.page is not None:
        write_text(flags.page, report.placed(flags.page.read_text(encoding="utf-8"), "bench", text))
