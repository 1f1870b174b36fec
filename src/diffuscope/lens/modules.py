"""The modules of a model: shapes of weights and of activations, the distribution of weights, and the source."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffuscope.errors import InputError, nearest
from diffuscope.lens.shapes import shapes
from diffuscope.pipeline import Pipeline

BINS = 64
"""Of a histogram."""

PACKAGE = "diffuscope"


@dataclass(frozen=True)
class ModuleInfo:
    """One module of a network."""

    name: str
    """Its path, the network's name first: "unet.down.0.attn.0"."""
    kind: str
    """Its class."""
    parameters: int
    """Numbers in it and in all modules below it."""
    weights: Mapping[str, tuple[int, ...]]
    """Its own tensors and their shapes."""
    outputs: Mapping[str, tuple[int, ...]]
    """Activations that a tap may read here, and their shapes in a run of the preset; of one row."""
    has_source: bool
    """Whether its class is one of this package."""


def modules(pipe: Pipeline) -> list[ModuleInfo]:
    """Every module of a pipeline's networks, from the outer ones to the inner ones, in their order."""
    networks = list(pipe.components.networks.values())
    sizes = shapes(networks, None)
    found = []
    for network in networks:
        component = str(network.component)
        for path, module in network.named_modules():
            name = f"{component}.{path}" if path else component
            points = [f"{name}.{part}" if part else name for part in getattr(module, "taps", ())]
            found.append(
                ModuleInfo(
                    name,
                    type(module).__name__,
                    sum(value.numel() for value in module.parameters()),
                    {key: tuple(value.shape) for key, value in module.named_parameters(recurse=False)},
                    {point: tuple(sizes[point][1:]) for point in points if point in sizes},
                    _is_own(type(module)),
                )
            )
    return found


def histogram(pipe: Pipeline, name: str) -> dict[str, Any]:
    """How the numbers of one tensor are distributed.

    Args:
        pipe: the model.
        name: of a module's tensor: "unet.conv_in.weight".

    Returns:
        ``counts`` [64] of equal bins between ``low`` and ``high``, ``mean``, ``std``, ``zeros``, ``shape``, ``dtype``.

    Raises:
        InputError: there is no such tensor.
    """
    for network in pipe.components.networks.values():
        component = str(network.component)
        tensors = {f"{component}.{key}": value for key, value in network.named_parameters()}
        if name in tensors:
            return _histogram(tensors[name].detach())
    raise InputError("name", name, "the name of a module's tensor", "For example: unet.conv_in.weight")


def _histogram(tensor: Tensor) -> dict[str, Any]:
    values = tensor.float().flatten().cpu()
    low, high = float(values.min()), float(values.max())
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "low": low,
        "high": high,
        "mean": float(values.mean()),
        "std": float(values.std(unbiased=False)),
        "zeros": int((values == 0).sum()),
        "counts": torch.histc(values, BINS, low, high).int().tolist(),
    }


def source(pipe: Pipeline, name: str) -> dict[str, Any]:
    """The source of a module's class, if it is one of this package.

    Args:
        pipe: the model.
        name: of a module: "unet.down.0.attn.0".

    Returns:
        ``kind`` (the class), ``file`` within the package, ``line`` of its first line, and ``text``.

    Raises:
        InputError: there is no such module, or its class is torch's.
    """
    known = {
        f"{network.component}.{path}".rstrip("."): module
        for network in pipe.components.networks.values()
        for path, module in network.named_modules()
    }
    if name not in known:
        raise InputError("name", name, "the name of a module", nearest(name, known) or "For example: unet.mid")
    kind = type(known[name])
    if not _is_own(kind):
        raise InputError("name", name, f"a module of this package; this one is {kind.__module__}.{kind.__name__}")
    return _source(kind)


def _source(kind: type[nn.Module]) -> dict[str, Any]:
    lines, line = inspect.getsourcelines(kind)
    file = Path(inspect.getfile(kind)).as_posix().rpartition(f"/{PACKAGE}/")[2]
    return {"kind": kind.__name__, "file": file, "line": line, "text": "".join(lines)}


def _is_own(kind: type[nn.Module]) -> bool:
    return kind.__module__.partition(".")[0] == PACKAGE
