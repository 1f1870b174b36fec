"""Are word heat maps where the things are? 100 pictures of "a X and a Y side by side", whose X stands on the left.

python benchmarks/heat_maps.py --out benchmarks/results/heat_maps.json
"""

import argparse
import json
from pathlib import Path

import torch

import diffuscope as ds
from diffuscope.data.captions import Caption, Thing, caption_text
from diffuscope.evaluate.intervals import Score, proportion
from diffuscope.evaluate.scores import device_name
from diffuscope.lens.attention_maps import AttentionCapture
from diffuscope.weights.store.documents import write_text

COLOUR_WORDS = (
    "apple", "ball", "banana", "bear", "bus", "car", "cat", "clock", "cow", "dog", "fish", "fox", "frog",
    "hat", "heart", "house", "key", "lemon", "moon", "pig", "rabbit", "rocket", "rose", "star", "tree",
)  # fmt: skip
"""One token each, chosen before any picture was made."""

APART = (3, 8, 22, 17)
"""Each word stands beside those so many places on: the last two are the first two in the other order."""


def pairs() -> list[tuple[str, str]]:
    """100 of them, each in both orders, so that no word and no side is favoured."""
    return [
        (word, COLOUR_WORDS[(i + apart) % len(COLOUR_WORDS)]) for i, word in enumerate(COLOUR_WORDS) for apart in APART
    ]


def sides(pipe: ds.Pipeline, asked: list[tuple[str, str]], seed: int) -> list[tuple[float, float]]:
    """The centres of both words' maps, 0 at the left edge and 1 at the right one, of a picture each."""
    capture = AttentionCapture()
    prompts = [
        caption_text(Caption(things=(Thing(left), Thing(right)), relation="side by side")) for left, right in asked
    ]
    pipe(prompts, seed=seed, tap=capture, upscale=1)
    maps = [capture.maps(pipe.tokenizer, image) for image in range(len(asked))]
    return [
        (centres.horizontal_centre(left), centres.horizontal_centre(right))
        for centres, (left, right) in zip(maps, asked, strict=True)
    ]


def main() -> None:
    """Read the arguments, generate, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--seed", type=int, default=0, help="of the first picture; the others follow")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    pipe = ds.load(arguments.model)
    asked, found = pairs(), []
    for start in range(0, len(asked), arguments.batch):
        found += sides(pipe, asked[start : start + arguments.batch], arguments.seed + start)
        print(f"{len(found)} of {len(asked)}", flush=True)
    centres = torch.tensor(found)
    right = torch.stack([centres[:, 0] < 0.5, centres[:, 1] > 0.5], 1)
    scores = {
        "words on their side": proportion(right.double()),
        "pairs with both words on their side": proportion(right.all(1, keepdim=True).double()),
        "pairs in the order of the prompt": proportion((centres[:, :1] < centres[:, 1:]).double()),
    }
    document = {
        "model": arguments.model,
        "unet": pipe.weights["unet"],
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "seed": arguments.seed,
        "torch": torch.__version__,
        "machine": device_name(pipe.device),
        "scores": {name: said(score) for name, score in scores.items()},
        "pairs": [
            {"left": left, "right": right, "centres": [round(value, 4) for value in at]}
            for (left, right), at in zip(asked, found, strict=True)
        ],
    }
    text = json.dumps(document, indent=1) + "\n"
    print(json.dumps(document["scores"], indent=1))
    if arguments.out is not None:
        write_text(arguments.out, text)


def said(score: Score) -> dict[str, float]:
    return {"value": score.value, "low": score.low, "high": score.high, "prompts": score.prompts}


if __name__ == "__main__":
    main()
