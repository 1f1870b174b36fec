"""A whole model in one file, in the layout of the original code: what belongs to which part, read and written."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffuscope.config import ModelConfig
from diffuscope.errors import WeightMismatchError
from diffuscope.weights.layout import ldm
from diffuscope.weights.layout.diffusers import PartConfig
from diffuscope.weights.store import files
from diffuscope.weights.store.stores import Store

CONFIG_KEY = "diffuscope.config"
"""Of the metadata: the config, in the files that are written here."""

IGNORED = {
    r"model_ema\..*": "a moving average of the weights, from which training would go on",
    r"(alphas|betas|sqrt_alphas|sqrt_one_minus_alphas|log_one_minus_alphas|sqrt_recip_alphas|sqrt_recipm1_alphas)"
    r"(_cumprod)?(_prev)?": "tables that the schedule makes anew",
    r"posterior_.*|lvlb_weights|logvar|scale_factor|denoiser\.sigmas": "tables of training",
    r"v_pred|ztsnr|global_step": "marks, which say how the network was trained",
    r"cond_stage_model\.logit_scale|conditioner\.embedders\.\d+\.logit_scale": "of CLIP's training",
    r"first_stage_model\.(loss|model_ema)\..*": "of the VAE's training",
    r"embedding_manager\..*": "of the training of words",
}
"""What a single file holds that no network is made of: a pattern of names, and the reason."""


def read_part(
    store: Store,
    part: str,
    config: ModelConfig,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """The tensors of one network of a model, under our names; only these are read.

    Raises:
        WeightMismatchError: a tensor of the file belongs to no part, or to the part but to no layer of it.
    """
    own: PartConfig = getattr(config, part)
    layout, _ = ldm.ldm_layout(own)
    names = {name: full for name, full in _split(store, config)[part].items() if name not in layout.ignored}
    read = store.read(names.values(), dtype=dtype, device=device)
    return ldm.from_ldm({name: read[full] for name, full in names.items()}, own)


def write(path: str | Path, networks: Mapping[str, Mapping[str, Tensor]], config: ModelConfig, document: str) -> None:
    """Write a model as a single file, whole, or leave what is there as it is.

    Args:
        path: the file; its folder exists.
        networks: the tensors of each part under our names. Not modified.
        config: of the model.
        document: the config as JSON, for reading the file here; other programs pass over it.

    Raises:
        OutputError: there is no such folder, no permission or no space.
    """
    prefixes = ldm.prefixes(config)
    tensors = {
        prefixes[part] + name: tensor
        for part, own in networks.items()
        for name, tensor in ldm.to_ldm(own, getattr(config, part)).items()
    }
    metadata = {
        "format": "pt",
        "modelspec.title": config.name,
        "modelspec.prediction_type": config.schedule.prediction,
        CONFIG_KEY: document,
    }
    files.write(path, tensors, metadata)


def _split(store: Store, config: ModelConfig) -> dict[str, dict[str, str]]:
    """Part -> name in the part -> name in the file."""
    prefixes = ldm.prefixes(config)
    ignored = [re.compile(pattern) for pattern in IGNORED]
    split: dict[str, dict[str, str]] = {part: {} for part in prefixes}
    for name in store.header.tensors:
        if any(pattern.fullmatch(name) for pattern in ignored):
            continue
        part = next((part for part, prefix in prefixes.items() if name.startswith(prefix)), None)
        if part is None:
            raise WeightMismatchError(
                f"tensor {name!r} of {store.path} belongs to no part of {config.name}, whose names begin with "
                f"{', '.join(prefixes.values())}; the file is of another kind of model"
            )
        split[part][name.removeprefix(prefixes[part])] = name
    return split
