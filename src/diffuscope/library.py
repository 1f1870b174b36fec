"""The model folder of AUTOMATIC1111's web UI or ComfyUI, used in place."""

import os
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
"""Kind of file -> the names of its folders in either program."""

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin")
MODEL_FILES = ("model_index.json", "config.json")


def folders(models_dir: str | PathLike[str], kind: Kind) -> tuple[Path, ...]:
    """The folders for ``kind`` in ``models_dir``, which is the program's own folder or its ``models``."""
    root = Path(models_dir)
    if not os.path.isdir(root):  # noqa: PTH112 (unlike Path's, it is False for impossible names)
        raise ModelNotFoundError(f"no folder {root}; give the other program's folder of models")
    check_readable(root)
    bases = [root, root / "models"]
    if root.name == "models" and kind == "embedding":
        bases.append(root.parent)  # the web UI has its embeddings next to its models
    return tuple(base / name for base in bases for name in FOLDERS[kind] if os.path.isdir(base / name))  # noqa: PTH112


def entries(models_dir: str | PathLike[str], kind: Kind) -> dict[str, Path]:
    """Name -> path of all files of that kind, and of models' folders; names have slashes and suffixes."""
    paths: dict[str, Path] = {}
    for folder in folders(models_dir, kind):
        for path in sorted(folder.rglob("*")):
            is_file = path.suffix.lower() in SUFFIXES and os.path.isfile(path)  # noqa: PTH113
            if (is_file or (kind == "model" and is_model(path))) and not _is_part(path, folder):
                paths.setdefault(path.relative_to(folder).as_posix(), path)
    return paths


def find(models_dir: str | PathLike[str], name: str, kind: Kind = "model") -> Path:
    """The path of a name: with folders and suffix, or without where it is unique."""
    paths = entries(models_dir, kind)
    if name in paths:
        return paths[name]
    matching = {n: path for n, path in paths.items() if name in {path.name, path.stem, n.rpartition(".")[0]}}
    if len(matching) > 1:
        argument = "name_or_path" if kind == "model" else kind
        raise InputError(argument, name, f"the full name: {' or '.join(matching)} in {models_dir}")
    if not paths:
        names = ", ".join(FOLDERS[kind])
        raise ModelNotFoundError(
            f"no {kind} in {models_dir}, which needs one of the folders {names}; give the file itself"
        )
    if not matching:
        hint = nearest(name, [*paths, *(path.stem for path in paths.values())])
        raise ModelNotFoundError(f"no {kind} {name!r} among the {len(paths)} in {str(models_dir)!r}. {hint}".rstrip())
    return next(iter(matching.values()))


def named_embeddings(models_dir: str | PathLike[str], texts: Iterable[str]) -> list[Path]:
    """The embeddings whose file name is a word of one of the texts, in any case."""
    text = "\n".join(texts)
    return [
        path
        for path in entries(models_dir, "embedding").values()
        if re.search(rf"(?<!\w){re.escape(path.stem)}(?!\w)", text, re.IGNORECASE)
    ]


def _is_part(path: Path, top: Path) -> bool:
    """Whether a path is within a model's folder, and no model itself."""
    above = [parent for parent in path.parents if parent.is_relative_to(top) and parent != top]
    return any(is_model(parent) for parent in above)


def is_model(folder: Path) -> bool:
    """Whether a folder is one model, in our layout or that of diffusers."""
    return any(os.path.isfile(folder / name) for name in MODEL_FILES)  # noqa: PTH113 (False for a locked folder)


def check_readable(folder: Path) -> None:
    """ModelNotFoundError for a folder that there is no right to read."""
    try:
        with os.scandir(folder):
            (folder / os.curdir).stat()
    except OSError as error:
        reason = str(error.strerror).lower()
        raise ModelNotFoundError(f"{folder} cannot be read: {reason}; give a folder that you may read") from error


def weights_and_models(folder: Path) -> list[Path]:
    """All weight files and model folders below a folder, without the parts of models."""
    paths = (path for path in sorted(folder.rglob("*")) if not _is_part(path, folder))
    return [
        path
        for path in paths
        if is_model(path) or (path.suffix.lower() in SUFFIXES and os.path.isfile(path))  # noqa: PTH113
    ]
