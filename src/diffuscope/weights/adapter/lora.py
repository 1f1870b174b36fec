"""LoRA files: their layers matched with a model's, as deltas of its weights.

A LoRA's W' = W + (alpha / r) B A is of Hu et al. 2021, section 4.1; all kinds of deltas are in ``deltas``.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuscope.config import TextEncoderConfig, UNetConfig
from diffuscope.errors import WeightMismatchError, WeightsError
from diffuscope.weights.adapter import deltas, lora_scale
from diffuscope.weights.adapter.deltas import ROLES, Adapter
from diffuscope.weights.adapter.lora_names import BASE_MODELS, Role, other_adapter, parse, table, text_dims
from diffuscope.weights.layout.diffusers import to_diffusers
from diffuscope.weights.layout.ldm import to_ldm
from diffuscope.weights.store import files
from diffuscope.weights.store.files import Header
from diffuscope.weights.store.stores import open_store

Layer = tuple[str, str]
"""A network's part and the name of its parameter."""
Keys = dict[Role, str]
"""The names in a file of one layer's tensors, by role."""

FILES = ("pytorch_lora_weights.safetensors", lora_scale.PEFT_FILE)
"""The file in a LoRA's folder, as diffusers and PEFT name it."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """The parameters of a network that a LoRA may name."""

    shapes: Mapping[str, tuple[int, ...]]  # by our names
    names: Mapping[str, str]  # name in another layout -> ours

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], config: TextEncoderConfig | UNetConfig) -> "Network":
        """From the network's tensors by our names, of which only the shapes are read."""
        layouts = [to_diffusers, to_ldm] if isinstance(config, UNetConfig) else [to_diffusers]
        ours = {id(tensor): name for name, tensor in tensors.items()}
        return cls(
            shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
            names={theirs: ours[id(tensor)] for names in layouts for theirs, tensor in names(tensors, config).items()},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Lora:
    """A LoRA file, matched with a model's layers. Two readings of one file are two, and not equal."""

    path: Path
    layout: str
    adapters: Mapping[Layer, Adapter]
    unmatched: tuple[str, ...]  # layers of the file that the model does not have, by the file's names
    sha256: str
    """Of the tensors' bytes, without the header, like AUTOMATIC1111's web UI and model sites; of a whole pickle."""

    @cached_property
    def parts(self) -> dict[str, int]:
        """How many layers of each network it changes."""
        return dict(Counter(part for part, _ in self.adapters))


def merged(weight: Tensor, adapters: Iterable[tuple[Adapter, float]]) -> Tensor:
    """``weight`` + the sum of each delta times its strength, in float32, rounded once to the dtype of ``weight``.

    Every delta is of the unchanged ``weight``, so the order does not matter. Without adapters it is ``weight``.
    """
    total: Tensor | None = None
    for adapter, strength in adapters:
        delta = strength * adapter.delta(weight)
        total = delta if total is None else total + delta
    return weight if total is None else (weight.float() + total).to(weight.dtype)


def read(path: str | Path, networks: Mapping[str, Network], *, allow_pickle: bool = False) -> Lora:
    """The LoRA at ``path``, a file in any layout or its folder, for a model of these networks by part.

    The header is checked against the networks before a tensor is read.
    """
    path = files.find_file(Path(path), FILES, "LoRA")
    store = open_store(path, allow_pickle=allow_pickle)
    header = store.header
    layers, layout = _layers(path, header)
    matched, unmatched = _match(layers, networks)
    base_models = _base_models(header, networks)
    if not matched:
        raise WeightMismatchError(
            f"none of the {len(layers)} layers of {path} is one of this model's (the first is {min(layers)[1]!r})"
            f"{base_models}; give a LoRA that was trained for this model's family"
        )
    shapes = {layer: networks[layer[0]].shapes[layer[1]] for layer in matched}
    for layer, keys in matched.items():
        _check(path, header, layer, keys, shapes[layer], base_models)
    tensors = store.read()
    settings = lora_scale.settings_of(path, header)
    return Lora(
        path=path,
        layout=layout,
        adapters={layer: _adapter(keys, tensors, settings, shapes[layer]) for layer, keys in matched.items()},
        unmatched=unmatched,
        sha256=files.sha256(path, files.data_start(path) if store.tensors is None else 0),
    )


def _layers(path: Path, header: Header) -> tuple[dict[tuple[str, str], Keys], str]:
    """(part or "", layer in the file's words) -> the names of its tensors; and the file's layout."""
    layers: dict[tuple[str, str], Keys] = {}
    layouts = Counter[str]()
    for name in header.tensors:
        key = parse(name)
        if key is None:
            continue
        layouts[key.layout] += key.role not in {"alpha", "magnitude"}  # which several layouts share
        keys = layers.setdefault((key.part or "", key.layer), {})
        if key.role in keys:
            raise WeightsError(f"{path} is refused: {keys[key.role]!r} and {name!r} mean the same; keep one of them")
        keys[key.role] = name
    if not any(ROLES.keys() & keys.keys() for keys in layers.values()):
        kind = other_adapter(header.tensors)
        what = f"it holds {kind} adapters, which are not supported" if kind else "no tensor has the name of a LoRA's"
        first = next(iter(header.tensors), "none at all")
        raise WeightsError(f"{path} is no LoRA: {what} (the first is {first!r}); give a LoRA as safetensors")
    for (_, layer), keys in layers.items():
        lacks = deltas.missing(keys)
        if lacks:
            raise WeightsError(f"{path} is refused: layer {layer!r} has no {lacks}; fetch the file again")
    return layers, layouts.most_common(1)[0][0]


def _match(
    layers: Mapping[tuple[str, str], Keys], networks: Mapping[str, Network]
) -> tuple[dict[Layer, Keys], tuple[str, ...]]:
    """Our layer -> the names of its tensors; and the layers that the model does not have."""
    tables = {part: table(network.names) for part, network in networks.items()}
    matched: dict[Layer, Keys] = {}
    unmatched: list[str] = []
    for (part, layer), keys in layers.items():
        parts = [part] if part else [*networks]  # without a prefix the first network that has the layer is meant
        ours = next(((p, tables[p][layer]) for p in parts if layer in tables.get(p, {})), None)
        if ours is None:
            unmatched.append(f"{part}.{layer}" if part else layer)
        elif ours in matched:
            both = [next(iter(names.values())) for names in (matched[ours], keys)]
            raise WeightsError(f"{both[0]!r} and {both[1]!r} mean the same layer; keep one of them")
        else:
            matched[ours] = keys
    return matched, tuple(sorted(unmatched))


def _check(path: Path, header: Header, layer: Layer, keys: Keys, shape: tuple[int, ...], base_models: str) -> None:
    """Compare a layer with the weight by the header, through a delta of tensors on the meta device."""
    shapes = {role: header.tensors[key].shape for role, key in keys.items()}
    if "alpha" in shapes and math.prod(shapes["alpha"]) != 1:
        raise WeightsError(f"{path} is refused: {keys['alpha']!r} is {list(shapes['alpha'])}, expected one number")
    magnitude = shapes.get("magnitude")
    if magnitude is not None and _magnitude_axis(keys["magnitude"], magnitude, shape) is None:
        raise WeightMismatchError(
            f"{keys['magnitude']!r} of {path} has shape {list(magnitude)}; expected {shape[0]} values, one per output"
        )
    tensors = {role: torch.empty(shapes[role], device="meta") for role in keys if role in ROLES}
    kind = deltas.kind_of(tensors)
    try:
        Adapter(kind=kind, tensors=tensors).delta(torch.empty(shape, device="meta"))
    except ValueError as error:
        parts = ", ".join(f"{role} {list(tensor.shape)}" for role, tensor in tensors.items())
        raise WeightMismatchError(
            f"layer {keys[next(iter(tensors))]!r} of {path} is a {kind} of {parts}, which does not fit this model's "
            f"{'.'.join(layer)} of {list(shape)} ({error}){base_models}; give one for this model's family"
        ) from error


def _magnitude_axis(key: str, magnitude: tuple[int, ...], shape: Sequence[int]) -> int | None:
    """The axis of the weight along which DoRA's magnitude runs, 0 (outputs) or 1 (inputs); None if it fits neither.

    PEFT has one value per output, in any shape. LyCORIS and kohya have [out,1,1,1] or, in first versions, [1,in,1,1].
    """
    count, (outputs, inputs) = math.prod(magnitude), shape[:2]
    if count == outputs and (".lora_magnitude_vector" in key or magnitude[:1] == (outputs,)):
        return 0
    return 1 if count == inputs and magnitude[:2] == (1, inputs) and ".dora_scale" in key else None


def _adapter(keys: Keys, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], shape: tuple[int, ...]) -> Adapter:
    parts = {role: tensors[key] for role, key in keys.items() if role in ROLES}
    kind, key = deltas.kind_of(parts), keys[next(iter(parts))]
    if kind == "OFT":
        scale = lora_scale.scale_of(key, keys, tensors, 1, {}) if "alpha" in keys else 0.0
    else:
        rank = deltas.rank({role: tuple(tensor.shape) for role, tensor in parts.items()})
        scale = lora_scale.scale_of(key, keys, tensors, rank, settings)
    magnitude = tensors[keys["magnitude"]] if "magnitude" in keys else None
    return Adapter(
        kind=kind,
        tensors=parts,
        scale=scale,
        terms=lora_scale.terms_of(settings) if "oft_R" in parts else None,
        magnitude=magnitude,
        per_input=magnitude is not None and _magnitude_axis(keys["magnitude"], tuple(magnitude.shape), shape) == 1,
    )


def _base_models(header: Header, networks: Mapping[str, Network]) -> str:
    """Part of a sentence: which models the LoRA and the networks are of, where their text embeddings differ."""
    theirs = next(iter(text_dims(header.tensors)), None)
    shapes = networks["unet"].shapes if "unet" in networks else {}
    ours = next((shape[1] for name, shape in shapes.items() if name.endswith("cross_attn.key.weight")), None)
    if theirs is None or ours is None or theirs == ours:
        return ""
    a, b = (f"{BASE_MODELS.get(dim, 'another model')} ({dim}-dim text embeddings)" for dim in (theirs, ours))
    return f": it was trained for {a}, this model is {b}"
