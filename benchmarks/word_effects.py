"""What each word does in the images of the contact sheet, and what the classifier sees in them.

    python benchmarks/word_effects.py --out benchmarks/results/word_effects.json

For each prompt of the sheet, with its seed: the effect of each word (``lens.word_effects``) and the classifier's name
for the image. ``tests/integration/test_word_effects.py`` reads the result.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

import diffuscope as ds
from diffuscope.evaluate.classifier import predict, read_classifier
from diffuscope.evaluate.contact_sheet import PROMPTS, SEED
from diffuscope.lens.recording import Record
from diffuscope.lens.word_effects import word_effects

CLASSIFIER = Path(__file__).parent / "classifier" / "classifier.safetensors"

OTHERS = ("a dog and a banana", "a red apple and a green pear")
"""Prompts of which the model draws only a part, with the sheet's first seed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    pipe = ds.load("emoji")
    classifier, _, concepts = read_classifier(CLASSIFIER)
    classifier = classifier.to(pipe.device)
    rows = []
    for seed, prompt in (*enumerate(PROMPTS, SEED), *((SEED, prompt) for prompt in OTHERS)):
        record = Record()
        run = pipe.steps(prompt, seed=seed, guidance=record, upscale=1)
        (image,) = run.result().images
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]
        seen = concepts[predict(classifier, pixels).item()]
        effects = {word: round(effect, 3) for word, effect in word_effects(pipe, prompt, record, run.levels).items()}
        rows.append({"prompt": prompt, "seed": seed, "classifier": seen, "effects": effects})
        sys.stderr.write(f"{rows[-1]}\n")
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    out.write_text(f'{{"unet": "{pipe.weights["unet"]}", "rows": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
