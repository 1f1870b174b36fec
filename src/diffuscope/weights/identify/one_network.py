"""One network in a file, such as another VAE; the names show its layout."""

import re

import torch
from torch import Tensor

from diffuscope.config import TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.errors import WeightsError
from diffuscope.weights.identify.families import article, identify, reasons
from diffuscope.weights.layout.diffusers import PartConfig, diffusers_layout, from_diffusers
from diffuscope.weights.layout.ldm import from_ldm, ldm_layout
from diffuscope.weights.store.headers import Header
from diffuscope.weights.store.stores import Store

PREFIX = re.compile(r"^(first_stage_model|model\.diffusion_model|cond_stage_model\.(transformer|model))\.")
"""In files that were cut out of a single file."""

TRAINING = ("loss.", "model_ema.")  # prefixes of tensors from a VAE's training, which belong to no network
KINDS: dict[type[PartConfig], str] = {TextEncoderConfig: "text encoder", UNetConfig: "unet", VAEConfig: "vae"}


def read(
    store: Store, config: PartConfig, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """The tensors of the only network in a file, under our names; ``load_into`` compares them with the config."""
    infos = store.header.tensors
    names = {PREFIX.sub("", name): name for name in infos if not name.startswith(TRAINING)}
    identity = identify(Header({name: infos[full] for name, full in names.items()}, store.header.metadata))
    expected, whole = KINDS[type(config)], identify(store.header)
    identity = whole if whole.kind == "model" else identity
    if identity.kind != expected or identity.layout is None:
        kinds = f"{article(identity.kind)}, expected {article(expected)}"
        raise WeightsError(f"{store.path} is {kinds}: {reasons(identity)}")
    is_ldm = identity.layout.startswith("ldm")
    ignored = ldm_layout(config)[0].ignored if is_ldm else diffusers_layout(config).ignored
    names = {name: full for name, full in names.items() if name not in ignored}
    tensors = store.read(names.values(), dtype=dtype, device=device)
    renamed = {name: tensors[full] for name, full in names.items()}
    if identity.layout == "own":
        return renamed
    return (from_ldm if is_ldm else from_diffusers)(renamed, config)
