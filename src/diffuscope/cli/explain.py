"""``diffuscope explain``: how a model paints one prompt, on one page."""

import sys
from pathlib import Path

from tyro.conf import Positional

from diffuscope.errors import InputError, OutputError


def explain(
    prompt: Positional[str],
    /,
    *,
    model: str = "emoji",
    family: str | None = None,
    vae: str | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    sampler: str | None = None,
    out: Path = Path("report.html"),
) -> None:
    """Write one self-contained page: tokens, schedule, trajectory, attention and guidance of a prompt.

    Args:
        prompt: what is painted.
        model: a shipped model, a folder, or a .safetensors file.
        family: for a single file that cannot tell what it is, such as sd21 or sd21-v.
        vae: a file or folder with the VAE that takes the place of the model's own.
        seed: of the picture.
        steps: solver steps.
        guidance_scale: how strongly the text leads; 1 is not at all.
        sampler: any name of any program.
        out: the page; its folder must exist.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"cannot write {out.name!r}: the report is a page, so name it *.html")
    if not out.parent.is_dir():
        raise OutputError(f"cannot write {out}: there is no folder {out.parent}; make it first, or choose another")

    from diffuscope.lens.explain import explain as page
    from diffuscope.pipeline import load
    from diffuscope.weights.store.files import replacing

    text = page(
        load(model, family=family, vae=vae),
        prompt,
        seed=seed,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
    )
    with replacing(out) as part:
        part.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{out}\n")
