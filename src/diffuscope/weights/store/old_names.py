"""Tensor names of files written before format 2, which the shipped models still have; ADR 19 lists old and new.

A file is recognised by a name that only its kind of network had. Names of other files stay as they are.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

RESIDUAL = {
    "norm_in": "norm1",
    "conv_in": "conv1",
    "time": "time_emb_proj",
    "norm_out": "norm2",
    "conv_out": "conv2",
    "shortcut": "conv_shortcut",
}
BLOCKS = {
    **{rf"(.*)res\.(\d+)\.{old}": rf"\1resnet.\2.{new}" for old, new in RESIDUAL.items()},
    r"(.*)shrink\.(\d+)\.conv": r"\1down.\2.downsample.conv",
    r"(.*)grow\.(\d+)\.conv": r"\1up.\2.upsample.conv",
}
UNET = {
    "stem": "conv_in",
    r"time\.first": "time_embed.linear_1",
    r"time\.second": "time_embed.linear_2",
    "guidance": "guidance_embed",
    r"extra\.first": "add_embed.linear_1",
    r"extra\.second": "add_embed.linear_2",
    "norm": "norm_out",
    "out": "conv_out",
    **BLOCKS,
    r"(.*)enter\.(\d+)\.norm": r"\1attn.\2.norm",
    r"(.*)enter\.(\d+)\.project": r"\1attn.\2.proj_in",
    r"(.*)leave\.(\d+)\.project": r"\1attn.\2.proj_out",
    r"(.*)norm_self": r"\1norm1",
    r"(.*)self\.(\w+)": r"\1self_attn.\2",
    r"(.*)norm_cross": r"\1norm2",
    r"(.*)cross\.(\w+)": r"\1cross_attn.\2",
    r"(.*)norm_feed": r"\1norm3",
    r"(.*)feed\.expand": r"\1ff.fc1",
    r"(.*)feed\.out": r"\1ff.fc2",
}
VAE = {
    "quant": "quant_conv",
    "post_quant": "post_quant_conv",
    r"(\w+)\.stem": r"\1.conv_in",
    r"(\w+)\.norm": r"\1.norm_out",
    r"(\w+)\.out": r"\1.conv_out",
    **BLOCKS,
    r"(.*)self\.(\w+)": r"\1self_attn.\2",
}
TEXT_ENCODER = {
    "token": "token_embedding",
    "position": "position_embedding",
    r"(.*)norm_self": r"\1norm1",
    r"(.*)self\.(\w+)": r"\1self_attn.\2",
    r"(.*)norm_feed": r"\1norm2",
    r"(.*)feed\.expand": r"\1mlp.fc1",
    r"(.*)feed\.out": r"\1mlp.fc2",
    "norm": "final_norm",
    "projection": "text_projection",
}
CLASSIFIER = {
    "stem": "conv_in",
    **{rf"(down\.\d+\.\d+)\.{old}": rf"\1.{new}" for old, new in RESIDUAL.items()},
    r"shrink\.(\d+)\.conv": r"downsample.\1.conv",
    "norm": "norm_out",
    "out": "fc",
}
CLIP = {"picture": "image_projection"}
TABLES = {
    "mid.res.0.conv_in.weight": UNET,
    "decoder.mid.res.0.conv_in.weight": VAE,
    "layer.0.norm_self.weight": TEXT_ENCODER,
    "down.0.0.conv_in.weight": CLASSIFIER,
    "picture.weight": CLIP,
}
"""A name that only such a file has -> patterns of modules' old names, and the new names."""

ENTER = re.compile(r"(.+)\.enter\.\d+\.norm\.weight")
BLOCK = re.compile(r"(.+)\.block\.\d+\.norm_self\.weight")
STAGE_BLOCK = re.compile(r"^(down\.\d+|mid|up\.\d+)\.block\.(\d+)")


def current_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """The same tensors (or headers of tensors) under today's names; unchanged where two would get the same name."""
    table = next((table for marker, table in TABLES.items() if marker in tensors), None)
    if table is None:
        return dict(tensors)
    enters = Counter(match[1] for name in tensors if (match := ENTER.fullmatch(name)))
    blocks = Counter(match[1] for name in tensors if (match := BLOCK.fullmatch(name)))
    depths = {stage: max(1, count // enters[stage]) for stage, count in blocks.items() if enters[stage]}
    rules = [(re.compile(rf"\A(?:{old})\Z"), new) for old, new in table.items()]
    renamed = {_current(name, rules, depths): tensor for name, tensor in tensors.items()}
    return renamed if len(renamed) == len(tensors) else dict(tensors)


def _current(name: str, rules: Sequence[tuple[re.Pattern[str], str]], depths: Mapping[str, int]) -> str:
    module, dot, leaf = name.rpartition(".")  # of packed files also "weight::scale"
    for old, new in rules:
        module, found = old.subn(new, module)
        if found:
            break
    return f"{STAGE_BLOCK.sub(lambda match: _nested(match, depths), module)}{dot}{leaf}"


def _nested(match: re.Match[str], depths: Mapping[str, int]) -> str:
    """Old files numbered the blocks of a stage through; now each of its transformers counts its own."""
    j, k = divmod(int(match[2]), depths.get(match[1], 1))
    return f"{match[1]}.attn.{j}.block.{k}"
