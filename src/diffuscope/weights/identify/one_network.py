"""One network in a file of its own, such as a VAE to put in the place of a model's; its names tell the layout."""

import torch
from torch import Tensor

from diffuscope.config import TextEncoderConfig, UNetConfig
from diffuscope.errors import WeightsError
from diffuscope.weights.identify.families import article, identify, reasons
from diffuscope.weights.layout import ldm
from diffuscope.weights.layout.diffusers import PartConfig, diffusers_layout, from_diffusers
from diffuscope.weights.store.stores import Store

PREFIXES = ("first_stage_model.", "model.diffusion_model.", "cond_stage_model.transformer.", "cond_stage_model.model.")
"""Of files that were cut out of a single file and keep its names."""

TRAINING = ("loss.", "model_ema.")
"""Beginnings of names that are of a VAE's training and of no network."""


def read(
    store: Store, config: PartConfig, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """The tensors of the one network in a file, under our names.

    Args:
        store: the file.
        config: of the network that is wanted; whether the tensors fit it, ``load_into`` says.
        dtype: of the numbers; None leaves them as they are.
        device: where to.

    Raises:
        WeightsError: the file holds something else.
        WeightMismatchError: a tensor is not matched by exactly one rule of the file's layout.
    """
    names = {_bare(name): name for name in store.header.tensors if not name.startswith(TRAINING)}
    header = store.header.tensors
    bare = type(store.header)({name: header[full] for name, full in names.items()}, store.header.metadata)
    found = identify(bare)
    wanted = _kind(config)
    if found.kind != wanted or found.layout is None:
        raise WeightsError(f"{store.path} is {article(found.kind)}, expected {article(wanted)}: {reasons(found)}")
    layout, ignored = found.layout, diffusers_layout(config).ignored
    if layout.startswith("original"):
        ignored = ldm.ldm_layout(config)[0].ignored
    names = {name: full for name, full in names.items() if name not in ignored}
    tensors = store.read(names.values(), dtype=dtype, device=device)
    renamed = {name: tensors[full] for name, full in names.items()}
    if layout == "own":
        return renamed
    return (ldm.from_ldm if layout.startswith("original") else from_diffusers)(renamed, config)


def _bare(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


def _kind(config: PartConfig) -> str:
    if isinstance(config, TextEncoderConfig):
        return "text encoder"
    return "unet" if isinstance(config, UNetConfig) else "vae"
