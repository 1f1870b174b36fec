"""A whole model in one file, in LDM's layout, read and written."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffuscope.config import ModelConfig
from diffuscope.weights.layout import fields, ldm
from diffuscope.weights.layout.diffusers import PartConfig
from diffuscope.weights.store import files
from diffuscope.weights.store.stores import Store

CONFIG_KEY = "diffuscope.config"  # key of the metadata for our config
NO_PART = "none"  # of the tensors that belong to no network

IGNORED = {
    r"model_ema\..*": "a moving average of the weights, for further training",
    r"(alphas|betas|sqrt_alphas|sqrt_one_minus_alphas|log_one_minus_alphas|sqrt_recip_alphas|sqrt_recipm1_alphas)"
    r"(_cumprod)?(_prev)?": "tables of the schedule",
    r"posterior_.*|lvlb_weights|logvar|scale_factor|denoiser\.(log_)?sigmas": "tables for training",
    r"v_pred|ztsnr|global_step": "marks of how the network was trained",
    r"cond_stage_model\.logit_scale|conditioner\.embedders\.\d+\.logit_scale": "for CLIP's training",
    r"first_stage_model\.(loss|model_ema)\..*": "for the VAE's training",
    r"embedding_manager\..*": "for textual inversion",
}
"""Pattern of names that belong to no network -> the reason."""


def read_part(
    store: Store,
    part: str,
    config: ModelConfig,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """The tensors of one network, under our names; only these are read."""
    part_config: PartConfig = getattr(config, part)
    layout, _ = ldm.ldm_layout(part_config)
    names = {name: full for name, full in _split(store, config)[part].items() if name not in layout.ignored}
    tensors = store.read(names.values(), dtype=dtype, device=device)
    return ldm.from_ldm({name: tensors[full] for name, full in names.items()}, part_config)


def write(path: str | Path, networks: Mapping[str, Mapping[str, Tensor]], config: ModelConfig, document: str) -> None:
    """Write the tensors of each part as a single file, atomically; ``document`` is the config for our own reader."""
    prefixes = ldm.prefixes(config)
    tensors = {
        prefixes[part] + name: tensor
        for part, part_tensors in networks.items()
        for name, tensor in ldm.to_ldm(part_tensors, getattr(config, part)).items()
    }
    metadata = {
        "format": "pt",
        "modelspec.title": config.name,
        "modelspec.prediction_type": config.schedule.prediction,
        CONFIG_KEY: document,
    }
    files.write(path, tensors, metadata)


def notes(store: Store, config: ModelConfig) -> tuple[str, ...]:
    """A note on the tensors that belong to no network and are not known to be irrelevant, if there are any."""
    return tuple(fields.note(store.path.name, "tensors", sorted(_split(store, config)[NO_PART])))


def _split(store: Store, config: ModelConfig) -> dict[str, dict[str, str]]:
    """Part, or ``NO_PART`` -> name in the part -> name in the file; without what is known to be irrelevant."""
    prefixes = ldm.prefixes(config) | {NO_PART: ""}
    split: dict[str, dict[str, str]] = {part: {} for part in prefixes}
    for name in store.header.tensors:
        if not any(re.fullmatch(pattern, name) for pattern in IGNORED):
            part = next(part for part, prefix in prefixes.items() if name.startswith(prefix))
            split[part][name.removeprefix(prefixes[part])] = name
    return split
