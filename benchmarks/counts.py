"""How often the counter of the scores is right on real scenes, none left out.

    python benchmarks/counts.py --corpus corpus.jsonl.xz --out benchmarks/results/counts.json --model emoji

Prompts of two to nine things are drawn by a hash, each as a real scene in one emoji style. `asked` is the share
of prompts that stay in the evaluation: those of which every style is counted right. With `--model`, the first of these
are also generated, at the model's preset, seed i for prompt i: a small `counts.right` for a machine without a GPU. The
large one, of a thousand prompts, is in the document of `diffuscope eval`: `results/emoji.json` for `emoji`.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
import tyro

from diffuscope.data.captions import COUNTS
from diffuscope.data.colours import dominant_tones
from diffuscope.data.compose import Canvas
from diffuscope.data.corpus import Corpus
from diffuscope.data.render import render_all
from diffuscope.data.split import split, stable_hash
from diffuscope.evaluate import prompts
from diffuscope.evaluate.counting import count_things
from diffuscope.evaluate.eval_data import EvalData
from diffuscope.evaluate.generation import Sampling, generate
from diffuscope.evaluate.intervals import proportion
from diffuscope.evaluate.scores import measured, real_images
from diffuscope.pipeline import load
from diffuscope.weights.store import documents


def main(
    *,
    corpus: Path,
    out: Path,
    count: int = 400,
    asked: int = 80,
    concepts: int = 60,
    model: str | None = None,
    images: int = 64,
) -> None:
    """Count the things in real scenes.

    Args:
        corpus: the file of `diffuscope data build`.
        out: JSON file to write.
        count: scenes.
        asked: prompts that are checked in every style.
        concepts: evaluation concepts, chosen by a hash, whose prompts these are.
        model: name of a shipped model, or a model folder.
        images: to generate, at most.
    """
    data = some_concepts(Corpus.load(corpus), concepts)
    listed = sorted(prompts.counts(data), key=lambda prompt: stable_hash("counter", prompt.text))
    drawn = listed[:count]
    right = measured(real_images(data, drawn), drawn)["right"]
    numbers = torch.tensor([prompt.count for prompt in drawn])
    kept = [is_asked(data, prompt) for prompt in listed[:asked]]
    document: dict[str, object] = {
        "right": asdict(proportion(right[:, None])),
        "by number": {n: asdict(proportion(right[numbers == n][:, None])) for n in COUNTS if (numbers == n).any()},
        "asked": asdict(proportion(torch.tensor(kept)[:, None])),
        "concepts": len(data.split.concepts),
        "corpus": data.corpus_hash,
        "command": " ".join(sys.argv),
    }
    if model is not None:
        chosen = [prompt for prompt, keep in zip(listed, kept, strict=False) if keep][:images]
        document["generated"] = generated(model, chosen)
    documents.write_text(out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


def some_concepts(corpus: Corpus, count: int) -> EvalData:
    """Some of the evaluation concepts, rendered."""
    parts = split(corpus)
    chosen = tuple(sorted(parts.concepts, key=lambda concept: stable_hash("counter", concept))[:count])
    pictures = tuple(picture for picture in corpus.pictures if picture.concept in chosen)
    sprites = torch.from_numpy(render_all(Corpus(pictures))).permute(0, 3, 1, 2).contiguous()
    canvas = Canvas.on("cpu", sprites, dominant_tones(sprites))
    return EvalData(pictures, canvas, replace(parts, concepts=chosen), corpus.hash, {}, chosen)


def is_asked(data: EvalData, prompt: prompts.EvalPrompt) -> bool:
    """Whether the real scenes of a prompt are counted right in every style."""
    every = prompts.in_every_style(data, prompt)
    return bool(measured(real_images(data, every), every)["right"].all())


def generated(model: str, chosen: list[prompts.EvalPrompt]) -> dict[str, object]:
    """Whether generated images have as many things as their prompts say, by number too."""
    pipe = load(model, device="cpu", dtype="bfloat16")
    sampling = Sampling.of(pipe.config.preset)
    painted = generate(pipe, [prompt.text for prompt in chosen], range(len(chosen)), sampling)
    right = measured(painted, chosen)["right"]
    found = count_things(painted).tolist()
    return {
        "model": model,
        "weights": pipe.weights,
        "preset": asdict(proportion(right[:, None])),
        "images": [[prompt.text, prompt.count, number] for prompt, number in zip(chosen, found, strict=True)],
    }


if __name__ == "__main__":
    tyro.cli(main)
