"""Names of tensors in LoRA files: each layout's key as a layer and a role in that layer.

The layouts differ in their prefix (the network), their suffix (the role) and in how they write the layer's path. With
every dot of the path as an underscore, as in kohya's, one table per network serves them all. It holds the layer's name
in each known layout, so it is as exact as the layouts are.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from diffuscope.weights.adapter.deltas import ROLES, inputs
from diffuscope.weights.store.headers import TensorInfo

BASE_MODELS = {768: "SD 1", 1024: "SD 2", 2048: "SDXL", 1280: "SDXL's refiner"}  # by the width of their text states

Role = str  # of a tensor in its layer: "alpha", "magnitude", one of ``ROLES`` or of ``LEAVES``

LEAVES: dict[Role, tuple[str, Role]] = {
    "bias_diff": ("bias", "diff"),
    "bias_up": ("bias", "diff"),  # scaled like the LoRA
    "trained": ("weight", "set"),
    "trained_bias": ("bias", "set"),
}
"""Role of a tensor that changes something else than a LoRA does -> the parameter of the layer, and its role there."""

_SUFFIXES: dict[str, tuple[Role, str]] = {
    **{f".{role}": (role, kind) for role, kind in ROLES.items() if kind not in ("LoRA", "GLoRA", "full")},
    **{f".{role}.weight": (role, kind) for role, kind in ROLES.items() if kind == "GLoRA"},
    ".oft_R.weight": ("oft_R", "OFT"),
    ".diff": ("diff", "full"),
    ".diff_b": ("bias_diff", "full"),
    ".set_weight": ("set", "ComfyUI"),
    ".w_norm": ("diff", "norm"),
    ".b_norm": ("bias_diff", "norm"),
    ".lora_down.weight": ("down", "kohya"),
    ".lora_up.weight": ("up", "kohya"),
    ".lora_mid.weight": ("mid", "kohya"),
    ".dora_scale": ("magnitude", "kohya"),
    ".alpha": ("alpha", "kohya"),
    ".lora_A.weight": ("down", "PEFT"),
    ".lora_B.weight": ("up", "PEFT"),
    ".lora_B.bias": ("bias_up", "PEFT"),
    **{f".lora_{letter}": (role, "AdaLoRA") for letter, role in (("A", "down"), ("B", "up"), ("E", "singular"))},
    ".weight": ("trained", "PEFT"),  # of PEFT's modules_to_save, under the model's own name
    ".bias": ("trained_bias", "PEFT"),
    ".lora_magnitude_vector": ("magnitude", "PEFT"),
    ".lora_magnitude_vector.weight": ("magnitude", "PEFT"),
    ".lora.down.weight": ("down", "diffusers"),
    ".lora.up.weight": ("up", "diffusers"),
    ".lora_linear_layer.down.weight": ("down", "diffusers"),
    ".lora_linear_layer.up.weight": ("up", "diffusers"),
    "_lora.down.weight": ("down", "diffusers"),
    "_lora.up.weight": ("up", "diffusers"),
}

_SUFFIX = re.compile(rf"(?:{'|'.join(map(re.escape, _SUFFIXES))})\Z")  # the search finds the longest first

_PREFIXES: dict[str, tuple[str, str]] = {
    "lora_unet_": ("unet", "kohya"),
    "lora_te_": ("text_encoder", "kohya"),
    "lora_te1_": ("text_encoder", "kohya"),
    "lora_te2_": ("text_encoder_2", "kohya"),
    "oft_unet_": ("unet", "kohya"),
    "unet.": ("unet", "diffusers"),
    "text_encoder.": ("text_encoder", "diffusers"),
    "text_encoder_2.": ("text_encoder_2", "diffusers"),
    "diffusion_model.": ("unet", "ComfyUI"),
    "clip_l.": ("text_encoder", "OneTrainer"),
    "clip_g.": ("text_encoder_2", "OneTrainer"),
    "text_encoders.clip_l.": ("text_encoder", "ComfyUI"),
    "text_encoders.clip_h.": ("text_encoder", "ComfyUI"),
    "text_encoders.clip_g.": ("text_encoder_2", "ComfyUI"),
}

_WRAPPERS = ("base_model.model.", "model.diffusion_model.", "transformer.", "text_model.", "text_model_")
_OTHER_ADAPTERS = {
    "boft_": "BOFT",
    "ia3_l": "IA3",
    "on_input": "IA3",
    "glora": "GLoRA",
    "lambda_layer": "T-LoRA",
    "vera_lambda": "VeRA",
    "lora_embedding_": "LoRA of embeddings",
    "hypernet": "hypernetwork",
}
_ADAPTER_NAME = re.compile(r"\.(lora_[ABE]|lora_magnitude_vector)\.(?!(?:weight|bias)$)[^.]+(?=\.(?:weight|bias)$|$)")
_INNER = re.compile(r"\.(?:base_layer|modules_to_save(?:\.[^.]+)?)$")  # PEFT's wrappers of a layer
_OLD_PROCESSOR = re.compile(r"\.processor\.(?=to_(?:q|k|v|out)_lora\.)")
_OLD_TEXT = {f"to_{letter}": f"{letter}_proj" for letter in ("q", "k", "v", "out")}


@dataclass(frozen=True, slots=True)
class Key:
    """A name in a LoRA file, taken apart."""

    part: str | None  # the network, or None where the name has no prefix for it
    layer: str  # the path in the file, every dot an underscore
    role: Role
    layout: str


def parse(name: str) -> Key | None:
    """The name of a tensor taken apart, or None if it has no role in a LoRA."""
    name = _OLD_PROCESSOR.sub(".", _ADAPTER_NAME.sub(r".\1", name))
    found = _SUFFIX.search(name)
    if found is None:
        return None
    suffix = found[0]
    role, layout = _SUFFIXES[suffix]
    path = unwrapped(_INNER.sub("", name.removesuffix(suffix)))
    part = None
    for prefix, (network, whose) in _PREFIXES.items():
        if path.startswith(prefix):
            part, path = network, unwrapped(path.removeprefix(prefix))
            layout = whose if whose == "ComfyUI" else layout
            break
    if suffix.startswith("_lora."):  # so old that the output's only linear layer has no number yet
        above, _, last = path.rpartition(".")
        if above.endswith("self_attn"):
            path = f"{above}.{_OLD_TEXT.get(last, last)}"
        elif last == "to_out":
            path = f"{path}.0"
    return Key(part, path.replace(".", "_"), role, layout)


def other_adapter(names: Iterable[str]) -> str | None:
    """The kind of adapter that is not supported, if there is one."""
    return next((kind for name in names for mark, kind in _OTHER_ADAPTERS.items() if f".{mark}" in f".{name}"), None)


def text_dims(tensors: Mapping[str, TensorInfo]) -> list[int]:
    """The inputs of a LoRA's cross-attention keys and values: the width of the base model's text embeddings."""
    layers: dict[tuple[str | None, str], dict[Role, tuple[int, ...]]] = {}
    for name, info in tensors.items():
        key = parse(name)
        if key is not None and key.layer.endswith(("attn2_to_k", "attn2_to_v")):
            layers.setdefault((key.part, key.layer), {})[key.role] = info.shape
    dims = (inputs(shapes) for shapes in layers.values() if ROLES.keys() & shapes.keys())
    return sorted({dim for dim in dims if dim is not None})


def table(names: Mapping[str, str]) -> dict[str, str]:
    """``Key.layer`` -> our name of the weight, from names in other layouts -> ours."""
    weights: dict[str, str] = {}
    for theirs, ours in names.items():
        if theirs.endswith(".weight"):
            layer = unwrapped(theirs.removesuffix(".weight")).replace(".", "_")
            assert weights.setdefault(layer, ours) == ours, f"{layer} would mean {weights[layer]} and {ours}"
    return weights


def unwrapped(path: str) -> str:
    """The path of a layer without what wraps the network."""
    while wrapper := next((wrapper for wrapper in _WRAPPERS if path.startswith(wrapper)), None):
        path = path.removeprefix(wrapper)
    return path
