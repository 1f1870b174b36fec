"""Shapes of activations, measured on networks without numbers."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor, nn

from diffuscope.config import SDXL_SIZES, TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.pipeline.plan import Plan
from diffuscope.pipeline.taps import CatchAllTap
from diffuscope.types import Tap
from diffuscope.weights.store.assign import blank, load_into

Config = TextEncoderConfig | UNetConfig | VAEConfig


def shapes(
    components: Sequence[nn.Module], plan: Plan | None, parts: Collection[str] | None = None
) -> Mapping[str, torch.Size]:
    """Name -> shape of every activation that a run of ``plan`` makes; nothing is computed.

    A copy of each network runs once on a batch of 0 images. Torch's meta device has shapes too, but imports torch's
    compiler first, for a second or two.

    Args:
        components: networks of a pipeline.
        plan: the call; None is one image of 8x8 latents.
        parts: names of some components ("unet", "vae" ...); None is all of them.
    """
    sizes: dict[str, torch.Size] = {}
    vae = next((part for part in components if isinstance(part, VAE)), None)
    factor = 8 if vae is None else vae.config.factor
    images = 1 if plan is None else plan.images
    height, width = (8 * factor, 8 * factor) if plan is None else (plan.preset.height, plan.preset.width)
    texts = 1 if plan is None else len({*plan.prompts, *(plan.negative_prompts if plan.guided else ())})
    for part in components:
        if not isinstance(part, TextEncoder | UNet | VAE) or (parts is not None and str(part.component) not in parts):
            continue
        rows, size = (texts if isinstance(part, TextEncoder) else images), (height, width)
        if isinstance(part, UNet):
            rows = images * (1 if plan is None else plan.passes)
            size = height // factor, width // factor
        for name, row in _row_shapes(part.config, str(part.component), size).items():
            sizes[name] = torch.Size([rows, *row])
    return sizes


@lru_cache(maxsize=16)
def _row_shapes(config: Config, component: str, size: tuple[int, int]) -> Mapping[str, tuple[int, ...]]:
    """Name -> shape of one row of every activation."""
    rows: dict[str, tuple[int, ...]] = {}

    def measure(name: str, value: Tensor) -> None:
        rows[name] = tuple(value.shape[1:])

    tap = CatchAllTap(measure)
    network = _hollow(config, component)
    with torch.no_grad():
        if isinstance(network, TextEncoder):
            network(torch.zeros(0, network.config.positions, dtype=torch.int64), tap)
        elif isinstance(network, UNet):
            call_with_zeros(network, 0, size, tap)
        else:
            network(torch.zeros(0, network.config.image_channels, *size), tap)
    return MappingProxyType(rows)


def _hollow(config: Config, component: str) -> TextEncoder | UNet | VAE:
    """A network of this config that takes no memory: each parameter is one zero, expanded to its shape."""
    network: TextEncoder | UNet | VAE
    with blank():
        if isinstance(config, TextEncoderConfig):
            network = TextEncoder(config, component=component)
        else:
            network = UNet(config) if isinstance(config, UNetConfig) else VAE(config)
    load_into(network, {name: torch.zeros(()).expand(value.shape) for name, value in network.state_dict().items()})
    return network


def call_with_zeros(unet: UNet, rows: int, size: tuple[int, int], tap: Tap | None = None) -> Tensor:
    """One call on zeros [rows,C,*size] that require a gradient, in the U-Net's dtype on torch's default device."""
    config, dtype = unet.config, unet.conv_in.weight.dtype
    width = config.extra_dim or 0  # how it splits into pooled text and sizes does not matter, only that it is filled
    sizes = min(SDXL_SIZES, width // config.size_dim)
    features = {"pooled": (rows, width - sizes * config.size_dim), "sizes": (rows, sizes), "guidance": (rows,)}
    features["step_size"] = (rows,)
    extra = {name: torch.zeros(features[name]) for name in unet.reads} or None
    x = torch.zeros(rows, config.in_channels, *size, requires_grad=True, dtype=dtype)
    context = torch.zeros(rows, 77, config.context_dim, dtype=dtype)
    return unet(x, torch.zeros(()), context, extra=extra, tap=tap)
