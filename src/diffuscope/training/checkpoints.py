"""The state of a run in one safetensors file: network, EMA, optimiser, progress, and what was asked for."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from diffuscope.errors import InputError, WeightsError, shown
from diffuscope.training import distributed
from diffuscope.training.muon import MuonAdamW
from diffuscope.weights.store import files, headers
from diffuscope.weights.store.files import TORCH
from diffuscope.weights.store.headers import Header

UNNAMED = ("log_every", "validate_every", "save_every", "max_skipped", "compiled", "preset", "draws")
"""Settings that change no number of a run."""


@dataclass
class Progress:
    """Steps and seconds of training so far."""

    step: int = 0
    seconds: float = 0.0


def settings_of(asked: Any) -> dict[str, Any]:
    """The settings of a run, by their names with dots, as JSON has them; a batch is that of all processes."""

    def named(config: Any, start: str) -> dict[str, Any]:
        values = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in UNNAMED}
        if "batch_size" in values:
            values["batch_size"] *= distributed.world_size()
        nested = {name: value for name, value in values.items() if is_dataclass(value)}
        found = {start + name: value for name, value in values.items() if name not in nested}
        return found | {k: v for name, value in nested.items() for k, v in named(value, f"{start}{name}.").items()}

    found: dict[str, Any] = json.loads(json.dumps(named(asked, ""), default=str))
    return found


def _state(network: nn.Module, ema: nn.Module, optimiser: MuonAdamW) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {f"network.{name}": value for name, value in network.state_dict().items()}
    state |= {f"ema.{name}": value for name, value in ema.state_dict().items()}
    return state | {f"optimiser.{name}": value for name, value in optimiser.state().items()}


def save(
    path: Path,
    network: nn.Module,
    ema: nn.Module,
    optimiser: MuonAdamW,
    progress: Progress,
    settings: Mapping[str, Any],
) -> None:
    """Write the state for ``restore``; an interrupted write keeps the old file."""
    metadata = {"progress": json.dumps(vars(progress)), "settings": json.dumps(settings)}
    files.write(path, _state(network, ema, optimiser), metadata)


def restore(
    path: Path, network: nn.Module, ema: nn.Module, optimiser: MuonAdamW, settings: Mapping[str, Any]
) -> Progress:
    """Load the state of ``save`` and return the progress. Nothing changes unless all of it fits.

    Raises:
        InputError: the run began with other settings.
        WeightsError: the file is damaged, of another network or optimiser, or holds numbers that are not finite.
    """
    header = headers.read_header(path)
    expected = _state(network, ema, optimiser)
    _compare(path, header, expected)
    progress = _progress(path, header)
    _check_settings(path, header, settings)
    state = files.read(path, header=header)
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            _refuse(path, f"{shown(name)} is not finite")

    def part(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}

    network.load_state_dict(part("network."))
    ema.load_state_dict(part("ema."))
    optimiser.load(part("optimiser."))
    return progress


def _compare(path: Path, header: Header, expected: dict[str, Tensor]) -> None:
    """The file has the names, shapes and dtypes of this run, and no others."""
    missing = [name for name in expected if name not in header.tensors]
    if missing:
        _refuse(path, f"it lacks {len(missing)} tensors, the first {shown(missing[0])}")
    extra = [name for name in header.tensors if name not in expected]
    if extra:
        _refuse(path, f"it has {len(extra)} tensors that this run lacks, the first {shown(extra[0])}")
    for name, tensor in expected.items():
        info = header.tensors[name]
        if info.shape != tuple(tensor.shape) or TORCH[info.dtype] != tensor.dtype:
            found, wanted = f"{info.dtype} {list(info.shape)[:9]}", f"{tensor.dtype} {list(tensor.shape)}"
            _refuse(path, f"{shown(name)} is {found}, expected {wanted}")


def _progress(path: Path, header: Header) -> Progress:
    if "progress" not in header.metadata:
        _refuse(path, "its progress is missing")
    text = header.metadata["progress"]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.keys() != {"step", "seconds"}:
        _refuse(path, f"its progress is {shown(text)}, expected step and seconds")
    step, seconds = found["step"], found["seconds"]
    possible = type(step) is int and 0 <= step < 1 << 53 and type(seconds) in (int, float)
    if not possible or not (math.isfinite(seconds) and seconds >= 0):
        _refuse(path, f"its progress is {shown(text)}, expected a step and seconds of at least 0")
    return Progress(step, float(seconds))


def _check_settings(path: Path, header: Header, settings: Mapping[str, Any]) -> None:
    """The run goes on as it began."""
    try:
        began = json.loads(header.metadata.get("settings", ""))
    except (ValueError, RecursionError):
        began = None
    if not isinstance(began, dict):
        _refuse(path, "its settings are missing")
    for name in dict.fromkeys((*settings, *began)):
        if settings.get(name) != began.get(name):
            want = f"{shown(began.get(name))}, with which the run in {path.parent} began"
            raise InputError(name, settings.get(name), want, "Give another folder to begin anew")


def _refuse(path: Path, what: str) -> NoReturn:
    raise WeightsError(f"{path} is no checkpoint of this run: {what}; give another folder, or remove the file")
