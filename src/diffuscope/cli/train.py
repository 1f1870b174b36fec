"""``diffuscope train``: run stages of the emoji recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diffuscope.errors import InputError

if TYPE_CHECKING:
    from diffuscope.recipes.stages import Stock

Stage = Literal["vae", "settle", "text", "unet"]
Lengths = dict[Stage, dict[str, float]]


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

    from diffuscope.recipes.stages import Stock

    if not stages:
        raise InputError("no stage is named; give one or more of vae, settle, text, unet")
    for path in (corpus, teacher):
        if not path.is_file():
            raise InputError(f"no file {path}; see `diffuscope train --help`")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    lengths: Lengths = {} if seconds is None else {stages[-1]: {"seconds": seconds}}
    stock = Stock.load(corpus, torch.device(device))
    _autoencoder(stages, lengths, stock, teacher, out, vae)
    if {"text", "unet"} & set(stages):
        _painter(stages, lengths, stock, teacher, out, stop_after)


def _autoencoder(
    stages: tuple[Stage, ...], lengths: Lengths, stock: "Stock", teacher: Path, out: Path, start: Path | None
) -> None:
    from diffuscope.recipes import emoji
    from diffuscope.recipes import stages as run
    from diffuscope.training.curves import draw

    if "vae" in stages:
        run.train_vae(emoji.vae(**lengths.get("vae", {})), stock, teacher, out / "vae")
        draw(out / "vae" / "log.jsonl", out / "vae" / "curves.png")
    if "settle" in stages:
        start = out / "vae" / "vae.safetensors" if start is None else start
        run.train_vae(emoji.settle(**lengths.get("settle", {})), stock, teacher, out / "settle", start)
        draw(out / "settle" / "log.jsonl", out / "settle" / "curves.png")


def _painter(
    stages: tuple[Stage, ...], lengths: Lengths, stock: "Stock", teacher: Path, out: Path, stop_after: float | None
) -> None:
    from diffuscope.recipes import emoji
    from diffuscope.recipes import stages as run
    from diffuscope.recipes.ship import seen_tokens, ship
    from diffuscope.training.curves import draw
    from diffuscope.weights import files

    autoencoder = out / "settle" / "vae.safetensors"
    network = run.load_vae(emoji.settle(), autoencoder)
    examples = run.make_examples(emoji.examples(), stock, network, teacher, out)
    if "text" in stages:
        run.train_text(emoji.text(**lengths.get("text", {})), examples, out / "text")
    if "unet" in stages:
        recipe = emoji.unet(**lengths.get("unet", {}))
        towers = run.load_towers(recipe, examples, out / "text" / "towers.safetensors")
        run.train_unet(recipe, examples, towers, out / "unet", stop_after)
        draw(out / "unet" / "log.jsonl", out / "unet" / "curves.png")
        weights = files.read(out / "unet" / "painter.safetensors")
        seen = seen_tokens(examples[0].ids)
        ship(weights, files.read(autoencoder), seen, out / "model", recipe.model, recipe.model.preset)
