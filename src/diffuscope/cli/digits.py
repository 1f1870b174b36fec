"""``diffuscope train digits`` and ``diffuscope train fashion``: small models on pixels, from nothing to an exam."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from diffuscope.cli.common import OptionalFloat, OptionalInt, OptionalPath
from diffuscope.cli.terminal import say, tell
from diffuscope.cli.trained import resumable, say_use

if TYPE_CHECKING:
    from diffuscope.data.digits import LabelledImages
    from diffuscope.recipes.digits import DigitsRecipe


def digits(*, out: Path, seconds: OptionalFloat = None, steps: OptionalInt = None, device: str = "auto") -> None:
    """Train a model of handwritten digits from nothing, and examine it. An interrupted run resumes.

    OUT then has the model, for `diffuscope.recipes.digits.load`, a sheet of 100 digits, the curves and the scores.

    Args:
        out: folder of the run.
        seconds: length of the training, instead of the recipe's.
        steps: length of the training in steps instead of seconds; it can be repeated exactly.
        device: auto, cpu, cuda, cuda:1, mps or xpu.
    """
    from diffuscope.data.digits import load_digits, split
    from diffuscope.recipes import digits as recipes

    recipe = recipes.of_length(recipes.digits(), seconds=seconds, steps=steps)
    _run(recipe, split(load_digits(), recipes.HELD_OUT), out, device)


def fashion(
    *,
    out: Path,
    folder: OptionalPath = None,
    seconds: OptionalFloat = None,
    steps: OptionalInt = None,
    device: str = "auto",
) -> None:
    """Train a model of ten kinds of clothes (Fashion-MNIST) from nothing, and examine it; meant for a GPU.

    Args:
        out: folder of the run.
        folder: with the four files of Fashion-MNIST, instead of that of Debian's package dataset-fashion-mnist.
        seconds: length of the training, instead of the recipe's.
        steps: length of the training in steps instead of seconds; it can be repeated exactly.
        device: auto, cpu, cuda, cuda:1, mps or xpu.
    """
    from diffuscope.data.digits import DEBIAN, load_fashion
    from diffuscope.recipes import digits as recipes

    recipe = recipes.of_length(recipes.fashion(), seconds=seconds, steps=steps)
    _run(recipe, load_fashion(folder or DEBIAN), out, device)


def _run(recipe: "DigitsRecipe", images: "tuple[LabelledImages, LabelledImages]", out: Path, device: str) -> None:
    from diffuscope.loading import choose_device
    from diffuscope.recipes.digits import examine, train_pixels
    from diffuscope.training.run_folder import LOG

    loop, start = recipe.loop, time.monotonic()
    length = f"{loop.steps} steps" if loop.seconds is None else f"{loop.seconds:g} s"
    with resumable(out):
        tell(f"training for {length}; {out / LOG} has how far it is")
        model = train_pixels(recipe, *images, out, choose_device(device))
        seconds = time.monotonic() - start
        tell("drawing 1,000 pictures for the exam, which takes about a minute without a GPU")
        exam = examine(model, *images, out)
    say(f"{out}  {seconds:.0f} s of training, 1,000 pictures from the seeds 0 to 999")
    say(f"read as asked   {exam.as_asked.value:.3f} ({exam.as_asked.low:.3f} to {exam.as_asked.high:.3f})")
    say(f"real pictures   {exam.real.value:.3f} by the same judge, which has seen neither")
    say(f"memorised       {exam.memorised:.3f}, where real pictures have 0.010")
    say(f"distance        {exam.distance:.4f} to real pictures, which have {exam.distance_real:.4f} among themselves")
    label = len(recipe.classes) - 1
    folder, picture = out.as_posix(), (out / f"{label}.png").as_posix()
    draws = f"from diffuscope.recipes.digits import load; load({folder!r})({label}).save({picture!r})"
    say_use(["python", "-c", draws])
