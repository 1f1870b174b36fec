"""How often does training name a colour that the scores' measure finds, with and without asking it beforehand?

python benchmarks/colour_labels.py --corpus corpus.jsonl.xz --out benchmarks/results/colour_labels.json

Draws coloured things as training does, each filling a white canvas, and scorer them as the scores do: from the whole
corpus, and for the prompts of held-out colours, of which each is drawn in every emoji style of its thing.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from random import Random

import numpy as np
import torch

from diffuscope.data.compose import compose
from diffuscope.data.foreground import foreground_word
from diffuscope.data.packages import EMOJI_STYLES
from diffuscope.data.palette import COLOUR_WORDS, MIN_SHARE
from diffuscope.data.scenes import blank_scenes
from diffuscope.data.split import colour_key
from diffuscope.data.sprites import Sprite, SpriteSampler, sprite_sampler
from diffuscope.evaluate import prompts
from diffuscope.evaluate.eval_data import EvalData
from diffuscope.evaluate.intervals import proportion
from diffuscope.loading import choose_device
from diffuscope.recipes.stages import Dataset
from diffuscope.weights.store.documents import write_text

WHITE = COLOUR_WORDS.index("white")


def right(dataset: Dataset, pairs: list[tuple[Sprite, int]]) -> torch.Tensor:
    """[N] whether each sprite, given its colour and drawn alone on white, is measured to have it."""
    found = []
    for start in range(0, len(pairs), 256):
        part = pairs[start : start + 256]
        scenes = blank_scenes(len(part))
        scenes.sprite[:, 0] = [sprite.row for sprite, _ in part]
        scenes.colour[:, 0] = [colour for _, colour in part]
        pictures = ((compose(dataset.canvas, scenes) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        found.append(foreground_word(pictures).cpu() == torch.from_numpy(scenes.colour[:, 0].astype(np.int64)))
    return torch.cat(found)


def drawn(sampler: SpriteSampler, count: int) -> list[tuple[Sprite, int]]:
    """``count`` things and colours as training draws them."""
    random = Random(0)
    pairs = []
    while len(pairs) < count:
        sprite = sampler.recolourable.sample(random).sample(random)
        colour = random.choice(sprite.colours)
        if colour != WHITE:
            pairs.append((sprite, colour))
    return pairs


def asked(sampler: SpriteSampler, data: EvalData) -> list[tuple[Sprite, int]]:
    """The prompts of held-out colours, each in every emoji style of its concept."""
    wanted = {(prompt.colour, colour_key(data.pictures[prompt.row].name)) for prompt in prompts.colours(data)}
    sprites = [
        sprite for concept in sampler.recolourable.items for sprite in concept.items if sprite.style in EMOJI_STYLES
    ]
    return [(s, i) for s in sprites for i in s.colours if (COLOUR_WORDS[i], colour_key(s.name)) in wanted]


def main() -> None:
    """Read the arguments, sample, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    dataset, data = Dataset.load(arguments.corpus, device), EvalData.load(arguments.corpus, device)
    tones, recolourable = dataset.canvas.tones.cpu().numpy(), dataset.recolourable.numpy()
    every = np.repeat(tones[:, 3:] >= MIN_SHARE, len(COLOUR_WORDS), axis=1)
    results = {}
    for name, allowed in (("every word", every), ("words that are taken", recolourable)):
        seen = sprite_sampler(dataset.corpus, dataset.split, tones, allowed)
        whole = sprite_sampler(dataset.corpus, dataset.split, tones, allowed, train=False)
        for what, pairs in (("drawn", drawn(seen, arguments.count)), ("held out", asked(whole, data))):
            score = proportion(right(dataset, pairs)[:, None])
            results[f"{what}, {name}"] = asdict(score)
            print(f"{what}, {name}: {score.value:.3f} ({score.low:.3f} to {score.high:.3f}) of {score.pictures}")
    if arguments.out is not None:
        write_text(arguments.out, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
