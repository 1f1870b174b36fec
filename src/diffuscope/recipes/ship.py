"""From trained networks to the folder that ships: our layout, packed."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from diffuscope.config import ModelConfig, Preset
from diffuscope.loading import CONFIG, config_to_json
from diffuscope.weights import files, packing

TOKENS = "token.weight"
"""The text encoder's table of embeddings; rows never trained on are not shipped."""


def ship(
    painter: dict[str, Tensor], vae: dict[str, Tensor], seen: Tensor, folder: Path, model: ModelConfig, preset: Preset
) -> int:
    """Write a model folder that ``diffuscope.load`` opens, and return its size in bytes.

    Args:
        painter: the averaged weights that ``stages.train_unet`` wrote.
        vae: the autoencoder's weights.
        seen: ids of every token that occurs in the training texts.
        folder: made if it does not exist.
        model: the architecture.
        preset: what a call means that does not say.
    """

    def part(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: value for name, value in painter.items() if name.startswith(prefix)}

    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / CONFIG, config_to_json(replace(model, preset=preset)))
    packing.write(folder / "text_encoder.safetensors", part("towers.text_encoder."), seen={TOKENS: seen})
    packing.write(folder / "unet.safetensors", part("unet."))
    packing.write(folder / "vae.safetensors", vae)
    # The judges' half of the towers: no part of the model, but of its scores.
    packing.write(folder / "towers.safetensors", {"picture.weight": painter["towers.picture.weight"]})
    return sum(path.stat().st_size for path in folder.iterdir())


def seen_tokens(ids: Tensor) -> Tensor:
    """[R] sorted ids that occur in ``ids`` of any shape."""
    return torch.unique(ids).cpu()
