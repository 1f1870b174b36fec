"""``diffuscope train word``, ``lora`` and ``imagic``: teach a model one thing."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from diffuscope.cli.flags import command
from diffuscope.cli.terminal import say, tell
from diffuscope.cli.trained import resumable, say_drawing
from diffuscope.errors import OutputError
from diffuscope.finetune.options import ImagicOptions, LoraOptions, RunOptions, WordOptions
from diffuscope.model_source import ModelSource
from diffuscope.schema import Group

if TYPE_CHECKING:
    from diffuscope.pipeline import Pipeline


@dataclass(frozen=True)
class Pictures:
    """Where the pictures are, and where the result goes."""

    pictures: Annotated[str, Group("output")] = ""
    """folder of the pictures, or one of them; a.txt beside a.png is its caption"""
    out: Path = Path("out.safetensors")
    """file to write; its folder with log and curves is out.run"""
    quiet: bool = False
    """no progress bar and no notes"""


@dataclass(frozen=True)
class Sheet:
    """Pictures of the result."""

    sheet: Annotated[Path | None, Group("Imagic")] = None
    """also write a sheet of pictures from the given one (0) to the text (1)"""


@command(positional="pictures")
def word(files: Pictures, options: WordOptions, run: RunOptions, source: ModelSource) -> None:
    """Textual inversion: teach the model a new word from pictures of one thing or style.

    For example: `diffuscope train word pictures/ --word "<fox>" --like fox -o fox.safetensors`, and then
    `diffuscope generate "a <fox> on a blue background" --embedding fox.safetensors`.
    """
    from diffuscope.finetune import train_word
    from diffuscope.finetune.word import STYLE, THING

    with _shown(files) as (told, on_step):
        report = train_word(
            _opened(source), files.pictures, files.out, **vars(options), **vars(run), tell=told, on_step=on_step
        )
    say(str(report))
    prompt = (STYLE if options.style else THING)[0].format(options.word)
    file = files.out.as_posix()
    python = f"pipe.load_embedding({file!r}); pipe({prompt!r}).save('out.png', overwrite=False)"
    say_drawing(source, prompt, ["--embedding", file], python)


@command(positional="pictures")
def lora(files: Pictures, options: LoraOptions, run: RunOptions, source: ModelSource) -> None:
    """Train a LoRA on your pictures, and keep the rest of the model as it is by pictures of a prior.

    For example: `diffuscope train lora pictures/ --caption "a zeb fox" --prior "a fox" -o zeb.safetensors`, and then
    `diffuscope generate "a zeb fox <lora:zeb>" --lora-dir .`.
    """
    from diffuscope.finetune import train_lora

    with _shown(files) as (told, on_step):
        report = train_lora(
            _opened(source), files.pictures, files.out, **vars(options), **vars(run), tell=told, on_step=on_step
        )
    say(str(report))
    prompt = report.pictures.captions[0]
    python = f"pipe.load_lora({files.out.as_posix()!r}); pipe({prompt!r}).save('out.png', overwrite=False)"
    say_drawing(source, *_tagged(prompt, files.out), python)


@command(positional="pictures")
def imagic(files: Pictures, options: ImagicOptions, run: RunOptions, source: ModelSource, sheet: Sheet) -> None:
    """Imagic: edit one picture by a text of what it should become.

    For example: `diffuscope train imagic fox.png --prompt "a fox with a hat" -o hat.safetensors --sheet hat.png`.
    """
    from diffuscope.finetune import load_imagic, train_imagic
    from diffuscope.finetune.imagic import ETAS
    from diffuscope.images import write_png
    from diffuscope.output import check_output

    if sheet.sheet is not None:
        check_output(sheet.sheet, "sheet")
        if sheet.sheet.exists() and not run.overwrite:
            raise OutputError(f"{sheet.sheet} exists; give another name for the sheet, or --overwrite to replace it")
    pipe = _opened(source)
    with _shown(files) as (told, on_step):
        report = train_imagic(pipe, files.pictures, files.out, **vars(options), **vars(run), tell=told, on_step=on_step)
    say(str(report))
    if sheet.sheet is not None:
        if not files.quiet:
            tell(f"drawing {len(ETAS)} pictures for the sheet")
        write_png(sheet.sheet, load_imagic(pipe, files.out).sheet(seed=run.seed, height=run.size, width=run.size))
        say(f"{sheet.sheet}")
    edit = f"load_imagic(pipe, {files.out.as_posix()!r}).at(0.7)"
    python = f"pipe(conditioning={edit}).save('out.png', overwrite=False)"
    imported = "from diffuscope.finetune import load_imagic"
    say_drawing(source, *_tagged(options.prompt, files.out), python, imported)


def _tagged(prompt: str, lora: Path) -> tuple[str, list[str]]:
    """A prompt with the tag of a LoRA, and the flag of its folder."""
    return f"{prompt} <lora:{lora.stem}>", ["--lora-dir", lora.parent.as_posix()]


def _opened(source: ModelSource) -> "Pipeline":
    from diffuscope.pipeline import open_model

    return open_model(source)


@contextmanager
def _shown(files: Pictures) -> Iterator[tuple[Callable[[str], None], Callable[[int, int, float], None]]]:
    """Where notes and progress go, to the terminal or nowhere; one that is asked to end says how it goes on."""
    from tqdm import tqdm

    with (
        resumable(files.out.with_suffix(".run")),
        tqdm(unit="step", file=sys.stderr, disable=files.quiet, leave=False, delay=1e-3) as bar,  # not before a step
    ):

        def on_step(step: int, steps: int, loss: float) -> None:
            bar.total = steps
            bar.set_postfix({"loss": f"{loss:.4g}"}, refresh=False)
            bar.update(step - bar.n)

        def told(text: str) -> None:
            bar.clear()
            tell(text)

        yield (lambda _: None) if files.quiet else told, on_step
