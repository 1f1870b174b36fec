"""Score the shipped autoencoder by itself, as ``diffuscope eval`` does with a whole model.

python benchmarks/autoencoder.py --corpus FILE [--out benchmarks/results/autoencoder.json]
"""

import argparse
import json
from pathlib import Path

import torch

from diffuscope.evaluate.eval_data import EvalData
from diffuscope.evaluate.scores import device_name, reconstruction_scores
from diffuscope.recipes import emoji, stages


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--vae", type=Path, default=Path("src/diffuscope/assets/emoji-base/vae.safetensors"))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = stages.load_vae(emoji.finetune_vae(), arguments.vae).to(device)
    data = EvalData.load(arguments.corpus, device)
    scores = [entry.json() for entry in reconstruction_scores(vae, data, arguments.count)]
    document = {
        "split": data.split.hash,
        "corpus": data.corpus_hash,
        "machine": device_name(device),
        "scores": scores,
    }
    text = json.dumps(document, indent=1) + "\n"
    print(text, end="")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
