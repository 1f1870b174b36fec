"""``diffuscope train``: run stages of the emoji recipe."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diffuscope.errors import InputError

if TYPE_CHECKING:
    import torch

    from diffuscope.recipes.emoji import UNetRecipe
    from diffuscope.training.examples import Examples

Stage = Literal["vae", "settle", "text", "unet"]


def train(
    stages: Annotated[tuple[Stage, ...], tyro.conf.Positional],
    *,
    corpus: Path,
    teacher: Path,
    out: Path,
    vae: Path | None = None,
    initial: Path | None = None,
    seconds: float | None = None,
    stop_after: float | None = None,
    scenes: int | None = None,
    device: str = "auto",
) -> None:
    """Train the emoji model from nothing, stage by stage. A stage that was interrupted goes on where it was saved.

    At every checkpoint of the stage unet a model is written into OUT/model, ready to load.

    Args:
        stages: vae, settle, text, unet; each needs what those before it wrote into OUT.
        corpus: the file that `diffuscope data build` wrote.
        teacher: EfficientNet-Lite0's weights.
        out: folder of the run.
        vae: autoencoder to use instead of the one in OUT; `settle` starts from it.
        initial: model folder whose U-Net and text encoder the stage unet goes on from, by a shorter recipe.
        seconds: length of the last stage named, instead of the recipe's.
        stop_after: seconds after which the stage unet saves itself and stops.
        scenes: pictures to learn from, instead of the recipe's.
        device: auto, cpu, cuda, cuda:1, mps or xpu.
    """
    import torch

    from diffuscope.loading import choose_device
    from diffuscope.recipes import emoji
    from diffuscope.recipes import stages as run
    from diffuscope.training import ranks

    if not stages:
        raise InputError("no stage is named; give one or more of vae, settle, text, unet")
    _check(corpus, teacher, vae, initial)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    length = {} if seconds is None else {"seconds": seconds}
    last = stages[-1]
    with ranks.joined(choose_device(device)) as place:
        autoencoder = vae or out / "settle" / "vae.safetensors"
        if {"vae", "settle"} & set(stages):
            dataset = run.Dataset.load(corpus, place)
            for stage, recipe in (("vae", emoji.vae), ("settle", emoji.settle)):
                if stage in stages:
                    begin = None if stage == "vae" else vae or out / "vae" / "vae.safetensors"
                    run.train_vae(recipe(**(length if stage == last else {})), dataset, teacher, out / stage, begin)
                    autoencoder = out / stage / "vae.safetensors"
        if not {"text", "unet"} & set(stages):
            return
        drawn = emoji.examples() if initial is None else emoji.examples(seed=2)
        drawn = drawn if scenes is None else replace(drawn, scenes=scenes)
        source = run.made_from(drawn, corpus, autoencoder)
        examples = run.kept_examples(out, place, source)
        if examples is None:
            dataset = run.Dataset.load(corpus, place)
            network = run.load_vae(emoji.settle(), autoencoder)
            examples = run.make_examples(drawn, dataset, network, teacher, out, source)
        if "text" in stages:
            run.train_text(emoji.text(**(length if last == "text" else {})), examples, out / "text")
        if "unet" in stages:
            part = emoji.unet if initial is None else emoji.finish
            _train_unet(part(**length), examples, autoencoder, out, initial, stop_after)


def _train_unet(
    recipe: "UNetRecipe",
    examples: "tuple[Examples, Examples]",
    autoencoder: Path,
    out: Path,
    initial: Path | None,
    stop_after: float | None,
) -> None:
    import torch

    from diffuscope.recipes import emoji, ship
    from diffuscope.recipes import stages as run
    from diffuscope.training.unet import Painter

    seen = ship.seen_tokens(examples[0].ids, recipe.model.text_encoder.vocabulary)
    if initial is None:
        painter = run.new_painter(recipe, run.load_towers(recipe, out / "text" / "towers.safetensors"))
    else:
        painter = ship.shipped_painter(initial)
        seen = torch.cat([seen, ship.known_tokens(painter)]).unique()  # a rare word learned before is kept
    vae = run.load_vae(emoji.settle(), autoencoder).state_dict()

    def saved(average: "torch.nn.Module") -> None:
        assert isinstance(average, Painter)
        ship.ship(average, vae, seen, out / "model", recipe.model)

    run.train_unet(recipe, examples, painter, out / "unet", stop_after, saved)


def _check(corpus: Path, teacher: Path, vae: Path | None, initial: Path | None) -> None:
    for path in (corpus, teacher, vae):
        if path is not None and not path.is_file():
            raise InputError(f"no file {path}; see `diffuscope train --help`")
    if initial is not None and not initial.is_dir():
        raise InputError(f"no folder {initial}; give a model folder such as OUT/model of an earlier run")
