"""The files of a model: its name as a folder or single file, its config and its weight files. Imports no torch."""

import hashlib
import os
from functools import cache
from importlib.resources import files as resources
from os import PathLike
from pathlib import Path

from diffuscope import hub, library
from diffuscope.config import ModelConfig
from diffuscope.errors import ModelNotFoundError, WeightMismatchError, WeightsError, nearest
from diffuscope.weights.layout import diffusers_folder, fields, own_config
from diffuscope.weights.layout.fields import Description

DEFAULT = "emoji"
"""The model where none is named."""

INDEX, PIXEL_MODEL = "model_index.json", "pixel_model.json"


def find(name_or_path: str | PathLike[str], models_dir: str | PathLike[str] | None = None) -> Path:
    """The folder or single file of a model; a hub id is fetched into the cache."""
    path = Path(name_or_path)
    shipped = shipped_models()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    if os.path.isfile(path):  # noqa: PTH113 (unlike Path's, it is False for impossible names)
        return path
    if not os.path.isdir(path):  # noqa: PTH112
        if models_dir is not None:
            return library.find(models_dir, str(name_or_path))
        if isinstance(name_or_path, str) and hub.is_id(name_or_path):
            return hub.fetch(name_or_path)
        known = ", ".join(map(repr, shipped)) or "none yet"
        raise ModelNotFoundError(
            f"no model {str(name_or_path)!r}: it is no file, no folder and no shipped model ({known}). "
            f"Give a path, or a hub id as owner/name. {nearest(str(name_or_path), shipped)}".rstrip()
        )
    library.check_readable(path)
    if not any((path / name).is_file() for name in (own_config.FILE, INDEX)):
        if (path / PIXEL_MODEL).is_file():
            raise ModelNotFoundError(f"{path} is a model of classes: open it with diffuscope.recipes.digits.load")
        raise ModelNotFoundError(
            f"{path} is no model: it has neither {own_config.FILE} (our layout) nor {INDEX} (diffusers)"
        )
    return path


def shipped_models() -> dict[str, Path]:
    """Name -> folder of the models in the package."""
    assets = Path(str(resources("diffuscope"))) / "assets"
    return {path.parent.name: path.parent for path in sorted(assets.glob(f"*/{own_config.FILE}"))}


def describe_folder(folder: Path) -> Description:
    """The config of a model's folder in either layout, and what of its files is not used."""
    if not is_own(folder):
        return diffusers_folder.describe(folder)
    config, notes = own_config.read(folder), list[str]()
    for tokenizer, encoder in zip(("tokenizer", "tokenizer_2"), config.text_encoders, strict=False):
        notes += fields.tokenizer_notes(folder, tokenizer, encoder.positions)
        if fields.stated_pad(folder, tokenizer) not in (None, encoder.pad):
            raise WeightsError(
                f"{folder / tokenizer} pads texts with another token than {encoder.pad}, as {own_config.FILE} has it; "
                "save the model again"
            )
    return Description(config, tuple(notes))


def is_own(folder: Path) -> bool:
    """Whether a model's folder is in our layout; one of diffusers may have a config.json beside its index."""
    return (folder / own_config.FILE).is_file() and not (folder / INDEX).is_file()


def weight_files(folder: Path, config: ModelConfig, *, allow_pickle: bool = False) -> dict[str, tuple[Path, ...]]:
    """The file, or the shards, of each network of a model in a folder of either layout."""
    if not is_own(folder):
        subfolders = {part: diffusers_folder.subfolder(config, part) for part in parts(config)}
        return {
            part: diffusers_folder.find_weights(folder, subfolder, allow_pickle=allow_pickle)
            for part, subfolder in subfolders.items()
        }
    paths = {part: folder / f"{part}.safetensors" for part in parts(config)}
    if config.base is not None:
        base = base_folder(config)
        below = weight_files(base, own_config.read(base))
        paths |= {part: below[part][0] for part, path in paths.items() if not path.is_file()}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise ModelNotFoundError(f"{folder} has no {', '.join(missing)}: fetch or save the whole folder again")
    return {part: (path,) for part, path in paths.items()}


def base_folder(config: ModelConfig) -> Path:
    """The folder of the shipped model that completes a model's folder."""
    shipped = shipped_models()
    if config.base not in shipped:
        known = ", ".join(map(repr, shipped))
        raise ModelNotFoundError(f"the model is a change of {config.base!r}, expected one of the shipped ones: {known}")
    folder = shipped[config.base]
    if config.base_hash not in (None, files_hash(folder)):
        raise WeightMismatchError(f"the model is a change of another {config.base!r} than the one here; train it again")
    return folder


@cache
def files_hash(folder: Path) -> str:
    """SHA-256 of the weight files of a shipped model, one after the other, in hex."""
    digest = hashlib.sha256()
    for (path,) in weight_files(folder, own_config.read(folder)).values():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def parts(config: ModelConfig) -> tuple[str, ...]:
    """The names of a model's networks."""
    second = () if config.text_encoder_2 is None else ("text_encoder_2",)
    return ("text_encoder", *second, "unet", "vae")
