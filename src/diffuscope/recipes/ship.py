"""Trained networks as the packed model folder that ships, and back."""

from pathlib import Path

import torch
from torch import Tensor

from diffuscope.clip_score import PROJECTION, TOWERS
from diffuscope.config import ModelConfig
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.training import distributed
from diffuscope.training.text import Clip
from diffuscope.training.unet import DiffusionModel
from diffuscope.weights.layout import own_config
from diffuscope.weights.store import files, packing
from diffuscope.weights.store.assign import load_into
from diffuscope.weights.store.old_names import current_names

TOKENS = "token_embedding.weight"
"""The text encoder's table of embeddings; untrained rows are not shipped."""


def export_model(
    model: DiffusionModel, vae: dict[str, Tensor], tokens: Tensor, folder: Path, config: ModelConfig
) -> int:
    """Write a model folder for ``diffuscope.load``, and return its size in bytes.

    Args:
        model: the EMA of U-Net and CLIP.
        vae: the autoencoder's weights.
        tokens: ids of all tokens of the training captions; other rows of the table are dropped.
        folder: created if it does not exist.
        config: the architecture and its preset.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / own_config.FILE, own_config.to_json(config))
    packing.write(folder / "text_encoder.safetensors", model.clip.text_encoder.state_dict(), seen={TOKENS: tokens})
    packing.write(folder / "unet.safetensors", model.unet.state_dict())
    packing.write(folder / "vae.safetensors", vae)
    # The image side of CLIP: not a part of the model, but of its scores.
    packing.write(folder / TOWERS, {PROJECTION: model.clip.image_projection.weight, "log_scale": model.clip.log_scale})
    return sum(path.stat().st_size for path in folder.iterdir())


def load_model(folder: Path) -> DiffusionModel:
    """U-Net and CLIP of a folder of ``export_model``, for more training. Dropped rows of the table start at zero."""
    config = own_config.read(folder)
    image = current_names(packing.read(folder / TOWERS))
    clip = Clip(TextEncoder(config.text_encoder), image[PROJECTION].shape[1])
    text = current_names(packing.read(folder / "text_encoder.safetensors"))
    load_into(clip, {f"text_encoder.{name}": value for name, value in text.items()} | image, source=str(folder))
    unet = UNet(config.unet)
    load_into(unet, packing.read(folder / "unet.safetensors"), source=str(folder / "unet.safetensors"))
    return DiffusionModel(clip, unet)


def used_tokens(ids: Tensor, vocabulary: int) -> Tensor:
    """[R] sorted token ids that occur in ``ids``, of any shape, in any process; all are below ``vocabulary``."""
    counts = torch.bincount(ids.flatten(), minlength=vocabulary).float()
    distributed.all_reduce_mean([counts])
    return counts.nonzero()[:, 0].cpu()


def trained_tokens(model: DiffusionModel) -> Tensor:
    """[R] sorted token ids whose embedding is not zero: in a shipped folder, those of its training."""
    table: Tensor = model.clip.text_encoder.token_embedding.weight
    return table.detach().abs().sum(1).nonzero()[:, 0].cpu()
