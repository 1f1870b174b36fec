"""``diffuscope generate``: pictures from a prompt."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def generate(
    prompt: Positional[str],
    /,
    *,
    model: str = "emoji",
    negative_prompt: str = "",
    steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int | None = None,
    sampler: str | None = None,
    sigmas: str | None = None,
    height: int | None = None,
    width: int | None = None,
    count: int = 1,
    image: Path | None = None,
    strength: float = 0.8,
    upscale: int | None = None,
    out: Annotated[Path, arg(aliases=("-o",))] = Path("out.png"),
    metadata: bool = True,
    preview: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quiet: bool = False,
) -> None:
    """Make pictures from a prompt and write them as PNG.

    What is not given is the model's own preset. Each file holds the receipt from which `diffuscope replay` makes it
    again.

    Args:
        prompt: what to show.
        model: a shipped model's name, or a model's folder.
        negative_prompt: what to lead away from.
        steps: solver steps; more are slower and finer.
        guidance_scale: weight of the prompt; 1 is no guidance and twice as fast.
        seed: of the first picture, the next has one more; without it one is drawn and told.
        sampler: its name in any spelling, such as euler or "DPM++ 2M Karras".
        sigmas: spacing of the noise levels: model, karras or exponential.
        height: in pixels, before upscaling.
        width: in pixels, before upscaling.
        count: how many pictures; several are written as out-0.png, out-1.png and so on.
        image: a picture to start from.
        strength: how much of the start picture is made anew, above 0 up to 1.
        upscale: how many times larger pictures come out, 1 or 4.
        out: where to write.
        metadata: leave prompt, settings and receipt out of the file.
        preview: write the picture as it stands after each step here; slower.
        device: auto, cpu, cuda, cuda:1, mps or xpu.
        dtype: auto, float32, bfloat16 or float16.
        quiet: no progress bar, and no word but warnings and errors.
    """
    from diffuscope.images import check_output, write_png

    check_output(out)
    if preview is not None:
        check_output(preview)

    from tqdm import tqdm

    from diffuscope.pipeline import load

    pipe = load(model, device=device, dtype=dtype)
    run = pipe.steps(
        prompt,
        negative_prompt=negative_prompt,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        seed=seed,
        sampler=sampler,
        sigmas=sigmas,
        height=height,
        width=width,
        num_images_per_prompt=count,
        image=image,
        strength=strength,
        upscale=upscale,
    )
    for step in tqdm(run, unit="step", file=sys.stderr, disable=quiet, leave=False):
        if preview is not None:
            write_png(preview, pipe.decode(step.x0[:1])[0])
    result = run.result()
    paths = result.save(out, metadata=metadata)
    for note in result.receipt["notes"]:
        sys.stderr.write(f"warning: {note}\n")
    if not quiet:
        for path, picture, number in zip(paths, result.images, result.seeds, strict=True):
            sys.stdout.write(f"{path}  {picture.width}x{picture.height}  seed {number}\n")
