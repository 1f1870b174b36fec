"""What LoRA files call their tensors: every dialect's key as a layer of ours and a role in that layer.

The dialects differ in their prefix (which network), in their leaf (which factor) and in how the layer's path is
written. With every dot of the path as an underscore, as kohya writes it, one table per network serves them all; it
holds the layer's name in each layout that is known, so it is as exact as these layouts are.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from diffuscope.weights.adapter.lycoris import ROLES

Role = str
"""Of a factor in its layer: "down", "up", "mid", "alpha", "magnitude", or one of ``lycoris.ROLES``."""

_LEAVES: dict[str, tuple[Role, str]] = {
    **{f".{role}": (role, kind) for role, kind in ROLES.items()},
    ".oft_R.weight": ("oft_R", "OFT"),
    ".lora_down.weight": ("down", "kohya"),
    ".lora_up.weight": ("up", "kohya"),
    ".lora_mid.weight": ("mid", "kohya"),
    ".dora_scale": ("magnitude", "kohya"),
    ".alpha": ("alpha", "kohya"),
    ".lora_A.weight": ("down", "PEFT"),
    ".lora_B.weight": ("up", "PEFT"),
    ".lora_magnitude_vector": ("magnitude", "PEFT"),
    ".lora_magnitude_vector.weight": ("magnitude", "PEFT"),
    ".lora.down.weight": ("down", "diffusers"),
    ".lora.up.weight": ("up", "diffusers"),
    ".lora_linear_layer.down.weight": ("down", "diffusers"),
    ".lora_linear_layer.up.weight": ("up", "diffusers"),
    "_lora.down.weight": ("down", "diffusers"),
    "_lora.up.weight": ("up", "diffusers"),
}

_PREFIXES: dict[str, tuple[str, str]] = {
    "lora_unet_": ("unet", "kohya"),
    "lora_te_": ("text_encoder", "kohya"),
    "lora_te1_": ("text_encoder", "kohya"),
    "lora_te2_": ("text_encoder_2", "kohya"),
    "unet.": ("unet", "diffusers"),
    "text_encoder.": ("text_encoder", "diffusers"),
    "text_encoder_2.": ("text_encoder_2", "diffusers"),
    "diffusion_model.": ("unet", "ComfyUI"),
    "text_encoders.clip_l.": ("text_encoder", "ComfyUI"),
    "text_encoders.clip_h.": ("text_encoder", "ComfyUI"),
    "text_encoders.clip_g.": ("text_encoder_2", "ComfyUI"),
}

_WRAPPERS = ("base_model.model.", "model.diffusion_model.", "transformer.", "text_model.", "text_model_")
_OTHER_ADAPTERS = {"boft": "BOFT", "glora": "GLoRA", "ia3": "IA3"}
_ADAPTER_NAME = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.(?!weight$)[^.]+(?=\.weight$|$)")
_OLD_PROCESSOR = re.compile(r"\.processor\.(?=to_(?:q|k|v|out)_lora\.)")
_OLD_TEXT = {f"to_{letter}": f"{letter}_proj" for letter in ("q", "k", "v", "out")}


@dataclass(frozen=True, slots=True)
class Place:
    """What one key of a LoRA file means, as far as the key itself tells."""

    part: str | None
    """The network, or None where the key does not say it."""
    layer: str
    """The layer's path in the file's own words, every dot an underscore."""
    role: Role
    dialect: str


def place_of(key: str) -> Place | None:
    """What ``key`` means, or None where it is no LoRA's."""
    key = _OLD_PROCESSOR.sub(".", _ADAPTER_NAME.sub(r".\1", key))
    leaf = max((leaf for leaf in _LEAVES if key.endswith(leaf)), key=len, default=None)
    if leaf is None:
        return None
    role, dialect = _LEAVES[leaf]
    path = _unwrapped(key.removesuffix(leaf))
    part = None
    for prefix, (network, whose) in _PREFIXES.items():
        if path.startswith(prefix):
            part, path = network, _unwrapped(path.removeprefix(prefix))
            dialect = whose if whose == "ComfyUI" else dialect
            break
    if leaf.startswith("_lora."):  # so old that the output's one linear layer has no number yet
        path = _old(path)
    return Place(part, path.replace(".", "_"), role, dialect)


def other_adapter(keys: Iterable[str]) -> str | None:
    """The name of a kind of adapter that is no LoRA, where a key betrays one."""
    return next((kind for key in keys for mark, kind in _OTHER_ADAPTERS.items() if f".{mark}" in key), None)


def table(names: Mapping[str, str]) -> dict[str, str]:
    """Layer as ``Place.layer`` has it -> our parameter's name.

    Args:
        names: their parameter's name -> ours, of as many layouts as are known; biases are passed over.
    """
    found: dict[str, str] = {}
    for theirs, ours in names.items():
        if theirs.endswith(".weight"):
            layer = _unwrapped(theirs.removesuffix(".weight")).replace(".", "_")
            assert found.setdefault(layer, ours) == ours, f"{layer} would mean {found[layer]} and {ours}"
    return found


def _unwrapped(path: str) -> str:
    while wrapper := next((wrapper for wrapper in _WRAPPERS if path.startswith(wrapper)), None):
        path = path.removeprefix(wrapper)
    return path


def _old(path: str) -> str:
    above, _, last = path.rpartition(".")
    if above.endswith("self_attn"):
        return f"{above}.{_OLD_TEXT.get(last, last)}"
    return f"{path}.0" if last == "to_out" else path
