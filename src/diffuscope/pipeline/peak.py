"""How much memory a network's call takes at its peak, found by running it on tensors that have no memory."""

import weakref
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from diffuscope.config import ModelConfig, UNetConfig, VAEConfig
from diffuscope.models.unet import UNet
from diffuscope.models.upscaler import Upscaler
from diffuscope.models.vae import VAE
from diffuscope.perf.unet import FastUNet
from diffuscope.perf.vae import FastVAE
from diffuscope.weights.store.assign import blank

TOKENS = 77
"""Of a text."""


def call(
    config: ModelConfig,
    width: int,
    height: int,
    dtype: torch.dtype,
    *,
    rows: int,
    images: int,
    upscale: int,
    fast: bool,
) -> int:
    """Bytes of a call's tensors at their peak, without the weights.

    Args:
        config: of the model.
        width: of the images, in pixels.
        height: likewise.
        dtype: of the networks.
        rows: of the U-Net's batch.
        images: that are decoded, and upscaled, at once.
        upscale: factor.
        fast: whether the networks' fast twins run.
    """
    factor = config.vae.factor
    cells = height // factor, width // factor
    found = [
        sampling(config.unet, cells, dtype, rows, fast=fast),
        decoding(config.vae, cells, dtype, images, fast=fast),
    ]
    return max(found + ([upscaling((height, width))] if upscale > 1 else []))


@lru_cache(maxsize=64)
def sampling(config: UNetConfig, cells: tuple[int, int], dtype: torch.dtype, rows: int, *, fast: bool) -> int:
    """Bytes of the U-Net's tensors in a call for latents of ``cells``, height and width."""
    with blank():
        unet = UNet(config).to(dtype)
        x, context = torch.empty(rows, config.in_channels, *cells), torch.empty(rows, TOKENS, config.context_dim)
        extra: dict[str, Tensor] = {name: torch.empty(rows) for name in unet.reads}
        if config.extra_dim is not None:
            extra["sizes"] = torch.empty(rows, 5)
            extra["pooled"] = torch.empty(rows, config.extra_dim - 5 * config.size_dim)
    x, context = x.to(dtype), context.to(dtype)
    if fast:
        twin = FastUNet(unet)
        prompt = twin.read(context, extra or None)
        timed = twin.timed(prompt, torch.empty(1, device="meta"))[0]
        return traced(lambda: twin(x, timed, prompt), unet, twin.time.weight)
    return traced(lambda: unet(x, torch.empty((), device="meta"), context, extra=extra or None), unet)


@lru_cache(maxsize=64)
def decoding(config: VAEConfig, cells: tuple[int, int], dtype: torch.dtype, images: int, *, fast: bool) -> int:
    """Bytes of the decoder's tensors in a call for latents of ``cells``, height and width."""
    with blank():
        vae = VAE(config).to(dtype)
        latents = torch.empty(images, config.latent_channels, *cells)
    latents = latents.to(dtype)
    twin = FastVAE(vae)
    return traced((lambda: twin.decode(latents)) if fast else (lambda: vae.decode(latents)), vae)


@lru_cache(maxsize=64)
def upscaling(size: tuple[int, int]) -> int:
    """Bytes of the upscaler's tensors in a call for one image of ``size``, height and width."""
    with blank():
        upscaler, pixels = Upscaler(), torch.empty(1, 3, *size)
    return traced(lambda: upscaler(pixels), upscaler)


@torch.no_grad()
def traced(run: Callable[[], object], network: nn.Module, *others: Tensor) -> int:
    """Bytes that the tensors of ``run`` take at their peak; those of the network and ``others`` do not count."""
    live = _Live([*network.parameters(), *network.buffers(), *others])
    with _FusedAttention(), live:
        run()
    return live.peak


class _FusedAttention(TorchFunctionMode):
    """Attention takes its result alone, as the fused kernels do."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **({} if kwargs is None else kwargs))
        q, _, v = args[:3]
        return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3]).transpose(1, 2)


class _Live(TorchDispatchMode):
    """Counts the bytes of all storages that are made within and not yet freed."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {each.untyped_storage()._cdata for each in known}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **({} if kwargs is None else kwargs))
        for each in tree_iter(found):
            if isinstance(each, Tensor) and (key := each.untyped_storage()._cdata) not in self._known:
                storage = each.untyped_storage()
                self._known.add(key)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, key, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return found

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
