"""From trained networks to the folder that ships: our layout, packed."""

from pathlib import Path

import torch
from torch import Tensor

from diffuscope.config import ModelConfig
from diffuscope.loading import CONFIG, config_to_json, read_config
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.training import ranks
from diffuscope.training.text import Towers
from diffuscope.training.unet import Painter
from diffuscope.weights.store import files, packing
from diffuscope.weights.store.assign import load_into
from diffuscope.weights.store.old_names import current_names

TOWERS = "towers.safetensors"
TOKENS = "token_embedding.weight"
"""The text encoder's table of embeddings; rows never trained on are not shipped."""


def ship(painter: Painter, vae: dict[str, Tensor], seen: Tensor, folder: Path, model: ModelConfig) -> int:
    """Write a model folder that ``diffuscope.load`` opens, and return its size in bytes.

    Args:
        painter: the averaged U-Net and towers.
        vae: the autoencoder's weights.
        seen: ids of every token that occurs in the training texts; the other rows of the table are dropped.
        folder: made if it does not exist.
        model: the architecture and its preset.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / CONFIG, config_to_json(model))
    packing.write(folder / "text_encoder.safetensors", painter.towers.text_encoder.state_dict(), seen={TOKENS: seen})
    packing.write(folder / "unet.safetensors", painter.unet.state_dict())
    packing.write(folder / "vae.safetensors", vae)
    # The other half of the towers: no part of the model, but of its scores.
    towers = painter.towers
    packing.write(folder / TOWERS, {"picture.weight": towers.picture.weight, "log_scale": towers.log_scale})
    return sum(path.stat().st_size for path in folder.iterdir())


def shipped_painter(folder: Path) -> Painter:
    """U-Net and towers of a folder that ``ship`` wrote, to be trained on. Dropped rows of the table start at zero."""
    config = read_config(folder)
    picture = packing.read(folder / TOWERS)
    towers = Towers(TextEncoder(config.text_encoder), picture["picture.weight"].shape[1])
    text = current_names(packing.read(folder / "text_encoder.safetensors"))
    load_into(towers, {f"text_encoder.{name}": value for name, value in text.items()} | picture, source=str(folder))
    unet = UNet(config.unet)
    load_into(unet, packing.read(folder / "unet.safetensors"), source=str(folder / "unet.safetensors"))
    return Painter(towers, unet)


def seen_tokens(ids: Tensor, vocabulary: int) -> Tensor:
    """[R] sorted ids that occur in ``ids`` of any shape, here or in another process; all are below ``vocabulary``."""
    counts = torch.bincount(ids.flatten(), minlength=vocabulary).float()
    ranks.share_mean([counts])
    return counts.nonzero()[:, 0].cpu()


def known_tokens(painter: Painter) -> Tensor:
    """[R] sorted ids whose row of the table is not zero: in a folder that was shipped, those of its training."""
    table: Tensor = painter.towers.text_encoder.token_embedding.weight
    return table.detach().abs().sum(1).nonzero()[:, 0].cpu()
