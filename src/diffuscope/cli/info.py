"""``diffuscope info``: describe a model, a weight file or an image."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from diffuscope.cli.terminal import say
from diffuscope.errors import DiffuscopeError, ImageError, ModelNotFoundError

if TYPE_CHECKING:
    from diffuscope.config import Preset
    from diffuscope.weights.store.headers import Header
    from diffuscope.weights.store.stores import Store


WEIGHTS = {".safetensors", ".ckpt", ".pt", ".pth", ".bin"}
MOST_FAMILIES = 4
METADATA_LINES, METADATA_WIDTH = 16, 160
"""One screen: what a trainer wrote beside the weights can be pages long."""


def info(path: Annotated[Positional[str], arg(metavar="PATH")], /, *, allow_pickle: bool = False) -> None:
    """Describe a model, a weight file, an image, or a folder of them: family and the evidence for it, preset, receipt.

    Of weights only the headers are read, and of an image its texts, so the answer comes at once. For an image that
    another program made, the command is printed that makes it here.

    Args:
        path: a shipped model's name, a model folder, a weight file, an image, or a folder with any of these, such as
            that of AUTOMATIC1111's web UI or ComfyUI.
        allow_pickle: also read pickled files (.ckpt, .pt, .bin), with a reader that builds tensors and runs no code.
    """
    from diffuscope.cli import info_image, info_library

    file = Path(path)
    is_folder = os.path.isdir(file)  # noqa: PTH112 (unlike Path's, it is False for impossible names)
    if file.suffix.lower() in WEIGHTS and not is_folder:
        lines = _weight_file(file, allow_pickle)
    elif os.path.exists(file) and not is_folder:  # noqa: PTH110
        lines = info_image.describe(file)
    elif not is_folder and file.suffix.lower() in info_image.SUFFIXES:
        raise ImageError(f"{path}: no such file; give the path of an image")
    elif is_folder and info_library.is_library(file):
        lines = info_library.describe(file)
    elif is_folder and (network := _network(file)) is not None:
        lines = _weight_file(network, allow_pickle)
    else:
        lines = _model(path, allow_pickle)
    say("\n".join(lines))


def _network(folder: Path) -> Path | None:
    """The weight file of a folder in the layout of diffusers with one network, such as a VAE; None for any other."""
    from diffuscope.weights.layout.diffusers_folder import ADVICE, WEIGHTS
    from diffuscope.weights.store.documents import read_json

    config = folder / "config.json"
    if not config.is_file() or "name" in read_json(config, ADVICE):
        return None
    return next((path for name in WEIGHTS.values() if (path := folder / Path(name).name).is_file()), None)


def listed(families: Sequence[str]) -> str:
    """Families as one line; most have a VAE or a text encoder of one shape."""
    more = len(families) - MOST_FAMILIES
    return " or ".join(families[:MOST_FAMILIES]) + (f" or {more} more" if more > 0 else "")


def _weight_file(path: Path, allow_pickle: bool) -> list[str]:
    from diffuscope.weights.identify.families import article, identify
    from diffuscope.weights.store.stores import open_store

    if not os.path.isfile(path):  # noqa: PTH113
        raise ModelNotFoundError(f"no weight file {path}; give one that exists")
    store = open_store(path, allow_pickle=allow_pickle)
    header, found = store.header, identify(store.header)
    layout = "" if found.layout is None else f", in the layout {found.layout}"
    lines = [f"{path}: {article(found.kind)}{layout}"]
    evidence = list(found.evidence)
    if found.families:
        lines += [f"  family: {listed(found.families)}"]
    elif found.kind in ("model", "unet", "vae"):  # the last clause says which family is the nearest
        lines += [f"  family: none that is known; {evidence.pop()}"]
    lines += [f"  predicts {found.prediction}"] if found.prediction is not None else []
    lines += [f"  because {reason}" for reason in evidence]
    lines += _presets(store, found.families) if found.kind == "model" else []
    lines += _tensors(header, path)
    lines += [f"  {part}: {numbers:,} numbers" for part, numbers in found.parts.items() if len(found.parts) > 1]
    metadata = [f"  {_short(key)}: {_short(value)}" for key, value in header.metadata.items()]
    hidden = len(metadata) - METADATA_LINES
    return lines + metadata[:METADATA_LINES] + ([f"  ... and {hidden} more entries of metadata"] if hidden > 0 else [])


def _presets(store: "Store", names: Sequence[str]) -> list[str]:
    """The preset of a single file, or those of the families that it may be, and what of the file is not used."""
    from diffuscope import loading
    from diffuscope.config import PRESETS

    try:
        description = loading.describe_file(store)
    except DiffuscopeError:  # several families fit
        return [f"  as {name}, {_preset(PRESETS[name].preset)}" for name in names if name in PRESETS]
    return [f"  {_preset(description.config.preset)}", *(f"  {note}" for note in description.notes)]


def _preset(preset: "Preset") -> str:
    return (
        f"preset: {preset.width}x{preset.height}, {preset.num_inference_steps} steps of {preset.sampler}, "
        f"guidance {preset.guidance_scale:g}, upscaled x{preset.upscale}"
    )


def _short(text: str) -> str:
    return " ".join(text[: 4 * METADATA_WIDTH].split())[:METADATA_WIDTH]


def _tensors(header: "Header", path: Path) -> list[str]:
    from math import prod

    kinds = Counter[str]()
    for tensor in header.tensors.values():
        kinds[tensor.dtype] += prod(tensor.shape)
    numbers = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    return [f"  {len(header.tensors)} tensors, {numbers}, {path.stat().st_size:,} bytes"]


def _model(name: str, allow_pickle: bool) -> list[str]:
    from diffuscope import model_files
    from diffuscope.config import PRESETS

    folder = model_files.find(name)
    is_own, description = model_files.is_own(folder), model_files.describe_folder(folder)

    from diffuscope.weights.identify.families import judged  # imports torch, which takes seconds
    from diffuscope.weights.identify.signatures import Signature
    from diffuscope.weights.store.stores import open_store

    config = description.config
    lines = [
        f"{folder}: the model {config.name!r}, in {'our layout' if is_own else 'the layout of diffusers'}",
        f"  predicts {config.schedule.prediction}; latents {config.vae.latent_channels} channels, "
        f"1/{config.vae.factor} of the side",
        f"  {_preset(config.preset)}",
    ]
    shaped, evidence = judged(Signature.of(config.unet))
    family = [name for name in shaped if PRESETS[name].schedule.prediction == config.schedule.prediction]
    lines += [f"  family: {' or '.join(family or shaped)}"] if shaped else []
    lines += [f"  because {reason}" for reason in (evidence if shaped else ())]
    for part, paths in model_files.weight_files(folder, config, allow_pickle=allow_pickle).items():
        headers = [(open_store(path, allow_pickle=allow_pickle).header, path) for path in paths]
        lines += [f"  {part}: {_tensors(header, path)[0].strip()}" for header, path in headers]
    lines += [f"  {note}" for note in description.notes]
    return lines + [f"  without effect: {entry}" for entry in description.unused]
