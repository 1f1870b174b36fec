"""``diffuscope train``: run stages of the emoji recipe."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from diffuscope.errors import InputError

Stage = Literal["vae", "settle", "text", "unet"]


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

    After the stage unet the model stands in OUT/model, ready to load.

    Args:
        stages: vae, settle, text, unet; each needs what those before it wrote into OUT.
        corpus: the file that `diffuscope data build` wrote.
        teacher: EfficientNet-Lite0's weights.
        out: folder of the run.
        vae: autoencoder that `settle` starts from, instead of the one in OUT.
        seconds: length of the last stage named, instead of the recipe's.
        stop_after: seconds after which the stage unet saves itself and stops.
        device: cuda, cpu, or auto.
    """
    import torch

    from diffuscope.recipes import emoji
    from diffuscope.recipes import stages as run
    from diffuscope.recipes.ship import seen_tokens, ship
    from diffuscope.training.curves import draw
    from diffuscope.weights import files

    for path in (corpus, teacher):
        if not path.is_file():
            raise InputError(f"no file {path}; see `diffuscope train --help`")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    last = stages[-1] if stages else None
    stock = run.Stock.load(corpus, torch.device(device))

    def length(stage: Stage) -> dict[str, float]:
        return {"seconds": seconds} if seconds is not None and stage == last else {}

    if "vae" in stages:
        run.train_vae(emoji.vae(**length("vae")), stock, teacher, out / "vae")
        draw(out / "vae" / "log.jsonl", out / "vae" / "curves.png")
    if "settle" in stages:
        start = vae or out / "vae" / "vae.safetensors"
        run.train_vae(emoji.settle(**length("settle")), stock, teacher, out / "settle", start)
        draw(out / "settle" / "log.jsonl", out / "settle" / "curves.png")
    if not {"text", "unet"} & set(stages):
        return
    autoencoder = out / "settle" / "vae.safetensors"
    network = run.load_vae(emoji.settle(), autoencoder)
    examples = run.make_examples(emoji.examples(), stock, network, teacher, out)
    if "text" in stages:
        run.train_text(emoji.text(**length("text")), examples, out / "text")
    if "unet" in stages:
        recipe = emoji.unet(**length("unet"))
        towers = run.load_towers(recipe, examples, out / "text" / "towers.safetensors")
        run.train_unet(recipe, examples, towers, out / "unet", stop_after)
        draw(out / "unet" / "log.jsonl", out / "unet" / "curves.png")
        weights = files.read(out / "unet" / "painter.safetensors")
        seen = seen_tokens(examples[0].ids)
        ship(weights, files.read(autoencoder), seen, out / "model", recipe.model, recipe.model.preset)
