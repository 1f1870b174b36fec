"""``diffuscope info`` of a folder with models, LoRAs, VAEs and embeddings: what each file is, by its header."""

from collections import defaultdict
from pathlib import Path

HEADINGS = {
    "model": "models (--model {})",
    "lora": "LoRAs (<lora:NAME:0.8> in the prompt, {})",
    "vae": "VAEs (--vae {})",
    "embedding": "embeddings (NAME in the prompt, {})",
    "unet": "U-Nets",
    "text encoder": "text encoders",
}
"""Kind of file -> heading, in this order; other kinds follow under their own names."""

BY_NAME = dict.fromkeys(HEADINGS, "--models-dir FOLDER") | dict.fromkeys(("model", "vae"), "NAME --models-dir FOLDER")
BY_PATH = {"model": "PATH", "lora": "--lora-dir FOLDER", "vae": "PATH", "embedding": "--embedding PATH"}
"""What the flags are for the folder of another program, and for any other."""


def is_library(folder: Path) -> bool:
    """Whether a folder is no model itself, but has weights or models in it."""
    from diffuscope import library

    library.check_readable(folder)
    return not library.is_model(folder) and bool(library.weights_and_models(folder))


def describe(folder: Path) -> list[str]:
    """The lines of a folder."""
    from diffuscope import library

    found: dict[str, list[str]] = defaultdict(list)
    for path in library.weights_and_models(folder):
        kind, text = _entry(path)
        found[kind].append(f"  {path.relative_to(folder).as_posix()}  {text}")
    lines = [f"{folder}: files of models: {sum(map(len, found.values()))}"]
    for kind in sorted(found, key=lambda kind: [*HEADINGS, kind].index(kind)):
        is_named = kind in library.FOLDERS and library.folders(folder, kind)
        flags = (BY_NAME if is_named else BY_PATH).get(kind)
        lines += ["", HEADINGS.get(kind, kind).format(flags), *found[kind]]
    return lines


def _entry(path: Path) -> tuple[str, str]:
    """The kind of a file or model folder, and what else is known of it."""
    from diffuscope import model_files
    from diffuscope.cli.info import listed
    from diffuscope.errors import DiffuscopeError, shortened
    from diffuscope.weights.identify.families import identify
    from diffuscope.weights.store.stores import open_store

    try:
        if path.is_dir():
            config = model_files.describe_folder(path).config
            return (
                "model",
                f"a folder, {config.preset.width}x{config.preset.height}, predicts {config.schedule.prediction}",
            )
        if path.suffix.lower() != ".safetensors":
            return "pickled, so only read with --allow-pickle", f"{_size(path)}"
        identity = identify(open_store(path).header)
    except DiffuscopeError as error:
        return "not readable", shortened(str(error), 200)
    except OSError as error:
        return "not readable", str(error.strerror)
    family = f"{listed(identity.families)}, " if identity.families else ""
    return identity.kind, f"{family}{_size(path)}"


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:,.1f} MiB"
