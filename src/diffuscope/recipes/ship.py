"""Trained networks as the packed model folder that ships, and back."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from diffuscope import model_files
from diffuscope.config import ModelConfig
from diffuscope.data.captions import COUNTS, PLACES, PREFIXES, RELATIONS, SIZES, plural
from diffuscope.data.corpus import Corpus
from diffuscope.data.packages import STYLES
from diffuscope.data.palette import COLOUR_WORDS
from diffuscope.loading import load_part
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.training import distributed
from diffuscope.training.text import Clip
from diffuscope.training.unet import DiffusionModel
from diffuscope.vision.clip_score import PROJECTION, TOWERS
from diffuscope.weights.layout import own_config
from diffuscope.weights.store import difference, documents, packing
from diffuscope.weights.store.assign import load_into
from diffuscope.weights.store.old_names import current_names

CPU = torch.device("cpu")

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
    documents.write_text(folder / own_config.FILE, own_config.to_json(config))
    packing.write(folder / "text_encoder.safetensors", model.clip.text_encoder.state_dict(), seen={TOKENS: tokens})
    packing.write(folder / "unet.safetensors", model.unet.state_dict())
    packing.write(folder / "vae.safetensors", vae)
    # The image side of CLIP: not a part of the model, but of its scores.
    packing.write(folder / TOWERS, {PROJECTION: model.clip.image_projection.weight, "log_scale": model.clip.log_scale})
    return sum(path.stat().st_size for path in folder.iterdir())


def export_difference(model: DiffusionModel, folder: Path, config: ModelConfig) -> int:
    """Write a folder as the difference from ``config.base``, a shipped model, and return its size in bytes.

    Args:
        model: the EMA of U-Net and CLIP, trained from the base.
        folder: created if it does not exist; the autoencoder is the base's.
        config: with a base.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config)
    base = model_files.base_folder(config)
    for part, network in (("text_encoder", model.clip.text_encoder), ("unet", model.unet)):
        tensors = {name: value.cpu() for name, value in network.state_dict().items()}
        difference.write(
            folder / f"{part}.safetensors", tensors, load_part(base, part, CPU, torch.float32).state_dict()
        )
    packing.write(folder / TOWERS, {PROJECTION: model.clip.image_projection.weight, "log_scale": model.clip.log_scale})
    return sum(path.stat().st_size for path in folder.iterdir())


def write_config(folder: Path, config: ModelConfig) -> None:
    """Write the config of a difference, with the hash of the base's files of today."""
    config = replace(config, base_hash=model_files.files_hash(model_files.base_folder(config)))
    documents.write_text(folder / own_config.FILE, own_config.to_json(config))


def write_words(folder: Path, corpus: Corpus, initial: Path | None = None) -> None:
    """Write the list of all words that captions of ``corpus`` may have, and those of the ``initial`` model's list.

    It goes beside the model that is trained on them, so that a call can name the words that it never learned.
    """
    names = {name for picture in corpus.pictures for name in (picture.name, *picture.tags)}
    parts = (*PREFIXES, *RELATIONS, *COUNTS.values(), *SIZES, *PLACES, *COLOUR_WORDS, *STYLES.values())
    grammar = "a an and on in background style"
    tokenizer = Tokenizer()
    texts = (*names, *map(plural, names), *parts, grammar, *(picture.style for picture in corpus.pictures))
    words = {word for text in texts for word, _ in tokenizer.words(text) if any(map(str.isalnum, word))}
    words |= frozenset() if initial is None else own_config.read_words(initial)
    folder.mkdir(parents=True, exist_ok=True)
    documents.write_text(folder / own_config.WORDS, json.dumps(sorted(words), indent=0, ensure_ascii=False) + "\n")


def load_model(folder: Path) -> DiffusionModel:
    """U-Net and CLIP of a folder of this module, for more training. Dropped rows of the table start at zero."""
    text_encoder, unet = (load_part(folder, part, CPU, torch.float32) for part in ("text_encoder", "unet"))
    assert isinstance(text_encoder, TextEncoder)
    assert isinstance(unet, UNet)
    image = current_names(packing.read(folder / TOWERS))
    clip = Clip(text_encoder, image[PROJECTION].shape[1])
    own = {f"text_encoder.{name}": value for name, value in text_encoder.state_dict().items()}
    load_into(clip, own | image, source=str(folder))
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
