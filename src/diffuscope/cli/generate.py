"""``diffuscope generate``: images from a prompt."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from diffuscope.cli.common import BranchFile, ImageFlags, check_call
from diffuscope.cli.flags import command, in_flags
from diffuscope.cli.terminal import say, tell
from diffuscope.errors import InputError
from diffuscope.model_source import ModelSource
from diffuscope.request import Request
from diffuscope.schema import Group

if TYPE_CHECKING:
    from diffuscope.pipeline import Pipeline, Run

FPS = 4.0
"""Of a film: slow enough to look at each step."""


@dataclass(frozen=True)
class AdapterFlags:
    """LoRAs and embeddings as files."""

    lora_dir: Annotated[Path | None, Group("model")] = None
    """folder of the LoRAs that prompts name as <lora:name:0.8>"""
    embedding: tuple[Path, ...] = ()
    """textual-inversion files; the prompts name each by its trigger word"""

    def __post_init__(self) -> None:
        if self.lora_dir is not None and not os.path.isdir(self.lora_dir):  # noqa: PTH112 (False for impossible names)
            raise InputError("lora_dir", str(self.lora_dir), "a folder that exists, with LoRA files")
        for path in self.embedding:
            if not os.path.exists(path):  # noqa: PTH110
                raise InputError("embedding", str(path), "a file that exists")


@dataclass(frozen=True)
class OutputFlags:
    """Where images go, and what is printed."""

    out: Annotated[Path, Group("output")] = Path("out.png")
    """file to write; several images become out-0.png, out-1.png and so on; if it exists, out-2.png is written"""
    overwrite: bool = False
    """replace a file that exists"""
    preview: Path | None = None
    """write the clean estimate to this file after each step; slower"""
    film: Path | None = None
    """also write the steps of the first image to this .gif or .mp4: noisy latents and clean estimate, side by side"""
    no_metadata: bool = False
    """do not write prompt, settings and receipt into the file"""
    quiet: bool = False
    """no progress bar, only warnings and errors"""


@command(positional="prompt")
def generate(
    request: Request,
    images: ImageFlags,
    branch: BranchFile,
    source: ModelSource,
    adapters: AdapterFlags,
    output: OutputFlags,
) -> None:
    """Generate images from a prompt and write them as PNG.

    The default model is the shipped one, emoji. Each file has a receipt, from which `diffuscope replay` generates the
    image again. Write lists with commas: `--count 2 --seed 7,9`, or `--sigmas 14.6,5,1,0`.
    """
    check_output_flags(output, request.num_images_per_prompt)
    request = branch.added_to(request)
    check_call(source, request, image=images.image, mask_image=images.mask_image)

    from diffuscope.pipeline import open_model

    pipe = open_model(source)
    for report in load_adapters(pipe, [request], source, adapters):
        if not output.quiet:
            say(str(report))
    run = pipe.steps(request, image=images.image, mask_image=images.mask_image)
    if request.guidance_options.exact and not output.quiet:
        tell(_memory(pipe, request))
    write(pipe, run, output)


def check_output_flags(output: OutputFlags, images: int) -> None:
    """Refuse what cannot be written, before anything is computed."""
    from diffuscope.output import check_output

    check_output(output.out, "out", count=images, overwrite=output.overwrite)
    if output.preview is not None:
        check_output(output.preview, "preview")
    if output.film is not None:
        _check_film(output.film, output.overwrite)


def write(pipe: "Pipeline", steps: "Run", output: OutputFlags) -> None:
    """Make the images of a run and write them."""
    from tqdm import tqdm

    from diffuscope.images import write_png
    from diffuscope.output import numbered
    from diffuscope.types import Step

    told = steps.notes
    for note in told:
        tell(f"warning: {in_flags(note)}")
    seen = []
    for step in tqdm(steps, unit="step", file=sys.stderr, disable=output.quiet, leave=False):
        if output.preview is not None:
            write_png(output.preview, pipe.decode(step.x0[:1])[0])
        if output.film is not None:
            seen.append(Step(step.index, step.sigma, step.x[:1].clone(), step.x0[:1].clone()))
    result = steps.result()
    paths = result.save(output.out, metadata=not output.no_metadata, overwrite=output.overwrite)
    if output.film is not None:
        from diffuscope.lens.animation import frames, save_film

        (film,) = numbered(output.film, 1, overwrite=output.overwrite)
        save_film(frames(pipe, seen), film, fps=FPS)
    for note in result.notes[len(told) :]:
        tell(f"warning: {in_flags(note)}")
    if not output.quiet:
        for report in pipe.adapters.reports(result.receipt["loras"]):
            say(str(report))
        for path, image, seed in zip(paths, result.images, result.seeds, strict=True):
            say(f"{path}  {image.width}x{image.height}  seed {seed}")
        if output.film is not None:
            say(f"{film}  {len(seen)} steps")


def _check_film(path: Path, overwrite: bool) -> None:
    """Refuse a film that cannot be written, before anything is computed."""
    from importlib.util import find_spec

    from diffuscope.output import check_output

    check_output(path, "film", overwrite=overwrite, suffix=(".gif", ".mp4"))
    if path.suffix.lower() == ".mp4" and find_spec("imageio_ffmpeg") is None:
        raise InputError("film", path.name, "a .gif, unless imageio-ffmpeg is installed (the extra video)")


def load_adapters(
    pipe: "Pipeline", requests: Sequence[Request], source: ModelSource, adapters: AdapterFlags
) -> list[object]:
    """Set the LoRAs' folder, load the embeddings, and return their reports."""
    if adapters.lora_dir is not None:
        pipe.lora_dir = adapters.lora_dir
    files = embedding_files(requests, source, adapters)
    return [pipe.load_embedding(path, allow_pickle=source.allow_pickle) for path in files]


def embedding_files(requests: Sequence[Request], source: ModelSource, adapters: AdapterFlags) -> tuple[Path, ...]:
    """Those that are given, and those of the models' folder that a text names."""
    from diffuscope.library import named_embeddings
    from diffuscope.pipeline.plan import texts_of

    if source.models_dir is None:
        return adapters.embedding
    given = [text for each in requests for text in (each.prompt, each.negative_prompt) if text is not None]
    texts = list(dict.fromkeys(text for each in given for text in texts_of(each)))
    return (*adapters.embedding, *named_embeddings(source.models_dir, texts))


def _memory(pipe: "Pipeline", request: Request) -> str:
    """One line on the memory of gradients through the U-Net."""
    from diffuscope.lens.gradient_memory import gradient_memory

    preset, text = pipe.config.preset, request.guidance_options.similarity
    height, width = request.height or preset.height, request.width or preset.width
    loss = None if text is None else pipe.similarity.loss(text)
    needed = gradient_memory(pipe, height, width, images=request.num_images_per_prompt, guided=False, loss=loss)
    return f"exact guidance needs about {needed.exact / 2**20:,.0f} MiB for activations, in addition to the weights"
