"""The speedrun: from the icon packages to a model that passes an exam, and how many seconds it took.

It passed after 1,402 s of one H200, with R@1 .702. ``benchmarks/speedrun.py`` runs it;
docs/how-to/beat-the-speedrun.md has the rules and the table, ``benchmarks/results/speedrun.jsonl`` the log.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from diffuscope.evaluate import scores
from diffuscope.evaluate.eval_data import EvalData
from diffuscope.evaluate.scorer import Scorer, galleries
from diffuscope.models.vae import VAE
from diffuscope.pipeline import load
from diffuscope.recipes import emoji, ship, stages
from diffuscope.training import run_folder
from diffuscope.training.examples import Examples
from diffuscope.training.loop import LoopConfig
from diffuscope.training.unet import DiffusionModel
from diffuscope.vision.feature_net import load_efficientnet
from diffuscope.weights.store import documents

LAPS = "laps.json"
"""File of a run's folder: the seconds of each part, over all calls."""


@dataclass(frozen=True)
class Bar:
    """A score that has to be reached."""

    measure: str
    source: str
    least: float


@dataclass(frozen=True, kw_only=True)
class Speedrun:
    """All settings of a run."""

    vae: emoji.VAERecipe = field(default_factory=lambda: emoji.vae(120.0))
    examples: emoji.ExamplesRecipe = field(default_factory=lambda: emoji.ExamplesRecipe(scenes=400_000))
    text: emoji.TextRecipe = field(default_factory=lambda: emoji.text(40.0))
    unet: emoji.UNetRecipe = field(default_factory=lambda: emoji.unet(600.0))
    exam: tuple[Bar, ...] = (
        Bar("vae.psnr", scores.THROUGH_VAE, 28.0),
        Bar("held_out.r1", "guidance 2.5", 0.70),
        Bar("both.both", "guidance 2.5", 0.95),
    )
    images: int = 1000
    """Of each prompt set."""
    size: int = 128


def with_seed(recipe: Speedrun, seed: int) -> Speedrun:
    """The recipe with other random weights, scenes and noise."""
    return replace(
        recipe,
        vae=replace(recipe.vae, loop=replace(recipe.vae.loop, seed=seed)),
        text=replace(recipe.text, loop=replace(recipe.text.loop, seed=seed)),
        unet=replace(recipe.unet, loop=replace(recipe.unet.loop, seed=seed)),
        examples=replace(recipe.examples, seed=10 * seed + 1),
    )


class Laps:
    """The seconds of each part of a run in ``folder``, added up over its calls; nothing between two parts is free.

    Args:
        folder: of the run.
        started: ``monotonic()`` when the process began.
    """

    def __init__(self, folder: Path, started: float) -> None:
        self._path, self._mark = folder / LAPS, started
        self.seconds: dict[str, float] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def end(self, part: str) -> None:
        """Everything since the last end, or the beginning, was ``part``."""
        now = monotonic()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._mark
        self._mark = now
        documents.write_text(self._path, json.dumps(self.seconds, indent=1) + "\n")


def run(
    recipe: Speedrun,
    corpus: Path,
    feature_net: Path,
    folder: Path,
    device: torch.device,
    laps: Laps,
    stop_after: float | None = None,
) -> dict[str, Any] | None:
    """The record of a finished run; None if it stopped before its end, and the same call goes on.

    Args:
        recipe: what to do.
        corpus: of ``data.corpus.build``.
        feature_net: EfficientNet-Lite0's weights.
        folder: of the run.
        device: one GPU, or the CPU.
        laps: of the folder.
        stop_after: seconds of this call's U-Net training.
    """
    with _prepared(recipe, corpus, feature_net, folder, device, laps) as (examples, vae):
        towers = folder / "text" / "towers.safetensors"
        if not towers.exists():
            stages.train_text(recipe.text, examples, folder / "text")
            laps.end("text")
        model = stages.new_model(recipe.unet, stages.load_clip(recipe.unet, towers))
        tokens = ship.used_tokens(examples[0].ids, recipe.unet.model.text_encoder.vocabulary)

        def export(ema: torch.nn.Module) -> None:
            assert isinstance(ema, DiffusionModel)
            ship.export_model(ema, vae.state_dict(), tokens, folder / "model", recipe.unet.model)

        stages.train_unet(recipe.unet, examples, model, folder / "unet", stop_after, export)
        laps.end("unet")
    if not _is_finished(recipe.unet.loop, folder / "unet"):
        return None
    document = _examined(recipe, corpus, feature_net, folder / "model", device)
    laps.end("exam")
    return _record(recipe, document, laps.seconds)


def _is_finished(loop: LoopConfig, folder: Path) -> bool:
    """Whether the run in ``folder`` came to its end, by the last line of its log."""
    last = json.loads((folder / run_folder.LOG).read_text(encoding="utf-8").splitlines()[-1])
    return bool(last["step"] >= loop.steps if loop.steps is not None else last["seconds"] >= (loop.seconds or 0.0))


@contextmanager
def _prepared(
    recipe: Speedrun, corpus: Path, feature_net: Path, folder: Path, device: torch.device, laps: Laps
) -> Iterator[tuple[tuple[Examples, Examples], VAE]]:
    """Examples and autoencoder, made or, in a later call, read."""
    path = folder / "vae" / "vae.safetensors"
    source = f"speedrun {recipe.examples}"
    examples = stages.cached_examples(folder, device, source)
    if examples is None:
        dataset = stages.Dataset.load(corpus, device, recipe.size)
        laps.end("render")
        if not path.exists():
            stages.train_vae(recipe.vae, dataset, feature_net, folder / "vae")
            laps.end("vae")
        vae = stages.load_vae(recipe.vae, path)
        examples = stages.make_examples(recipe.examples, dataset, vae, feature_net, folder, source)
        laps.end("examples")
    yield examples, stages.load_vae(recipe.vae, path)


def _examined(recipe: Speedrun, corpus: Path, feature_net: Path, model: Path, device: torch.device) -> dict[str, Any]:
    """The document of the exam's scores, at the preset's guidance."""
    pipe = load(model, device=device, dtype="bfloat16" if device.type == "cuda" else "float32")
    data = EvalData.load(corpus, pipe.device, recipe.size)
    network = load_efficientnet(feature_net).to(pipe.device)
    scorer = Scorer(data, network, *galleries(data, network), encode_texts=lambda texts: torch.zeros(len(texts), 1))
    names = tuple(dict.fromkeys(bar.measure.split(".")[0] for bar in recipe.exam))
    return scores.evaluate(pipe, scorer, recipe.images, names=names, guidance=(None,))


def _record(recipe: Speedrun, document: dict[str, Any], laps: dict[str, float]) -> dict[str, Any]:
    """One row of the table, of JSON values."""
    found = {(entry["measure"], entry["source"]): entry for entry in document["scores"]}
    exam = [{**found[bar.measure, bar.source], "least": bar.least} for bar in recipe.exam]
    kept = ("format", "split", "corpus", "machine", "versions")
    return {
        "passed": all(row["value"] >= row["least"] for row in exam),
        "seconds": sum(laps.values()),
        "laps": laps,
        "exam": exam,
        "recipe": repr(recipe),
        **{name: document[name] for name in kept},
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown, the fastest run that passed first, and those that failed last."""
    lines = ["| seconds | exam | machine | parts, seconds | what is new | commit |", "|---|---|---|---|---|---|"]
    for record in sorted(records, key=lambda record: (not record["passed"], record["seconds"])):
        marks = ", ".join(f"{row['measure']} {row['value']:.3f}" for row in record["exam"])
        passed = "passed" if record["passed"] else "**failed**"
        parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in record["laps"].items())
        about = f"{record['machine']} | {parts} | {record['note']} | {record['commit']}"
        lines.append(f"| {record['seconds']:.0f} | {passed}: {marks} | {about} |")
    return "\n".join(lines) + "\n"
