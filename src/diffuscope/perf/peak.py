"""How much memory a call takes at its peak, found by running its networks on tensors that have no memory."""

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

from diffuscope.config import TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.loading import Components
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.upscaler import Upscaler
from diffuscope.models.vae import VAE
from diffuscope.perf.unet import FastUNet
from diffuscope.perf.vae import FastVAE
from diffuscope.weights.store.assign import blank

TOKENS = 77
"""Of a text."""


def call(
    components: Components, width: int, height: int, *, rows: int, images: int, upscale: int, fast: bool, offload: bool
) -> int:
    """Bytes of a call at its peak: its tensors and the weights.

    Args:
        components: of the model.
        width: of the images, in pixels.
        height: likewise.
        rows: of the U-Net's batch.
        images: that are decoded, and upscaled, at once.
        upscale: factor.
        fast: whether the networks' fast twins run.
        offload: whether the networks that do not run wait in the host's memory.
    """
    config, dtype = components.config, components.unet.conv_in.weight.dtype
    cells = height // config.vae.factor, width // config.vae.factor
    encoders = [encoder for _, encoder in components.towers]
    finishing = decoding(config.vae, cells, dtype, images, fast=fast)
    finishing = max(finishing, upscaling((height, width)) if upscale > 1 else 0)
    phases = [
        (sum(map(weights, encoders)), max(encoding(each.config, dtype, rows) for each in encoders)),
        (weights(components.unet), sampling(config.unet, cells, dtype, rows, fast=fast)),
        (weights(components.vae), finishing),
    ]
    if offload:
        return max(map(sum, phases))
    return sum(own for own, _ in phases) + max(tensors for _, tensors in phases)


def weights(network: nn.Module) -> int:
    """Bytes of a network's weights."""
    return sum(each.nbytes for each in (*network.parameters(), *network.buffers()))


@lru_cache(maxsize=16)
def encoding(config: TextEncoderConfig, dtype: torch.dtype, rows: int) -> int:
    """Bytes of a text encoder's tensors in a call for ``rows`` texts."""
    with blank():
        encoder = TextEncoder(config).to(dtype)
        ids = torch.empty(rows, TOKENS, dtype=torch.long)
    return traced(lambda: encoder(ids), encoder)


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
    with _FusedAttention():
        return counted(run, [*network.parameters(), *network.buffers(), *others])


def counted(run: Callable[[], object], known: list[Tensor]) -> int:
    """Bytes that the tensors which ``run`` makes take at their peak, beside those that are ``known``."""
    live = _Live(known)
    with live:
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
