"""``diffuscope info``: what a model, a weight file or a picture is."""

import json
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from diffuscope.errors import DiffuscopeError, ImageError, ModelNotFoundError

if TYPE_CHECKING:
    from diffuscope.weights.files import Header


def info(path: Positional[str], /) -> None:
    """Say what something is: of a model its parts, of a weight file its tensors, of a picture its receipt.

    Args:
        path: a shipped model's name, a model's folder, a .safetensors file or a picture.
    """
    place = Path(path)
    if place.suffix.lower() == ".safetensors":
        lines = _weight_file(place)
    elif place.is_file():
        lines = _picture(place)
    else:
        lines = _model(path)
    sys.stdout.write(_visible("\n".join(lines)) + "\n")


def _visible(text: str) -> str:
    """``text`` without control characters but new lines: a stranger's file must not steer the terminal."""
    return "".join(sign if sign == "\n" or unicodedata.category(sign) != "Cc" else "\ufffd" for sign in text)


def _weight_file(path: Path) -> list[str]:
    from diffuscope.weights.files import read_header

    if not path.is_file():
        raise ModelNotFoundError(f"no weight file {path}; give one that exists")
    header = read_header(path)
    lines = [f"{path}: safetensors", *_tensors(header, path)]
    return lines + [f"  {key}: {value[:200]}" for key, value in header.metadata.items()]


def _tensors(header: "Header", path: Path) -> list[str]:
    from math import prod

    kinds = Counter[str]()
    for tensor in header.tensors.values():
        kinds[tensor.dtype] += prod(tensor.shape)
    numbers = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    return [f"  {len(header.tensors)} tensors, {numbers}, {path.stat().st_size:,} bytes"]


def _picture(path: Path) -> list[str]:
    from diffuscope.images import open_picture, read_texts
    from diffuscope.pipeline.receipt import JSON_KEY, TEXT_KEY, read

    try:
        picture = open_picture(path)
    except ImageError as error:
        raise DiffuscopeError(f"{path} is neither a .safetensors file nor a picture: {error}") from error
    lines = [f"{path}: a picture of {picture.width}x{picture.height} pixels"]
    texts = read_texts(path)
    if TEXT_KEY in texts:
        lines += ["", texts[TEXT_KEY]]
    if JSON_KEY in texts:
        lines += ["", json.dumps(read(path), indent=2, ensure_ascii=False)]
    return lines if texts else [*lines, "it has no receipt"]


def _model(name: str) -> list[str]:
    from diffuscope import loading
    from diffuscope.weights import folders
    from diffuscope.weights.files import read_header

    folder = loading.find(name)
    is_own = loading.is_own(folder)
    config = loading.read_config(folder) if is_own else folders.read_config(folder)
    preset = config.preset
    lines = [
        f"{folder}: the model {config.name!r}, in {'our layout' if is_own else 'the layout of diffusers'}",
        f"  predicts {config.schedule.prediction}; latents {config.vae.latent_channels} channels, "
        f"1/{config.vae.factor} of the side",
        f"  preset: {preset.width}x{preset.height}, {preset.steps} steps of {preset.sampler}, "
        f"guidance {preset.guidance_scale:g}, upscaled x{preset.upscale}",
    ]
    for part, path in loading.weight_files(folder, config).items():
        lines.append(f"  {part}:{_tensors(read_header(path), path)[0]}")
    return lines
