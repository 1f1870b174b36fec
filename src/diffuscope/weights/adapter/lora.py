"""LoRA: low-rank changes of a network's layers, as a file has them and as differences of weights.

Hu et al. 2021 (section 4.1, W' = W + (alpha / r) B A), for convolutions as LyCORIS does it (Yeh et al. 2023, section
3.2: a 1x1 convolution behind the kernel's, and LoCon's factor between the two), and DoRA (Liu et al. 2024, equation 5).
Files may also hold the changes of ``lycoris``, which are matched and merged in the same way.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuscope.config import TextEncoderConfig, UNetConfig
from diffuscope.errors import ModelNotFoundError, WeightMismatchError, WeightsError
from diffuscope.weights.adapter import lora_scale, lycoris
from diffuscope.weights.adapter.lora_names import Role, other_adapter, place_of, table
from diffuscope.weights.layout.diffusers import to_diffusers
from diffuscope.weights.layout.ldm import to_ldm
from diffuscope.weights.store.files import Header
from diffuscope.weights.store.stores import Store, open_store

Layer = tuple[str, str]
"""A network's part and the name of its parameter."""

FILES = ("pytorch_lora_weights.safetensors", lora_scale.PEFT_FILE)
"""What the one file of a LoRA's folder is called, by diffusers and by PEFT."""

TEXT_WIDTHS = {768: "SD 1", 1024: "SD 2", 2048: "SDXL", 1280: "SDXL's refiner"}
"""How wide the text is that the U-Net of a family reads."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """What has to be known of a network in order to say which of its layers a file means."""

    shapes: Mapping[str, tuple[int, ...]]
    """Of each parameter, by our names."""
    names: Mapping[str, str]
    """Foreign name of a parameter -> ours, of every layout that is known."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], config: TextEncoderConfig | UNetConfig) -> "Network":
        """What there is to know of the network with these tensors, by our names; only their shapes are looked at."""
        layouts = [to_diffusers, to_ldm] if isinstance(config, UNetConfig) else [to_diffusers]
        ours = {id(tensor): name for name, tensor in tensors.items()}
        return cls(
            shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
            names={theirs: ours[id(tensor)] for names in layouts for theirs, tensor in names(tensors, config).items()},
        )


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The low-rank change of one layer."""

    up: Tensor
    """B: [out,r], or [out,r,1,1]."""
    down: Tensor
    """A: [r,in], or [r,in,kh,kw]; [r,in,1,1] where there is a middle."""
    scale: float
    """alpha / r."""
    mid: Tensor | None = None
    """LoCon's middle, [r,r,kh,kw]."""
    magnitude: Tensor | None = None
    """DoRA's m, of as many values as the layer has outputs, or inputs where ``per_input``."""
    per_input: bool = False

    def delta(self, weight: Tensor) -> Tensor:
        """What the layer's weight changes by, float32, of the shape and on the device of ``weight``.

        Args:
            weight: the unchanged weight, of which DoRA takes the direction. Not modified.
        """
        up, down = (factor.to(weight.device, torch.float32).flatten(1) for factor in (self.up, self.down))
        if self.mid is not None:
            mid = self.mid.to(weight.device, torch.float32)
            product = torch.einsum("or,rskl,si->oikl", up, mid, down)
        else:
            product = up @ down
        change = (self.scale * product).reshape(weight.shape)
        return lycoris.decomposed(weight, change, self.magnitude, self.per_input)


Change = Factors | lycoris.Adapter


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA file, matched with a model's layers."""

    path: Path
    dialect: str
    factors: Mapping[Layer, Change]
    unmatched: tuple[str, ...]
    """Layers of the file that the model does not have, in the file's words."""
    sha256: str
    """Of the tensors' bytes, without the header, as AUTOMATIC1111's web UI and model sites have it; a pickle's: all."""

    @property
    def parts(self) -> dict[str, int]:
        """How many layers of each network it changes."""
        return dict(Counter(part for part, _ in self.factors))


def merged(weight: Tensor, changes: Iterable[tuple[Change, float]]) -> Tensor:
    """``weight`` + the sum of each change times its weight, in float32, rounded once to the dtype of ``weight``.

    Every change is of the unchanged ``weight``, so none depends on another's place. With no change it is ``weight``.
    """
    total: Tensor | None = None
    for factors, strength in changes:
        delta = strength * factors.delta(weight)
        total = delta if total is None else total + delta
    return weight if total is None else (weight.float() + total).to(weight.dtype)


def find(path: Path) -> Path:
    """The file of a LoRA, which may be given as its folder.

    Raises:
        ModelNotFoundError: there is none.
    """
    candidates = [path / name for name in FILES] if path.is_dir() else [path]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise ModelNotFoundError(f"no LoRA at {path}; give a .safetensors file, or a folder with {' or '.join(FILES)}")
    return found


def read(path: str | Path, networks: Mapping[str, Network], *, allow_pickle: bool = False) -> Lora:
    """The LoRA at ``path``, for a model of these networks. The header is checked against them before a tensor is read.

    Args:
        path: a safetensors file in the dialect of kohya, diffusers, PEFT or ComfyUI, or its folder.
        networks: by part: "unet", "text_encoder", "text_encoder_2".
        allow_pickle: also read a pickle, by ``stores.open_store``.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: the file is damaged, is no LoRA, or lacks half of a layer.
        WeightMismatchError: no layer of it is one of the networks', or one has another shape: it is another family's.
    """
    path = find(Path(path))
    store = open_store(path, allow_pickle=allow_pickle)
    header = store.header
    layers, dialect = _layers(path, header)
    found, unmatched = _match(layers, networks)
    widths = _text_width(header, layers), _own_text_width(networks)
    if not found:
        raise WeightMismatchError(
            f"none of the {len(layers)} layers of {path} is one of this model's (the first is {min(layers)[1]!r})"
            f"{_families(*widths)}; give a LoRA that was made for this family of models"
        )
    for layer, keys in found.items():
        _check(path, header, layer, keys, networks[layer[0]].shapes[layer[1]], _families(*widths))
    tensors = store.read()
    settings = lora_scale.settings_of(path, header)
    factors = {
        layer: _factors(keys, tensors, settings, networks[layer[0]].shapes[layer[1]]) for layer, keys in found.items()
    }
    return Lora(path=path, dialect=dialect, factors=factors, unmatched=unmatched, sha256=_hash(path, store))


Keys = dict[Role, str]


def _layers(path: Path, header: Header) -> tuple[dict[tuple[str, str], Keys], str]:
    """(part or "", layer in the file's words) -> the key of each of its factors; and the file's dialect."""
    layers: dict[tuple[str, str], Keys] = {}
    dialects = Counter[str]()
    for key in header.tensors:
        place = place_of(key)
        if place is None:
            continue
        dialects[place.dialect] += place.role not in {"alpha", "magnitude"}  # which several have
        keys = layers.setdefault((place.part or "", place.layer), {})
        if place.role in keys:
            raise WeightsError(f"{path} is refused: {keys[place.role]!r} and {key!r} mean the same; keep one of them")
        keys[place.role] = key
    if not any({"up", "down", *lycoris.ROLES} & keys.keys() for keys in layers.values()):
        kind = other_adapter(header.tensors)
        what = f"it holds {kind} adapters, which are not read" if kind else "none of its tensors is named as a LoRA's"
        first = next(iter(header.tensors), "none at all")
        raise WeightsError(f"{path} is no LoRA: {what} (the first is {first!r}); give a LoRA as safetensors")
    for (_, layer), keys in layers.items():
        half = {"up", "down"} - keys.keys()
        lacks = lycoris.missing(keys) if lycoris.ROLES.keys() & keys.keys() else (f"lora_{min(half)}" if half else None)
        if lacks:
            raise WeightsError(f"{path} is refused: layer {layer!r} has no {lacks}; fetch the file again")
    return layers, dialects.most_common(1)[0][0]


def _match(
    layers: Mapping[tuple[str, str], Keys], networks: Mapping[str, Network]
) -> tuple[dict[Layer, Keys], tuple[str, ...]]:
    tables = {part: table(network.names) for part, network in networks.items()}
    found: dict[Layer, Keys] = {}
    unmatched: list[str] = []
    for (part, layer), keys in layers.items():
        parts = [part] if part else [*networks]  # without a prefix the first network that has the layer is meant
        ours = next(((p, tables[p][layer]) for p in parts if layer in tables.get(p, {})), None)
        if ours is None:
            unmatched.append(f"{part}.{layer}" if part else layer)
        else:
            if ours in found:
                both = [next(iter(each.values())) for each in (found[ours], keys)]
                raise WeightsError(f"{both[0]!r} and {both[1]!r} mean the same layer; keep one of them")
            found[ours] = keys
    return found, tuple(sorted(unmatched))


def _check(path: Path, header: Header, layer: Layer, keys: Keys, shape: tuple[int, ...], families: str) -> None:
    """That the product of the factors has the shape of the weight, told from the header."""
    shapes = {role: header.tensors[key].shape for role, key in keys.items()}
    _check_scalars(path, keys, shapes, shape)
    if lycoris.ROLES.keys() & keys.keys():
        _check_adapter(path, layer, keys, shapes, shape, families)
        return
    up, down, mid = shapes["up"], shapes["down"], shapes.get("mid")
    for role, factor in shapes.items():
        if role in {"up", "down", "mid"} and (len(factor) < 2 or 0 in factor):
            raise WeightsError(f"{path} is refused: {keys[role]!r} has shape {list(factor)}, which is no matrix")
    inner = down[2:] if mid is None else mid[2:]
    made = (up[0], down[1], *inner)
    linked = up[1] == down[0] if mid is None else mid[:2] == (up[1], down[0])
    flat = math.prod(up[2:]) == 1 and (mid is None or math.prod(down[2:]) == 1)
    if _squeezed(made) != _squeezed(shape) or not linked or not flat:
        raise WeightMismatchError(
            f"layer {keys['down']!r} of {path} makes a change of shape {list(made)}, and this model's "
            f"{'.'.join(layer)} has {list(shape)}{families}; give a LoRA that was made for this family of models"
        )


def _check_adapter(
    path: Path, layer: Layer, keys: Keys, shapes: Mapping[Role, tuple[int, ...]], shape: tuple[int, ...], families: str
) -> None:
    """That a change of another kind has the shape of the weight, told from the header by tensors without numbers."""
    tensors = {role: torch.empty(size, device="meta") for role, size in shapes.items() if role in lycoris.ROLES}
    kind = lycoris.ROLES[next(iter(tensors))]
    weight = torch.empty(shape, device="meta")
    try:
        if shapes.get("oft_blocks", (0, 0, 0))[3:]:
            raise ValueError("BOFT's blocks of blocks are not read")
        lycoris.Adapter(kind=kind, tensors=tensors).delta(weight)
    except ValueError as error:
        told = ", ".join(f"{role} {list(tensor.shape)}" for role, tensor in tensors.items())
        raise WeightMismatchError(
            f"layer {keys[next(iter(tensors))]!r} of {path} is a {kind} of {told}, which does not fit this model's "
            f"{'.'.join(layer)} of {list(shape)} ({error}){families}; give one that was made for this family of models"
        ) from error


def _check_scalars(path: Path, keys: Keys, shapes: Mapping[Role, tuple[int, ...]], shape: tuple[int, ...]) -> None:
    """That a magnitude runs along an axis of the weight, and that alpha is one number."""
    magnitude = shapes.get("magnitude")
    if magnitude is not None and _magnitude_axis(keys["magnitude"], magnitude, shape) is None:
        raise WeightMismatchError(
            f"{keys['magnitude']!r} of {path} has shape {list(magnitude)}; expected {shape[0]} values, one an output"
        )
    if "alpha" in shapes and math.prod(shapes["alpha"]) != 1:
        raise WeightsError(
            f"{path} is refused: {keys['alpha']!r} has shape {list(shapes['alpha'])}, expected one number"
        )


def _magnitude_axis(key: str, magnitude: tuple[int, ...], shape: Sequence[int]) -> int | None:
    """The axis of the weight along which DoRA's magnitude runs, 0 (outputs) or 1 (inputs); None where it fits neither.

    PEFT has one value an output, in any shape. LyCORIS and kohya have [out,1,1,1] or, in first versions, [1,in,1,1].
    """
    count, (outputs, inputs) = math.prod(magnitude), shape[:2]
    if count == outputs and (".lora_magnitude_vector" in key or magnitude[:1] == (outputs,)):
        return 0
    return 1 if count == inputs and magnitude[:2] == (1, inputs) and ".dora_scale" in key else None


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape without the kernel of a 1x1 convolution, which is a linear layer written otherwise."""
    return tuple(shape[:2]) if all(side == 1 for side in shape[2:]) else tuple(shape)


def _factors(keys: Keys, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], shape: tuple[int, ...]) -> Change:
    if lycoris.ROLES.keys() & keys.keys():
        return _adapter(keys, tensors, settings, shape)
    up, down = tensors[keys["up"]], tensors[keys["down"]]
    magnitude = tensors[keys["magnitude"]] if "magnitude" in keys else None
    rank = down.shape[0]
    return Factors(
        up=up,
        down=down,
        mid=tensors[keys["mid"]] if "mid" in keys else None,
        scale=lora_scale.scale_of(keys["down"], keys, tensors, rank, settings),
        magnitude=magnitude,
        per_input=_per_input(keys, tensors, shape),
    )


def _adapter(
    keys: Keys, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], shape: tuple[int, ...]
) -> lycoris.Adapter:
    parts = {role: tensors[key] for role, key in keys.items() if role in lycoris.ROLES}
    first = next(iter(parts))
    kind = lycoris.ROLES[first]
    if kind == "OFT":
        scale = lora_scale.scale_of(keys[first], keys, tensors, 1, {}) if "alpha" in keys else 0.0
    else:
        rank = lycoris.rank({role: tuple(tensor.shape) for role, tensor in parts.items()})
        scale = lora_scale.scale_of(keys[first], keys, tensors, rank, settings)
    return lycoris.Adapter(
        kind=kind,
        tensors=parts,
        scale=scale,
        terms=lora_scale.terms_of(settings) if "oft_R" in parts else None,
        magnitude=tensors[keys["magnitude"]] if "magnitude" in keys else None,
        per_input=_per_input(keys, tensors, shape),
    )


def _per_input(keys: Keys, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> bool:
    key = keys.get("magnitude")
    return key is not None and _magnitude_axis(key, tuple(tensors[key].shape), shape) == 1


def _text_width(header: Header, layers: Mapping[tuple[str, str], Keys]) -> int | None:
    """Inputs of a layer that reads the text."""
    for (_, layer), keys in layers.items():
        if layer.endswith(("attn2_to_k", "attn2_to_v")):
            shapes = {role: header.tensors[key].shape for role, key in keys.items()}
            down = shapes.get("down", ())
            return lycoris.inputs(shapes) if not down else (down[1] if len(down) > 1 else None)
    return None


def _own_text_width(networks: Mapping[str, Network]) -> int | None:
    shapes = networks["unet"].shapes if "unet" in networks else {}
    return next((shape[1] for name, shape in shapes.items() if name.endswith("cross.key.weight")), None)


def _families(theirs: int | None, ours: int | None) -> str:
    """Half a sentence on whose text the two read, where these differ."""
    if theirs is None or ours is None or theirs == ours:
        return ""
    a, b = (TEXT_WIDTHS.get(width, "a model of another kind") for width in (theirs, ours))
    return f": it was made for {a}, whose text is {theirs} wide, and this model is {b}, with text {ours} wide"


def _hash(path: Path, store: Store) -> str:
    with path.open("rb") as file:
        if store.tensors is not None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        start = int.from_bytes(file.read(8), "little")
        file.seek(start, 1)
        return hashlib.file_digest(file, "sha256").hexdigest()
