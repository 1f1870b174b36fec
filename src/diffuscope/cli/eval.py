"""``diffuscope eval``: scores, a contact sheet, measurements for a preset, and the training of the classifier."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diffuscope.cli.common import AUTO, Device, OptionalPath, require_files
from diffuscope.cli.terminal import say, tell
from diffuscope.errors import InputError, Unquoted

if TYPE_CHECKING:
    from torch import Tensor

    from diffuscope.evaluate.scorer import Scorer
    from diffuscope.pipeline import Pipeline


@dataclass(frozen=True)
class Scored:
    """The model that is scored, and what scores it."""

    corpus: Path
    """the file of `diffuscope data build`"""
    teacher: Path
    """EfficientNet-Lite0's weights, for image features"""
    model: str = "emoji"
    """name of a shipped model, or a model folder"""
    classifier: OptionalPath = None
    """the file of `diffuscope eval classifier`; without it there are no classifier scores"""


ScoredFlags = Annotated[Scored, tyro.conf.arg(name="")]
Networks = Annotated[Device, tyro.conf.arg(name="")]


def evaluate(
    scored: ScoredFlags,
    *,
    towers: OptionalPath = None,
    count: int = 1000,
    only: tuple[str, ...] = (),
    guidance_scale: tuple[float, ...] = (5.0,),
    out: OptionalPath = None,
    sheet: OptionalPath = None,
    on: Networks = AUTO,
) -> None:
    """Score a model; docs/explanation/scores.md defines every score.

    Args:
        scored: the model, and what scores it.
        towers: the text stage's towers.safetensors, for the CLIP scores, instead of the one in the model's folder.
        count: images for each kind of prompt, at least; fewer than 1000 is a smoke test.
        only: prompt sets to score, such as counts; none is all of them, and the autoencoder (vae).
        guidance_scale: guidance scales, beside the preset's.
        out: write the scores to this JSON file; the table is always printed.
        sheet: also write a contact sheet of 64 fixed prompts to this PNG.
        on: device and number format.
    """
    from diffuscope.evaluate import report, scores
    from diffuscope.evaluate.contact_sheet import generate_sheet
    from diffuscope.images import write_png
    from diffuscope.output import check_output
    from diffuscope.weights.store.documents import write_text
    from diffuscope.weights.store.files import sha256

    _check_positive(count=count)
    require_files(towers=towers)
    if sheet is not None:
        check_output(sheet, "sheet")
    pipe, scorer = _load(scored, towers, on)
    if sheet is not None:
        tell("the contact sheet")
        write_png(sheet, generate_sheet(pipe))
    names = only or (scores.VAE_SCORES, *scores.PROMPT_SETS)
    document = scores.evaluate(pipe, scorer, count, tell, names, (None, *guidance_scale))
    document["networks"] = {
        "feature_net": sha256(scored.teacher),
        "classifier": scored.classifier and sha256(scored.classifier),
    }
    document["command"] = " ".join(["diffuscope", *sys.argv[1:]])
    if out is not None:
        write_text(out, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    say(report.table(document).rstrip("\n"))


def contact_sheet(*, model: str = "emoji", out: Path = Path("sheet.png"), on: Networks = AUTO) -> None:
    """Generate 64 fixed prompts with seeds 32 to 95 at the model's preset, on one sheet.

    Args:
        model: name of a shipped model, or a model folder.
        out: the PNG to write.
        on: device and number format.
    """
    from diffuscope.evaluate.contact_sheet import generate_sheet
    from diffuscope.images import write_png
    from diffuscope.output import check_output
    from diffuscope.pipeline import load

    check_output(out, "out")
    write_png(out, generate_sheet(load(model, device=on.device, dtype=on.dtype)))


def preset(
    scored: ScoredFlags,
    *,
    count: int = 500,
    calls: tuple[int, ...] = (6, 8, 10, 12, 16, 25),
    guidance_scale: tuple[float, ...] = (2.0, 2.5, 3.0, 4.0, 5.0, 7.5),
    sampler: tuple[str, ...] = ("dpmpp_2m", "ddim", "euler", "heun"),
    out: OptionalPath = None,
    on: Networks = AUTO,
) -> None:
    """Score samplers, steps and guidance scales, to choose a model's preset.

    Args:
        scored: the model, and what scores it.
        count: images for each setting.
        calls: network calls per image; samplers are compared at equal calls.
        guidance_scale: guidance scales.
        sampler: samplers.
        out: write the scores to this JSON file; the table is always printed.
        on: device and number format.
    """
    from diffuscope.evaluate.preset_search import as_json, as_table, score_settings, settings_grid
    from diffuscope.weights.store.documents import write_text

    _check_positive(count=count)
    pipe, scorer = _load(scored, None, on)
    settings = list(settings_grid(pipe.schedule, calls, guidance_scale, sampler))
    scores = score_settings(pipe, scorer, settings, count, tell)
    if out is not None:
        write_text(out, json.dumps(as_json(scores), indent=1) + "\n")
    say(as_table(scores).rstrip("\n"))


def classifier(*, corpus: Path, out: Path, seconds: float = 90.0, batch: int = 512, device: str = "auto") -> None:
    """Train the classifier of the scores on real images, without held-out ones; writes OUT/classifier.safetensors.

    Args:
        corpus: the file of `diffuscope data build`.
        out: folder of the run.
        seconds: length of the training.
        batch: batch size; fewer for a small machine.
        device: auto, cpu, cuda, cuda:1, mps or xpu.
    """
    from diffuscope.evaluate.eval_data import EvalData
    from diffuscope.loading import choose_device
    from diffuscope.recipes import classifier as recipes

    _check_positive(batch=batch)
    require_files(corpus=corpus)
    tell("rendering the real images")
    data = EvalData.load(corpus, choose_device(device))
    recipes.train_classifier(recipes.classifier(seconds, batch), data, out)
    say(f"{out / 'classifier.safetensors'} is for --classifier of `diffuscope eval`")


def _load(scored: Scored, towers: Path | None, on: Device) -> "tuple[Pipeline, Scorer]":
    from diffuscope import model_files
    from diffuscope.evaluate.classifier import load_classifier
    from diffuscope.evaluate.eval_data import EvalData
    from diffuscope.evaluate.scorer import Scorer, galleries, load_projection
    from diffuscope.pipeline import load
    from diffuscope.vision.clip_score import TOWERS
    from diffuscope.vision.feature_net import load_efficientnet

    require_files(corpus=scored.corpus, teacher=scored.teacher, classifier=scored.classifier)
    pipe = load(scored.model, device=on.device, dtype=on.dtype)
    own_towers = model_files.find(scored.model) / TOWERS
    if towers is None and own_towers.is_file():
        towers = own_towers
    feature_net = load_efficientnet(scored.teacher).to(pipe.device)
    tell("rendering the real images")
    data = EvalData.load(scored.corpus, pipe.device, pipe.config.preset.height)
    scorer = Scorer(
        data,
        feature_net,
        *galleries(data, feature_net),
        encode_texts=lambda texts: _pooled(pipe, texts),
        projection=None if towers is None else load_projection(towers, pipe.device),
        classifier=None if scored.classifier is None else load_classifier(scored.classifier, data.split, pipe.device),
    )
    return pipe, scorer


def _pooled(pipe: "Pipeline", texts: list[str]) -> "Tensor":
    pooled = pipe.encode_prompt(texts).pooled
    if pooled is None:
        got = Unquoted(f"a file, for the model {pipe.config.name!r} without pooled text")
        raise InputError("towers", got, "none")
    return pooled


def _check_positive(**numbers: int) -> None:
    for argument, number in numbers.items():
        if number < 1:
            raise InputError(argument, number, "at least 1")
