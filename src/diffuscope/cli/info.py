"""``diffuscope info``: describe a model, a weight file or an image."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from diffuscope.cli.terminal import say
from diffuscope.errors import DiffuscopeError, ImageError, ModelNotFoundError

if TYPE_CHECKING:
    from diffuscope.weights.store.files import Header


WEIGHTS = {".safetensors", ".ckpt", ".pt", ".pth", ".bin"}
METADATA_LINES, METADATA_WIDTH = 16, 160
"""One screen: what a trainer wrote beside the weights can be pages long."""


def info(path: Positional[str], /, *, allow_pickle: bool = False) -> None:
    """Describe a model, a weight file or an image: parts, family and the evidence for it, receipt.

    Of a .safetensors file only the header is read, so the answer comes at once.

    Args:
        path: a shipped model's name, a model folder, a weight file, or an image.
        allow_pickle: also read pickled files (.ckpt, .pt, .bin), with a reader that builds tensors and runs no code.
    """
    file = Path(path)
    if file.suffix.lower() in WEIGHTS:
        lines = _weight_file(file, allow_pickle)
    elif file.is_file():
        lines = _image(file)
    else:
        lines = _model(path, allow_pickle)
    say("\n".join(lines))


def _weight_file(path: Path, allow_pickle: bool) -> list[str]:
    from diffuscope.weights.identify.families import article, identify
    from diffuscope.weights.store.stores import open_store

    if not path.is_file():
        raise ModelNotFoundError(f"no weight file {path}; give one that exists")
    header = open_store(path, allow_pickle=allow_pickle).header
    found = identify(header)
    layout = "" if found.layout is None else f", in the layout {found.layout}"
    lines = [f"{path}: {article(found.kind)}{layout}"]
    lines += [f"  family: {' or '.join(found.families)}"] if found.families else []
    lines += [f"  predicts {found.prediction}"] if found.prediction is not None else []
    lines += [f"  because {reason}" for reason in found.evidence]
    lines += _tensors(header, path)
    lines += [f"  {part}: {numbers:,} numbers" for part, numbers in found.parts.items() if len(found.parts) > 1]
    metadata = [f"  {_short(key)}: {_short(value)}" for key, value in header.metadata.items()]
    hidden = len(metadata) - METADATA_LINES
    return lines + metadata[:METADATA_LINES] + ([f"  ... and {hidden} more entries of metadata"] if hidden > 0 else [])


def _short(text: str) -> str:
    return " ".join(text[: 4 * METADATA_WIDTH].split())[:METADATA_WIDTH]


def _tensors(header: "Header", path: Path) -> list[str]:
    from math import prod

    kinds = Counter[str]()
    for tensor in header.tensors.values():
        kinds[tensor.dtype] += prod(tensor.shape)
    numbers = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    return [f"  {len(header.tensors)} tensors, {numbers}, {path.stat().st_size:,} bytes"]


def _image(path: Path) -> list[str]:
    from diffuscope.images import open_image, read_text_chunks
    from diffuscope.pipeline.receipt import JSON_KEY, TEXT_KEY, read

    try:
        image = open_image(path)
    except ImageError as error:
        raise DiffuscopeError(f"{path} is neither a weight file nor an image: {error}") from error
    lines = [f"{path}: an image of {image.width}x{image.height} pixels"]
    texts = read_text_chunks(path)
    if TEXT_KEY in texts:
        lines += ["", texts[TEXT_KEY]]
    if JSON_KEY in texts:
        lines += ["", json.dumps(read(path), indent=2, ensure_ascii=False)]
    return lines if texts else [*lines, "no receipt"]


def _model(name: str, allow_pickle: bool) -> list[str]:
    from diffuscope import loading
    from diffuscope.config import PRESETS
    from diffuscope.weights.identify.families import judged
    from diffuscope.weights.identify.signatures import Signature
    from diffuscope.weights.store.stores import open_store

    folder = loading.find(name)
    is_own, description = loading.is_own(folder), loading.describe_folder(folder)
    config, preset = description.config, description.config.preset
    lines = [
        f"{folder}: the model {config.name!r}, in {'our layout' if is_own else 'the layout of diffusers'}",
        f"  predicts {config.schedule.prediction}; latents {config.vae.latent_channels} channels, "
        f"1/{config.vae.factor} of the side",
        f"  preset: {preset.width}x{preset.height}, {preset.num_inference_steps} steps of {preset.sampler}, "
        f"guidance {preset.guidance_scale:g}, upscaled x{preset.upscale}",
    ]
    shaped, evidence = judged(Signature.of(config.unet))
    family = [name for name in shaped if PRESETS[name].schedule.prediction == config.schedule.prediction]
    lines += [f"  family: {' or '.join(family or shaped)}"] if shaped else []
    lines += [f"  because {reason}" for reason in (evidence if shaped else ())]
    for part, paths in loading.weight_files(folder, config, allow_pickle=allow_pickle).items():
        headers = [(open_store(path, allow_pickle=allow_pickle).header, path) for path in paths]
        lines += [f"  {part}: {_tensors(header, path)[0].strip()}" for header, path in headers]
    lines += [f"  {note}" for note in description.notes]
    return lines + [f"  without effect: {entry}" for entry in description.unused]
