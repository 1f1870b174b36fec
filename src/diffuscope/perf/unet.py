"""The U-Net's fast twin: channels-last, fused, with the text's keys and values computed once a prompt.

If all rows of the input come twice, as in classifier-free guidance, the part before the first cross-attention is
computed once for both. Only the order of roundings differs from ``models.unet.UNet``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.models.unet import Stage, UNet
from diffuscope.nn.blocks import ResidualBlock, Transformer, TransformerBlock
from diffuscope.nn.embeddings import sinusoidal_embedding
from diffuscope.perf import ops, tokens
from diffuscope.perf.merging import Merge
from diffuscope.perf.ops import Map
from diffuscope.perf.weights import Joined, lay_channels_last, modules


@dataclass(frozen=True)
class Prompt:
    """What the network reads of a prompt, computed once."""

    rows: int
    """N, the rows of the prediction."""
    text: Tensor | None
    """[N,T,W] keys and values of all cross-attentions, side by side; rows of a guided run are [negative, prompt]."""
    features: tuple[Tensor, ...]
    """[N,channels[0]] each, added to the features of the timestep."""
    added: Tensor | None
    """[N,time_dim] added to the time embedding."""
    merging: float = 0.0
    """Share of the tokens that the finest self-attention merges, an approximation; 0 is exact."""

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in one order."""
        return [each for each in (self.text, *self.features, self.added) if each is not None]

    def of(self, tensors: Sequence[Tensor], rows: int | None = None) -> "Prompt":
        """The same with other ``tensors``, in that order, and perhaps another number of ``rows``."""
        rest = iter(tensors)
        text = None if self.text is None else next(rest)
        features = tuple(islice(rest, len(self.features)))
        added = None if self.added is None else next(rest)
        return Prompt(self.rows if rows is None else rows, text, features, added, self.merging)


class FastUNet:
    """A U-Net's fast twin. It shares the network's weights, which it lays out anew in memory.

    Attributes:
        unet: the network.
    """

    def __init__(self, unet: UNet) -> None:
        """Lay the weights out: channels-last, and those that are used together side by side."""
        self.unet = unet
        self.down, self.up = modules(unet.down, Stage), modules(unet.up, Stage)
        stages = [*self.down, unet.mid, *self.up]
        resnets = [each for stage in stages for each in modules(stage.resnet, ResidualBlock)]
        blocks = [
            block
            for stage in stages
            for each in modules(stage.attn, Transformer)
            for block in modules(each.block, TransformerBlock)
        ]
        self.time = Joined([each.time_emb_proj for each in resnets if each.time_emb_proj is not None])
        attentions = [block.self_attn for block in blocks]
        self.qkv = {each: Joined([each.query, each.key, each.value]) for each in attentions}
        self.kv = {each.cross_attn: Joined([each.cross_attn.key, each.cross_attn.value]) for each in blocks}
        lay_channels_last(unet)
        transformers = [each for stage in stages for each in modules(stage.attn, Transformer)]
        attending = [stage for stage in stages if len(modules(stage.attn, Transformer))]
        finest = (attending[:1], attending[-1:])
        self.finest = {each for some in finest for stage in some for each in modules(stage.attn, Transformer)}
        self.shifts = {part: shifts for each in transformers for part, shifts in _shifts(each).items()}

    @property
    def shares(self) -> bool:
        """Whether rows with the same latents are the same up to the first cross-attention."""
        return bool(self.kv) and self.unet.reads.isdisjoint({"pooled", "guidance", "step_size"})

    def read(self, context: Tensor, extra: Mapping[str, Tensor] | None) -> Prompt:
        """The part of the network that depends on the prompt alone; ``context`` and ``extra`` as in ``UNet``."""
        text = torch.cat([joined(context) for joined in self.kv.values()], dim=-1) if self.kv else None
        features, added = self.unet.conditioning(extra, context.dtype)
        return Prompt(len(context), text, tuple(features), added)

    def texts(self, prompt: Prompt) -> list[tuple[Tensor, ...]]:
        """Keys and values [N,heads,T,H] of each cross-attention, in the order of their use. Views."""
        if prompt.text is None:
            return []
        parts = prompt.text.split([sum(joined.widths) for joined in self.kv.values()], dim=-1)
        return [_split(part, 2, each.heads) for each, part in zip(self.kv, parts, strict=True)]

    def timed(self, prompt: Prompt, times: Tensor) -> Tensor:
        """[S,R,W] what the residual blocks add at the timesteps ``times`` [S], side by side: their widths sum to W.

        R is N where the prompt changes the time embedding, else 1.
        """
        features = sinusoidal_embedding(times, self.unet.config.channels[0]).to(self.unet.conv_in.weight.dtype)[:, None]
        for part in prompt.features:
            features = features + part
        embedding = self.unet.time_embed(features)
        if prompt.added is not None:
            embedding = embedding + prompt.added
        return self.time(F.silu(embedding))

    def __call__(self, x: Tensor, timed: Tensor, prompt: Prompt) -> Tensor:
        """[N,out_channels,H,W] prediction for latents [N,C,H,W], or for [N/2,C,H,W] that all N rows share.

        ``timed`` [R,W] is that of the timestep, or [N,W] of a timestep for each row.
        """
        h = ops.conv(self.unet.conv_in, ops.channels_last(x))
        return self._last(h.x, self._deep(h, timed, prompt), timed, prompt)

    def deep(self, x: Tensor, timed: Tensor, prompt: Prompt) -> Tensor:
        """[N,C,H,W] all but the last residual block: what changes little from step to step (Ma et al. 2024, DeepCache).

        Arguments as of a call.
        """
        return self._deep(ops.conv(self.unet.conv_in, ops.channels_last(x)), timed, prompt)

    def shallow(self, x: Tensor, deep: Tensor, timed: Tensor, prompt: Prompt) -> Tensor:
        """The prediction from ``deep`` features, those of this call or of an earlier one."""
        return self._last(ops.conv(self.unet.conv_in, ops.channels_last(x)).x, deep, timed, prompt)

    def _deep(self, h: Map, timed: Tensor, prompt: Prompt) -> Tensor:
        unet, rows = self.unet, prompt.rows
        times = iter(timed.split(self.time.widths, dim=-1))
        texts = iter(self.texts(prompt))

        def stage(network: Stage, j: int, x: Map) -> Map:
            x = residual(modules(network.resnet, ResidualBlock)[j], x, next(times))
            attn = modules(network.attn, Transformer)
            return self._transformer(attn[j], x, texts, prompt.merging) if j < len(attn) else x

        skips = [h.x]
        for level in self.down:
            for j in range(unet.config.blocks):
                h = stage(level, j, h)
                skips.append(h.x)
            if level.downsample is not None:
                h = ops.conv(level.downsample.conv, h.x)
                skips.append(h.x)
        for j in range(unet.config.mid_resnets):
            h = stage(unet.mid, j, h)
        for level in self.up:
            for j in range(unet.config.blocks + 1 - (level is self.up[-1])):
                h = stage(level, j, ops.join(_spread(h.x, rows), _spread(skips.pop(), rows)))
            if level.upsample is not None:
                height, width = skips[-1].shape[2:]
                h = ops.conv(level.upsample.conv, ops.upsample(h.x, (height, width)))
        return h.x

    def _last(self, first: Tensor, deep: Tensor, timed: Tensor, prompt: Prompt) -> Tensor:
        """The last residual block and what follows, from the ``first`` convolution and the deep features."""
        unet, rows, level = self.unet, prompt.rows, self.up[-1]
        time = timed.split(self.time.widths, dim=-1)[-1]
        h = ops.join(_spread(deep, rows), _spread(first, rows))
        h = residual(modules(level.resnet, ResidualBlock)[-1], h, time)
        if attn := modules(level.attn, Transformer):
            count = len(modules(attn[-1].block, TransformerBlock))
            h = self._transformer(attn[-1], h, iter(self.texts(prompt)[-count:]), prompt.merging)
        return ops.conv(unet.conv_out, ops.group_norm(unet.norm_out, h, silu=True, last=True)).x

    def _transformer(self, network: Transformer, x: Map, texts: Iterator[tuple[Tensor, ...]], merging: float) -> Map:
        height, width = x.x.shape[2:]
        merges = merging > 0 and min(height, width) > 1 and network in self.finest
        merge = partial(Merge, height=height, width=width, share=merging) if merges else None
        h = ops.pointwise(network.proj_in, ops.tokens(ops.group_norm(network.norm, x, silu=False)))
        for block in modules(network.block, TransformerBlock):
            h = self._block(block, h, next(texts), merge)
        h = F.linear(h, network.proj_out.weight.flatten(1), self.shifts[network][0])
        return ops.add(ops.image(h, x.x), _spread(x.x, len(h)), None)

    def _block(
        self, block: TransformerBlock, h: Tensor, text: tuple[Tensor, ...], merge: Callable[[Tensor], Merge] | None
    ) -> Tensor:
        """The block, for ``h`` [N,T,C] and its result without the biases that ``shifts`` has. May write to ``h``.

        With ``merge`` its self-attention is among fewer tokens.
        """
        first, second, third = self.shifts[block]
        normed = tokens.layer_norm(block.norm1, h, first)
        merged = None if merge is None else merge(normed)
        normed = normed if merged is None else merged.merged(normed)
        y = tokens.attention(*_split(self.qkv[block.self_attn](normed), 3, block.self_attn.heads))
        h = _added(h, y if merged is None else merged.restored(y), block.self_attn.out)
        h = _spread(h, len(text[0]))
        normed = tokens.layer_norm(block.norm2, h, second)
        (q,) = _split(F.linear(normed, block.cross_attn.query.weight), 1, block.cross_attn.heads)
        h = _added(h, tokens.attention(q, *text), block.cross_attn.out)
        return _added(h, tokens.geglu(block.ff.fc1, tokens.layer_norm(block.norm3, h, third)), block.ff.fc2)


def _shifts(network: Transformer) -> dict[nn.Module, tuple[Tensor, ...]]:
    """Biases that are left out of the sums of a transformer: before each of a block's norms, and in ``proj_out``.

    Without them a sum is part of the product before it.
    """
    weight = network.proj_out.weight
    found: dict[nn.Module, tuple[Tensor, ...]] = {}
    total = torch.zeros(weight.shape[1], device=weight.device)
    for block in modules(network.block, TransformerBlock):
        shifts = []
        for layer in (block.self_attn.out, block.cross_attn.out, block.ff.fc2):
            shifts.append(total.to(weight.dtype))
            total = total + layer.bias.float()
        found[block] = tuple(shifts)
    assert network.proj_out.bias is not None
    bias = network.proj_out.bias.float() + weight.flatten(1).float() @ total
    return found | {network: (bias.to(weight.dtype),)}


def residual(block: ResidualBlock, x: Map, time: Tensor | None = None) -> Map:
    """The residual block; ``time`` [B,C] or [1,C] is the projected time embedding."""
    layer = block.conv_shortcut
    h = ops.unbiased(block.conv1, ops.group_norm(block.norm1, x, silu=True))
    y = ops.product(
        block.conv2, ops.group_norm(block.norm2, h, silu=True, shift=block.conv1.bias, time=time, last=True)
    )
    del h
    shortcut = x.x if layer is None else ops.image(ops.pointwise(layer, ops.tokens(x.x)), x.x)
    return ops.add(y, shortcut, block.conv2.bias)


def _added(h: Tensor, x: Tensor, layer: nn.Linear) -> Tensor:
    """``h`` plus the layer of ``x`` without its bias, in the memory of ``h``."""
    if ops.tracing():
        return h + F.linear(x, layer.weight)
    h.flatten(0, 1).addmm_(x.flatten(0, 1), layer.weight.T)
    return h


def _split(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """``parts`` times [N,heads,T,H] of [N,T,parts*heads*H]. Views."""
    rows, count, width = x.shape
    return x.reshape(rows, count, parts, heads, width // (parts * heads)).permute(2, 0, 3, 1, 4).unbind()


def _spread(x: Tensor, rows: int) -> Tensor:
    """``x`` [R,...] repeated to ``rows`` rows."""
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))  # repeat would lose the memory format
