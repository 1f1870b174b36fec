"""LoRAs written to files, with the names of kohya's scripts or of diffusers.

kohya's dialect has an alpha beside each layer. In that of diffusers the scale is part of the factors, so that every
version of it, and PEFT, reads the same numbers: there alpha is the rank unless metadata say otherwise.
"""

from collections.abc import Iterable, Mapping
from math import sqrt
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diffuscope.config import TextEncoderConfig, UNetConfig
from diffuscope.weights.adapter.lora import Layer
from diffuscope.weights.layout.diffusers import to_diffusers
from diffuscope.weights.layout.ldm import to_ldm
from diffuscope.weights.store import files

Dialect = Literal["kohya", "diffusers"]
Configs = Mapping[str, TextEncoderConfig | UNetConfig]  # part -> config of its network

Pairs = Mapping[Layer, tuple[Tensor, Tensor]]  # (part, our name of the layer) -> up [out,r,...] and down [r,in,...]


def write(
    path: str | Path, pairs: Pairs, scale: float, configs: Configs, dialect: Dialect, metadata: Mapping[str, str]
) -> None:
    """Write W' = W + scale * up down for each layer."""
    files.write(path, named(pairs, scale, configs, dialect), metadata)


def named(pairs: Pairs, scale: float, configs: Configs, dialect: Dialect) -> dict[str, Tensor]:
    """The tensors under the dialect's names, float32 on the CPU.

    kohya's scripts name the U-Net of SDXL as the original files do, others as diffusers does.
    """
    tensors: dict[str, Tensor] = {}
    first = "lora_te1" if "text_encoder_2" in configs else "lora_te"
    roots = {"unet": "lora_unet", "text_encoder": first, "text_encoder_2": "lora_te2"}
    for part, config in configs.items():
        layers = [layer for owner, layer in pairs if owner == part]
        original = dialect == "kohya" and isinstance(config, UNetConfig) and config.extra_dim is not None
        names = _names(layers, config, original=original)
        for layer in layers:
            up, down = (factor.detach().float().cpu() for factor in pairs[part, layer])
            if dialect == "kohya":
                stem = f"{roots[part]}_{names[layer].replace('.', '_')}"
                tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
                tensors[f"{stem}.alpha"] = torch.tensor(scale * len(down))
            else:
                root, stem = sqrt(abs(scale)), f"{part}.{names[layer]}"
                tensors[f"{stem}.lora_A.weight"] = root * down
                tensors[f"{stem}.lora_B.weight"] = (root if scale >= 0 else -root) * up
    return tensors


def _names(layers: Iterable[str], config: TextEncoderConfig | UNetConfig, *, original: bool) -> dict[str, str]:
    """Our name of each layer -> that of diffusers, or of the original files."""
    marks = {f"{layer}.weight": torch.tensor(float(i)) for i, layer in enumerate(layers)}
    theirs = to_ldm(marks, config) if original else to_diffusers(marks, config)
    ours = {id(mark): name for name, mark in marks.items()}
    return {ours[id(mark)].removesuffix(".weight"): name.removesuffix(".weight") for name, mark in theirs.items()}
