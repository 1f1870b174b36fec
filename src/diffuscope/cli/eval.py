"""``diffuscope eval`` and what belongs to it: scores, the choice of a preset, the judge's training."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffuscope.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from diffuscope.evaluate.judges import Judges
    from diffuscope.pipeline import Pipeline


def evaluate(
    *,
    corpus: Path,
    teacher: Path,
    model: str = "emoji",
    classifier: Path | None = None,
    towers: Path | None = None,
    count: int = 1000,
    out: Path | None = None,
    sheet: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Score a model; docs/explanation/scores.md defines every number.

    Args:
        corpus: the file that `diffuscope data build` wrote.
        teacher: EfficientNet-Lite0's weights.
        model: a shipped model's name, or a model's folder.
        classifier: the judge that `diffuscope eval classifier` trained.
        towers: the text stage's towers.safetensors; without it, the one in the model's folder if there is one.
        count: pictures of each kind of prompt; fewer than 1000 is a smoke test.
        out: where to write the JSON document; the table is always printed.
        sheet: where to write a contact sheet of 64 fixed prompts.
        device: auto, cpu, cuda, cuda:1, mps or xpu.
        dtype: auto, float32, bfloat16 or float16.
    """
    from diffuscope.evaluate import report, scores
    from diffuscope.evaluate.judges import file_hash
    from diffuscope.evaluate.sheet import paint_sheet
    from diffuscope.images import check_output, write_png
    from diffuscope.weights.store.files import write_text

    _check(count, corpus, teacher, classifier, towers)
    if sheet is not None:
        check_output(sheet)
    pipe, judges = _load(model, corpus, teacher, classifier, towers, device, dtype)
    if sheet is not None:
        _notice("the contact sheet")
        write_png(sheet, paint_sheet(pipe))
    document = scores.evaluate(pipe, judges, count, _notice)
    document["judges"] = {"teacher": file_hash(teacher), "classifier": classifier and file_hash(classifier)}
    document["command"] = " ".join(["diffuscope", *sys.argv[1:]])
    if out is not None:
        write_text(out, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    sys.stdout.write(report.table(document))


def contact_sheet(
    *, model: str = "emoji", out: Path = Path("sheet.png"), device: str = "auto", dtype: str = "auto"
) -> None:
    """Paint 64 fixed prompts with the seeds 32 to 95 at the model's preset, nothing chosen by hand.

    Args:
        model: a shipped model's name, or a model's folder.
        out: where to write.
        device: auto, cpu, cuda, cuda:1, mps or xpu.
        dtype: auto, float32, bfloat16 or float16.
    """
    from diffuscope.evaluate.sheet import paint_sheet
    from diffuscope.images import check_output, write_png
    from diffuscope.pipeline import load

    check_output(out)
    write_png(out, paint_sheet(load(model, device=device, dtype=dtype)))


def preset(
    *,
    corpus: Path,
    teacher: Path,
    model: str = "emoji",
    classifier: Path | None = None,
    count: int = 500,
    calls: tuple[int, ...] = (6, 8, 10, 12, 16, 25),
    guidance_scale: tuple[float, ...] = (2.0, 2.5, 3.0, 4.0, 5.0, 7.5),
    sampler: tuple[str, ...] = ("dpmpp_2m", "ddim", "euler", "heun"),
    out: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Measure settings of a model, from which its preset is chosen.

    Args:
        corpus: the file that `diffuscope data build` wrote.
        teacher: EfficientNet-Lite0's weights.
        model: a shipped model's name, or a model's folder.
        classifier: the judge that `diffuscope eval classifier` trained.
        count: pictures a setting.
        calls: network calls a picture; samplers are compared at equal calls.
        guidance_scale: weights of the prompt.
        sampler: samplers.
        out: where to write the results as JSON; the table is always printed.
        device: auto, cpu, cuda, cuda:1, mps or xpu.
        dtype: auto, float32, bfloat16 or float16.
    """
    from diffuscope.evaluate.choose import as_json, as_table, choose, grid
    from diffuscope.weights.store.files import write_text

    _check(count, corpus, teacher, classifier)
    pipe, judges = _load(model, corpus, teacher, classifier, None, device, dtype)
    settings = list(grid(pipe.schedule, calls, guidance_scale, sampler))
    choices = choose(pipe, judges, settings, count, _notice)
    if out is not None:
        write_text(out, json.dumps(as_json(choices), indent=1) + "\n")
    sys.stdout.write(as_table(choices))


def classifier(*, corpus: Path, out: Path, seconds: float = 90.0, batch: int = 512, device: str = "auto") -> None:
    """Train the independent judge on real pictures, none of them held out; writes OUT/classifier.safetensors.

    Args:
        corpus: the file that `diffuscope data build` wrote.
        out: folder of the run.
        seconds: length of the training.
        batch: pictures a step; fewer for a small machine.
        device: auto, cpu, cuda, cuda:1, mps or xpu.
    """
    from diffuscope.evaluate.material import Material
    from diffuscope.loading import choose_device
    from diffuscope.recipes import classifier as recipes

    _check(batch, corpus)
    _notice("rendering the real pictures")
    material = Material.load(corpus, choose_device(device))
    recipes.train_classifier(recipes.classifier(seconds, batch), material, out)


def _load(
    model: str,
    corpus: Path,
    teacher: Path,
    classifier: Path | None,
    towers: Path | None,
    device: str,
    dtype: str,
) -> "tuple[Pipeline, Judges]":
    from diffuscope import loading
    from diffuscope.evaluate.judges import Judges, galleries, load_classifier, load_tower
    from diffuscope.evaluate.material import Material
    from diffuscope.feature_net import load_efficientnet
    from diffuscope.pipeline import load

    pipe = load(model, device=device, dtype=dtype)
    beside = loading.find(model) / "towers.safetensors"
    if towers is None and beside.is_file():
        towers = beside
    network = load_efficientnet(teacher).to(pipe.device)
    _notice("rendering the real pictures")
    material = Material.load(corpus, pipe.device, pipe.config.preset.height)
    judges = Judges(
        material,
        network,
        *galleries(material, network),
        encode=lambda texts: _pooled(pipe, texts),
        tower=None if towers is None else load_tower(towers, pipe.device),
        classifier=None if classifier is None else load_classifier(classifier, material.split, pipe.device),
    )
    return pipe, judges


def _pooled(pipe: "Pipeline", texts: list[str]) -> "Tensor":
    pooled = pipe.encode_prompt(texts).pooled
    if pooled is None:
        raise InputError(f"the model {pipe.config.name!r} has no pooled text, so no towers; leave --towers out")
    return pooled


def _check(pictures: int, *paths: Path | None) -> None:
    if pictures < 1:
        raise InputError(f"{pictures} pictures are asked for; give at least 1")
    for path in paths:
        if path is not None and not path.is_file():
            raise InputError(f"no file {path}; see `diffuscope eval --help`")


def _notice(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
