"""``diffuscope train``: the stages of the emoji recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import tyro

from diffuscope.cli.common import OptionalFloat, OptionalInt, OptionalPath, require_files
from diffuscope.cli.flags import flag_of
from diffuscope.cli.terminal import tell
from diffuscope.cli.trained import resumable, say_drawing, say_next
from diffuscope.errors import InputError, Unquoted
from diffuscope.model_source import ModelSource

if TYPE_CHECKING:
    import torch

    from diffuscope.recipes.emoji import UNetRecipe
    from diffuscope.training.examples import Examples

Stage = Literal["vae", "vae-finetune", "examples", "text", "unet"]


def train(
    stages: Annotated[tuple[Stage, ...], tyro.conf.Positional],
    *,
    corpus: Path,
    teacher: Path,
    out: Path,
    vae: OptionalPath = None,
    initial: OptionalPath = None,
    seconds: OptionalFloat = None,
    stop_after: OptionalFloat = None,
    scenes: OptionalInt = None,
    as_difference: bool = False,
    device: str = "auto",
) -> None:
    """Train the emoji model from scratch, stage by stage. An interrupted stage resumes from its checkpoint.

    Every checkpoint of the stage unet writes a model into OUT/model. To teach a model one thing of your own there are
    `diffuscope train word`, `train lora` and `train imagic`; `train digits` needs three minutes, and no pictures.

    Args:
        stages: stages to run, in order; each needs the files in OUT of the stages before it.
        corpus: the file of `diffuscope data build`.
        teacher: EfficientNet-Lite0's weights, for image features.
        out: folder of the run.
        vae: autoencoder to use instead of the one in OUT; `vae-finetune` starts from it.
        initial: shipped model or model folder; the stage unet finetunes its U-Net and text encoder.
        seconds: length of the last stage, instead of the recipe's.
        stop_after: seconds after which the stage unet saves and stops.
        scenes: number of training images, instead of the recipe's.
        as_difference: train what a small difference from INITIAL, a shipped model, can store, and write OUT/model so.
        device: auto, cpu, cuda, cuda:1, mps or xpu.
    """
    options = {**locals(), "stages": None, "seconds": None, "stop_after": None}  # of the stages that are left
    from diffuscope.data.corpus import Corpus
    from diffuscope.loading import choose_device
    from diffuscope.recipes import emoji, ship
    from diffuscope.recipes import stages as run
    from diffuscope.training import distributed

    if not stages:
        raise InputError("stages", Unquoted("none"), "one or more of vae, vae-finetune, examples, text, unet")
    require_files(corpus=corpus, teacher=teacher, vae=vae)
    initial, base = _initial(initial, as_difference)
    _check_stages(stages, out, vae, initial)
    run.prefer_speed()
    tell(f"pictures are rendered first, for minutes; {out}/STAGE/log.jsonl has how far a stage is")
    length = {} if seconds is None else {"seconds": seconds}
    last = stages[-1]
    with resumable(out), distributed.process_group(choose_device(device)) as local_device:
        autoencoder = vae or out / "vae-finetune" / "vae.safetensors"
        if {"vae", "vae-finetune"} & set(stages):
            dataset = run.Dataset.load(corpus, local_device)
            for stage, recipe in (("vae", emoji.vae), ("vae-finetune", emoji.finetune_vae)):
                if stage in stages:
                    start = None if stage == "vae" else vae or out / "vae" / "vae.safetensors"
                    run.train_vae(recipe(**(length if stage == last else {})), dataset, teacher, out / stage, start)
                    autoencoder = out / stage / "vae.safetensors"
        if not {"examples", "text", "unet"} & set(stages):
            say_result(stages, out, options)
            return
        examples_recipe = emoji.examples() if initial is None else emoji.examples(seed=2)
        if scenes is not None:
            examples_recipe = replace(examples_recipe, scenes=scenes)
        source = run.provenance(examples_recipe, corpus, autoencoder)
        examples = run.cached_examples(out, local_device, source)
        if examples is None:
            dataset = run.Dataset.load(corpus, local_device)
            network = run.load_vae(emoji.finetune_vae(), autoencoder)
            examples = run.make_examples(examples_recipe, dataset, network, teacher, out, source)
        if "text" in stages:
            run.train_text(emoji.text(**(length if last == "text" else {})), examples, out / "text")
        if "unet" in stages:
            if distributed.rank() == 0:
                ship.write_words(out / "model", Corpus.load(corpus), initial)
            unet_recipe = _unet_recipe(initial, base, as_difference, length)
            _train_unet(unet_recipe, examples, autoencoder, out, initial, stop_after)
        say_result(stages, out, options)


def say_result(stages: Sequence[Stage], out: Path, options: Mapping[str, object]) -> None:
    """Print what uses the model of a run, or the command of the stages that are left; one process of several does.

    Args:
        stages: those that have ended.
        out: folder of the run.
        options: of the command, by argument; None is one that the stages that are left do not have.
    """
    from diffuscope.training import distributed

    if distributed.rank() > 0:
        return
    if "unet" in stages:
        python = "pipe('a red fox').save('out.png', overwrite=False)"
        say_drawing(ModelSource((out / "model").as_posix()), "a red fox", [], python)
        return
    order = get_args(Stage)
    left = order[max(map(order.index, stages)) + 1 :]
    without = {"examples", "text"} if options["initial"] else {"examples"}
    given = {name: value for name, value in options.items() if value not in (None, False, "auto")}
    flags = [[flag_of(name)] if value is True else [flag_of(name), str(value)] for name, value in given.items()]
    say_next(["diffuscope", "train", *(stage for stage in left if stage not in without), *chain.from_iterable(flags)])


def _check_stages(stages: Sequence[str], out: Path, vae: Path | None, initial: Path | None) -> None:
    """Refuse stages that lack the file of one before them."""
    later = bool({"examples", "text", "unet"} & {*stages})
    needs = {
        "vae": (out / "vae" / "vae.safetensors", "vae-finetune" in stages and vae is None),
        "vae-finetune": (out / "vae-finetune" / "vae.safetensors", later and vae is None and "vae" not in stages),
        "text": (out / "text" / "towers.safetensors", "unet" in stages and initial is None),
    }
    for stage, (path, is_needed) in needs.items():
        if is_needed and stage not in stages and not path.is_file():
            raise InputError("out", str(out), f"a folder with {path.relative_to(out)}", f"Run the stage {stage} before")


def _initial(initial: Path | None, as_difference: bool) -> tuple[Path | None, str | None]:
    """The folder of the initial model, and its name if it is a shipped one."""
    from diffuscope import model_files

    shipped = model_files.shipped_models()
    base = str(initial) if str(initial) in shipped else None
    if as_difference and base is None:
        raise InputError("initial", initial and str(initial), f"a shipped model for a difference: {', '.join(shipped)}")
    if base is not None:
        return shipped[base], base
    if initial is not None and not initial.is_dir():
        raise InputError("initial", str(initial), "a model folder, such as OUT/model of an earlier run")
    return initial, None


def _unet_recipe(initial: Path | None, base: str | None, as_difference: bool, length: dict[str, float]) -> "UNetRecipe":
    from diffuscope.recipes import emoji

    if initial is None:
        return emoji.unet(**length)
    if base is None:
        return emoji.finetune_unet(**length)
    recipe = emoji.continue_unet(**length, as_difference=as_difference)
    return replace(recipe, model=replace(recipe.model, base=base)) if as_difference else recipe


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
    from diffuscope.training.unet import DiffusionModel

    tokens = ship.used_tokens(examples[0].ids, recipe.model.text_encoder.vocabulary)
    if initial is None:
        model = run.new_model(recipe, run.load_clip(recipe, out / "text" / "towers.safetensors"))
    else:
        model = ship.load_model(initial)
        tokens = torch.cat([tokens, ship.trained_tokens(model)]).unique()  # keeps rare words of the earlier run
    vae = run.load_vae(emoji.finetune_vae(), autoencoder).state_dict()

    def export(ema: "torch.nn.Module") -> None:
        assert isinstance(ema, DiffusionModel)
        if recipe.rounded_from is None:
            ship.export_model(ema, vae, tokens, out / "model", recipe.model)
        else:
            ship.export_difference(ema, out / "model", recipe.model)

    run.train_unet(recipe, examples, model, out / "unet", stop_after, export)
