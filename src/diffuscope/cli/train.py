"""``diffuscope train``: run stages of the emoji recipe."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from diffuscope.errors import InputError

Stage = Literal["vae", "text", "unet"]


def train(
    stages: Annotated[tuple[Stage, ...], tyro.conf.Positional],
    *,
    corpus: Path,
    teacher: Path,
    out: Path,
    vae: Path | None = None,
    seconds: float | None = None,
    stop_after: float | None = None,
    device: str = "auto",
) -> None:
    """Train the emoji model from nothing, stage by stage. A stage that was interrupted goes on where it was saved.

    Args:
        stages: vae, text, unet; each needs what those before it wrote into OUT.
        corpus: the file that `diffuscope data build` wrote.
        teacher: EfficientNet-Lite0's weights.
        out: folder of the run.
        vae: autoencoder to use instead of the one in OUT.
        seconds: length of the last stage named, instead of the recipe's.
        stop_after: seconds after which the last stage saves itself and stops.
        device: cuda, cpu, or auto.
    """
    import torch

    from diffuscope.recipes import emoji
    from diffuscope.recipes import stages as run
    from diffuscope.training.curves import draw

    for path in (corpus, teacher):
        if not path.is_file():
            raise InputError(f"no file {path}; see `diffuscope train --help`")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    stock = run.Stock.load(corpus, torch.device(device))
    last = stages[-1] if stages else None

    def length(stage: Stage) -> dict[str, float]:
        return {"seconds": seconds} if seconds is not None and stage == last else {}

    if "vae" in stages:
        run.train_vae(emoji.vae(**length("vae")), stock, teacher, out / "vae", stop_after if last == "vae" else None)
        draw(out / "vae" / "log.jsonl", out / "vae" / "curves.png")
    if not {"text", "unet"} & set(stages):
        return
    network = run.load_vae(emoji.vae(), vae or out / "vae" / "vae.safetensors")
    examples = run.make_examples(emoji.examples(), stock, network, teacher, out)
    if "text" in stages:
        run.train_text(emoji.text(**length("text")), examples, out / "text")
    if "unet" in stages:
        recipe = emoji.unet(**length("unet"))
        towers = run.load_towers(recipe, examples, out / "text" / "towers.safetensors")
        run.train_unet(recipe, examples, towers, out / "unet", stop_after)
        draw(out / "unet" / "log.jsonl", out / "unet" / "curves.png")
