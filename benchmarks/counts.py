"""How often the counter of the scores is right on real scenes, none left out.

    python benchmarks/counts.py --corpus corpus.jsonl.xz --out benchmarks/results/counts.json

Prompts of two to nine things are drawn by a hash, each as a real scene in one emoji style. `asked` is the share
of prompts that stay in the evaluation: those of which every style is counted right.
"""

import json
import sys
from pathlib import Path

import torch
import tyro

from diffuscope.data.captions import COUNTS
from diffuscope.data.split import stable_hash
from diffuscope.evaluate import prompts
from diffuscope.evaluate.eval_data import EvalData
from diffuscope.evaluate.intervals import proportion
from diffuscope.evaluate.scores import measured, real_images
from diffuscope.weights.store import documents


def main(*, corpus: Path, out: Path, count: int = 400, asked: int = 40) -> None:
    """Count the things in real scenes.

    Args:
        corpus: the file of `diffuscope data build`.
        out: JSON file to write.
        count: scenes.
        asked: prompts that are checked in every style.
    """
    data = EvalData.load(corpus, torch.device("cpu"))
    listed = sorted(prompts.counts(data), key=lambda prompt: stable_hash("counter", prompt.text))
    drawn = listed[:count]
    right = measured(real_images(data, drawn), drawn)["right"]
    numbers = torch.tensor([prompt.count for prompt in drawn])
    kept = []
    for prompt in listed[:asked]:
        every = prompts.in_every_style(data, prompt)
        kept.append(bool(measured(real_images(data, every), every)["right"].all()))
    document = {
        "right": vars(proportion(right[:, None])),
        "by number": {n: vars(proportion(right[numbers == n][:, None])) for n in COUNTS if (numbers == n).any()},
        "asked": vars(proportion(torch.tensor(kept)[:, None])),
        "split": data.split.hash,
        "corpus": data.corpus_hash,
        "command": " ".join(sys.argv),
    }
    documents.write_text(out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
