"""Pictures that the model makes of a class, so that training keeps them as they are (Ruiz et al. 2023, section 3.2).

They stay latents, and are kept in a file whose name is the hash of all that they depend on: model, texts, count, seed.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from diffuscope.errors import WeightsError
from diffuscope.pipeline import Pipeline
from diffuscope.weights.store import files

AT_ONCE = 8


def prior_latents(
    pipe: Pipeline, texts: Sequence[str], seed: int, size: int, folder: Path, tell: Callable[[str], None]
) -> Tensor:
    """[N,C,h,w] float32 latents of a picture of each text, on the model's device.

    Args:
        pipe: makes them, at its preset.
        texts: N of them; one may stand several times.
        seed: of the first picture; the others have the next ones.
        size: their side in pixels.
        folder: where the file is kept.
        tell: called with what is made.
    """
    count = len(texts)
    if not texts:
        return torch.zeros(0, device=pipe.device)
    path = folder / f"prior-{_key(pipe, texts, seed, size)}.safetensors"
    if path.is_file():
        latents = files.read(path).get("latents", torch.zeros(0))
        if len(latents) != count or not latents.isfinite().all():
            raise WeightsError(f"{path} does not hold {count} pictures of the class; remove the file")
        tell(f"{count} pictures of the class are in {path}")
        return latents.to(pipe.device)
    tell(f"making {count} pictures of the class")
    made: list[Tensor] = []
    for first in range(0, count, AT_ONCE):
        if made:
            tell(f"made {first} of them")
        made.append(_made(pipe, texts, slice(first, first + AT_ONCE), seed, size))
    latents = torch.cat(made)
    files.write(path, {"latents": latents}, {"texts": json.dumps(texts)})
    return latents.to(pipe.device)


def _made(pipe: Pipeline, texts: Sequence[str], rows: slice, seed: int, size: int) -> Tensor:
    own = list(texts[rows])
    seeds = [(seed + rows.start + i) % (1 << 63) for i in range(len(own))]
    return pipe(own, seed=seeds, height=size, width=size, output_type="latent").latents.float()


def _key(pipe: Pipeline, texts: Sequence[str], seed: int, size: int) -> str:
    loras = [(each.name, each.weight, each.lora.sha256) for each in pipe.adapters.active]
    about = [pipe.weights, loras, asdict(pipe.config.preset), list(texts), seed, size]
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=list).encode()).hexdigest()[:16]
