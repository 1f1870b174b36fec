"""LoRA files: their layers matched with a model's, as deltas of its weights.

A LoRA's W' = W + (alpha / r) B A is of Hu et al. 2021, section 4.1; all kinds of deltas are in ``deltas``.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from diffuscope.config import TextEncoderConfig, UNetConfig
from diffuscope.errors import WeightMismatchError, WeightsError, shown
from diffuscope.weights.adapter import deltas, lora_scale
from diffuscope.weights.adapter.deltas import ROLES, Adapter
from diffuscope.weights.adapter.lora_names import BASE_MODELS, LEAVES, Role, other_adapter, parse, table, text_dims
from diffuscope.weights.adapter.lora_scale import PeftSettings
from diffuscope.weights.layout.diffusers import to_diffusers
from diffuscope.weights.layout.ldm import to_ldm
from diffuscope.weights.store import files, headers
from diffuscope.weights.store.headers import Header
from diffuscope.weights.store.stores import open_store

IMAGIC = "imagic."  # beginning of the names of an Imagic's text states, which stand beside its LoRA

Layer = tuple[str, str]  # a network's part and the name of its parameter
Keys = dict[Role, str]  # the names in a file of one layer's tensors, by role


class Target(NamedTuple):
    """What a file has for one parameter."""

    names: Keys  # of its tensors, by their role in its ``Adapter``
    layer: Keys  # of all tensors of its layer


FILES = ("pytorch_lora_weights.safetensors", lora_scale.PEFT_FILE)  # the file in a folder of diffusers, or of PEFT


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
    unused: tuple[str, ...]  # tensors and settings of the file that have no part in anything here
    sha256: str  # of the tensors' bytes, like AUTOMATIC1111's web UI and model sites; of a whole pickle
    captions: str = ""  # of the pictures that it learned, where `finetune` wrote it

    @cached_property
    def parts(self) -> dict[str, int]:
        """How many layers of each network it changes."""
        return dict(Counter(part for part, _ in dict.fromkeys((p, n.rpartition(".")[0]) for p, n in self.adapters)))


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
    layers, layout, unused = _layers(path, header)
    matched, unmatched = _match(layers, networks)
    base_models = _base_models(header, networks)
    if not matched:
        raise WeightMismatchError(
            f"none of the {len(layers)} layers of {path} is one of this model's (the first is "
            f"{shown(min(layers)[1])}){base_models}; give a LoRA that was trained for this model's family"
        )
    settings = PeftSettings.of(path, header)
    shapes = {layer: networks[layer[0]].shapes[layer[1]] for layer in matched}
    for layer, target in matched.items():
        unused += _check(path, header, layer, target.names, shapes[layer], base_models)
    tensors = store.read(header.tensors.keys() - {*unused})
    for name, tensor in tensors.items():
        if not torch.stack(tensor.float().aminmax()).isfinite().all():
            headers.refuse(path, f"{shown(name)} holds numbers that are not finite", "fetch it again")
    return Lora(
        path=path,
        layout=layout,
        adapters={layer: _adapter(target, tensors, settings, shapes[layer]) for layer, target in matched.items()},
        unmatched=unmatched,
        unused=(*sorted(unused), *settings.unused),
        sha256=files.sha256(path, headers.data_start(path) if store.tensors is None else 0),
        captions=header.metadata.get("captions", ""),
    )


def _layers(path: Path, header: Header) -> tuple[dict[tuple[str, str], Keys], str, list[str]]:
    """(part or "", layer in the file's words) -> the names of its tensors; the file's layout; names without a role."""
    layers: dict[tuple[str, str], Keys] = {}
    layouts = Counter[str]()
    unused = []
    for name in header.tensors:
        if name.startswith(IMAGIC):
            continue
        key = parse(name)
        if key is None:
            unused.append(name)
            continue
        layouts[key.layout] += key.role in ROLES or key.role in ("bias_diff", "bias_up")  # others several layouts share
        keys = layers.setdefault((key.part or "", key.layer), {})
        if key.role in keys:
            both = f"{shown(keys[key.role])} and {shown(name)}"
            headers.refuse(path, f"{both} mean the same", "keep one of them")
        keys[key.role] = name
    kind = other_adapter(header.tensors)
    if kind is not None or not any(ROLES.keys() & keys.keys() for keys in layers.values()):
        what = f"it holds {kind} adapters, which are not supported" if kind else "no tensor has the name of a LoRA's"
        first = shown(next(iter(header.tensors), "none at all"))
        raise WeightsError(f"{path} is no LoRA: {what} (the first is {first}); give a LoRA as safetensors")
    for (_, layer), keys in layers.items():
        lacks = deltas.missing(keys) if not keys.keys() <= LEAVES.keys() else None
        if lacks or ("bias_up" in keys and "up" not in keys):
            headers.refuse(path, f"layer {shown(layer)} has no {lacks or 'lora_up'}", "fetch the file again")
    return layers, layouts.most_common(1)[0][0], unused


def _match(
    layers: Mapping[tuple[str, str], Keys], networks: Mapping[str, Network]
) -> tuple[dict[Layer, Target], tuple[str, ...]]:
    """Our parameter -> its tensors; and the layers, or biases of layers, that the model does not have."""
    tables = {part: table(network.names) for part, network in networks.items()}
    matched: dict[Layer, Target] = {}
    unmatched: list[str] = []
    for (part, layer), keys in layers.items():
        parts = [part] if part else [*networks]  # without a prefix the first network that has the layer is meant
        ours = next(((p, tables[p][layer]) for p in parts if layer in tables.get(p, {})), None)
        if ours is None:
            unmatched.append(f"{part}.{layer}" if part else layer)
            continue
        owner, weight = ours
        for leaf, names in _by_leaf(keys).items():
            parameter = owner, f"{weight.removesuffix('weight')}{leaf}"
            if parameter in matched:
                both = " and ".join(shown(next(iter(each.values()))) for each in (matched[parameter].names, names))
                raise WeightsError(f"{both} mean the same layer; keep one of them")
            if parameter[1] in networks[owner].shapes:
                matched[parameter] = Target(names, keys)
            else:
                unmatched.append(f"{part}.{layer}.{leaf}" if part else f"{layer}.{leaf}")
    return matched, tuple(sorted(unmatched))


def _by_leaf(keys: Keys) -> dict[str, Keys]:
    """Parameter of the layer, "weight" or "bias" -> the names of its tensors by their role there."""
    leaves: dict[str, Keys] = {}
    for role, name in keys.items():
        leaf, own = LEAVES.get(role, ("weight", role))
        names = leaves.setdefault(leaf, {})
        if own in names:
            raise WeightsError(f"{shown(names[own])} and {shown(name)} mean the same; keep one of them")
        names[own] = name
    return leaves


def _check(
    path: Path, header: Header, layer: Layer, names: Keys, shape: tuple[int, ...], base_models: str
) -> list[str]:
    """Compare a parameter with its tensors by the header, on the meta device; the names of those without a part."""
    shapes = {role: header.tensors[name].shape for role, name in names.items()}
    if "alpha" in shapes and math.prod(shapes["alpha"]) != 1:
        headers.refuse(path, f"{shown(names['alpha'])} is {list(shapes['alpha'])}, expected one number")
    magnitude = shapes.get("magnitude")
    if magnitude is not None and _magnitude_axis(names["magnitude"], magnitude, shape) is None:
        raise WeightMismatchError(
            f"{shown(names['magnitude'])} of {path} has shape {list(magnitude)}; expected {shape[0]} values, one per "
            "output"
        )
    factors = {role: name for role, name in names.items() if role in ROLES}
    kinds = {ROLES[role] for role in factors}
    if len(kinds) > 1:
        listed = " and ".join(shown(name) for name in factors.values())
        headers.refuse(path, f"{listed} are of {' and '.join(sorted(kinds))} for one layer", "keep one")
    for role, name in factors.items():
        if 0 in shapes[role] or not files.TORCH[header.tensors[name].dtype].is_floating_point:
            what = f"{header.tensors[name].dtype} of shape {list(shapes[role])}"
            headers.refuse(path, f"{shown(name)} is {what}, expected floats, at least one")
    (kind,) = kinds
    tensors = {role: torch.empty(shapes[role], device="meta") for role in factors}
    try:
        unread = Adapter(kind=kind, tensors=tensors).unread(shape)
    except ValueError as error:
        parts = ", ".join(f"{role} {list(shapes[role])}" for role in factors)
        raise WeightMismatchError(
            f"layer {shown(next(iter(factors.values())))} of {path} is a {kind} of {parts}, which does not fit this "
            f"model's {'.'.join(layer)} of {list(shape)} ({error}){base_models}; give one for this model's family"
        ) from error
    if unread:
        extra = shown(factors[min(unread)])
        headers.refuse(path, f"{extra} has no part beside the other tensors of its layer", "remove it")
    return [names["alpha"]] if "alpha" in names and (kind == "full" or "oft_R" in names) else []


def _magnitude_axis(key: str, magnitude: tuple[int, ...], shape: Sequence[int]) -> int | None:
    """The axis of the weight along which DoRA's magnitude runs, 0 (outputs) or 1 (inputs); None if it fits neither.

    PEFT has one value per output, in any shape. LyCORIS and kohya have [out,1,1,1] or, in first versions, [1,in,1,1].
    """
    if len(shape) < 2:
        return None
    count, (outputs, inputs) = math.prod(magnitude), shape[:2]
    if count == outputs and (".lora_magnitude_vector" in key or magnitude[:1] == (outputs,)):
        return 0
    return 1 if count == inputs and magnitude[:2] == (1, inputs) and ".dora_scale" in key else None


def _adapter(target: Target, tensors: Mapping[str, Tensor], settings: PeftSettings, shape: tuple[int, ...]) -> Adapter:
    names = target.names
    parts = {role: tensors[name] for role, name in names.items() if role in ROLES}
    magnitude = tensors[names["magnitude"]] if "magnitude" in names else None
    kind = deltas.kind_of(parts)
    if parts:
        settings.check_kind(names[next(iter(parts))], kind, magnitude is not None)
    return Adapter(
        kind=kind,
        tensors=parts,
        scale=_scale(target, tensors, settings),
        terms=settings.terms(names["oft_R"]) if "oft_R" in parts else None,
        magnitude=magnitude,
        per_input=magnitude is not None and _magnitude_axis(names["magnitude"], tuple(magnitude.shape), shape) == 1,
    )


def _scale(target: Target, tensors: Mapping[str, Tensor], settings: PeftSettings) -> float:
    """Alpha over rank; for OFT alpha, and 1 for whole tensors, but for the bias of a LoRA."""
    names, layer = target
    kind = deltas.kind_of(names)
    if kind == "full" and names.get("diff") != layer.get("bias_up", ""):
        return 1.0
    role = next(role for role in layer if role in ROLES)
    if kind == "OFT":
        return lora_scale.alpha_over_rank(layer[role], tensors[layer["alpha"]], 1) if "alpha" in layer else 0.0
    rank = deltas.rank({each: tuple(tensors[name].shape) for each, name in layer.items() if each in ROLES})
    if "alpha" in layer:
        return lora_scale.alpha_over_rank(layer[role], tensors[layer["alpha"]], rank)
    if "singular" in layer and rank is not None:
        return settings.adalora_scale(layer[role], rank)
    return settings.scale(layer[role], rank)


def _base_models(header: Header, networks: Mapping[str, Network]) -> str:
    """Part of a sentence: which models the LoRA and the networks are of, where their text embeddings differ."""
    theirs = next(iter(text_dims(header.tensors)), None)
    shapes = networks["unet"].shapes if "unet" in networks else {}
    ours = next((shape[1] for name, shape in shapes.items() if name.endswith("cross_attn.key.weight")), None)
    if theirs is None or ours is None or theirs == ours:
        return ""
    a, b = (f"{BASE_MODELS.get(dim, 'another model')} ({dim}-dim text embeddings)" for dim in (theirs, ours))
    return f": it was trained for {a}, this model is {b}"
