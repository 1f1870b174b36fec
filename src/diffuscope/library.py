"""A folder of models that another program keeps, used in place: AUTOMATIC1111's web UI's ``models``, ComfyUI's."""

import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Literal

from diffuscope.errors import InputError, ModelNotFoundError, nearest

Kind = Literal["model", "lora", "embedding", "vae"]

FOLDERS: dict[Kind, tuple[str, ...]] = {
    "model": ("Stable-diffusion", "checkpoints", "diffusers"),
    "lora": ("Lora", "LyCORIS", "loras"),
    "embedding": ("embeddings",),
    "vae": ("VAE", "vae"),
}
"""What the folders for each kind of file are called, by one or the other."""

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin")
MODEL_FILES = ("model_index.json", "config.json")


def folders(place: str | PathLike[str], kind: Kind) -> tuple[Path, ...]:
    """The folders for ``kind`` below ``place``: the program's own folder, or its ``models``.

    Raises:
        ModelNotFoundError: ``place`` is no folder.
    """
    place = Path(place)
    if not place.is_dir():
        raise ModelNotFoundError(f"no folder {place}; give the folder in which the other program keeps its models")
    bases = [place, place / "models"]
    if place.name == "models" and kind == "embedding":
        bases.append(place.parent)  # the web UI has its embeddings beside its models
    return tuple(base / name for base in bases for name in FOLDERS[kind] if (base / name).is_dir())


def entries(place: str | PathLike[str], kind: Kind) -> dict[str, Path]:
    """Name -> path of all files of that kind, and of models' folders; names have slashes, and suffixes.

    Raises:
        ModelNotFoundError: ``place`` is no folder.
    """
    found: dict[str, Path] = {}
    for folder in folders(place, kind):
        for path in sorted(folder.rglob("*")):
            is_model = kind == "model" and path.is_dir() and any((path / name).is_file() for name in MODEL_FILES)
            is_file = path.suffix.lower() in SUFFIXES and path.is_file()
            if (is_model or is_file) and not _is_part(path, folder):
                found.setdefault(path.relative_to(folder).as_posix(), path)
    return found


def find(place: str | PathLike[str], name: str, kind: Kind = "model") -> Path:
    """What is called ``name`` and of that kind: with folders and suffix, or as short as it is still clear.

    Raises:
        ModelNotFoundError: there is none, or ``place`` is no folder.
        InputError: there are several.
    """
    there = entries(place, kind)
    if name in there:
        return there[name]
    near = {each: path for each, path in there.items() if name in {path.name, path.stem, each.rpartition(".")[0]}}
    if len(near) > 1:
        argument = "name_or_path" if kind == "model" else kind
        raise InputError(argument, name, f"the full name: {' or '.join(near)} in {place}")
    if not near:
        hint = nearest(name, [*there, *(path.stem for path in there.values())])
        raise ModelNotFoundError(f"no {kind} {name!r} among the {len(there)} in {place}. {hint}".rstrip())
    return next(iter(near.values()))


def named_embeddings(place: str | PathLike[str], texts: Iterable[str]) -> list[Path]:
    """The embeddings whose file's name stands in one of the texts, as a word of its own and in any case.

    Raises:
        ModelNotFoundError: ``place`` is no folder.
    """
    text = "\n".join(texts)
    return [
        path
        for path in entries(place, "embedding").values()
        if re.search(rf"(?<!\w){re.escape(path.stem)}(?!\w)", text, re.IGNORECASE)
    ]


def _is_part(path: Path, top: Path) -> bool:
    """Whether a file or folder belongs to a model's folder, and is no model by itself."""
    above = [parent for parent in path.parents if parent.is_relative_to(top) and parent != top]
    return any((parent / name).is_file() for parent in above for name in MODEL_FILES)
