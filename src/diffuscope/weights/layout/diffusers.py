"""The diffusers folder layout of each network as tables: their module names and ours."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from diffuscope.config import TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.weights.layout.rules import Rename, rename

PartConfig = TextEncoderConfig | UNetConfig | VAEConfig


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one network's tensors are called in a foreign file."""

    rules: tuple[Rename, ...]
    """Written, and read."""
    also_read: tuple[Rename, ...] = ()
    """Older or newer names of the same tensors."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Names that carry nothing, each with the reason."""


def from_diffusers(tensors: Mapping[str, Tensor], config: PartConfig) -> dict[str, Tensor]:
    """The tensors of a diffusers (or transformers) file under our names.

    Raises:
        WeightMismatchError: a tensor is not matched by exactly one rule, or two mean the same.
    """
    layout = diffusers_layout(config)
    return rename(tensors, (*layout.rules, *layout.also_read), layout.ignored)


def to_diffusers(tensors: Mapping[str, Tensor], config: PartConfig) -> dict[str, Tensor]:
    """Our tensors under the names that diffusers (or transformers) reads.

    Raises:
        WeightMismatchError: a tensor is not matched by exactly one rule.
    """
    return rename(tensors, [rule.inverse() for rule in diffusers_layout(config).rules])


def diffusers_layout(config: PartConfig) -> Layout:
    """The table for the network that ``config`` describes."""
    if isinstance(config, TextEncoderConfig):
        return _text_encoder(config)
    if isinstance(config, UNetConfig):
        return Layout(rules=tuple(_unet(config)))
    return _vae(config)


RESIDUAL = {
    "norm1": "norm_in",
    "conv1": "conv_in",
    "time_emb_proj": "time",
    "norm2": "norm_out",
    "conv2": "conv_out",
    "conv_shortcut": "shortcut",
}
ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "out"}
OLD_ATTENTION = {"query": "query", "key": "key", "value": "value", "proj_attn": "out"}
TRANSFORMER = {
    "norm1": "norm_self",
    **{f"attn1.{theirs}": f"self.{ours}" for theirs, ours in ATTENTION.items()},
    "norm2": "norm_cross",
    **{f"attn2.{theirs}": f"cross.{ours}" for theirs, ours in ATTENTION.items()},
    "norm3": "norm_feed",
    "ff.net.0.proj": "feed.expand",
    "ff.net.2": "feed.out",
}
TEXT = {
    "embeddings.token_embedding": "token",
    "embeddings.position_embedding": "position",
    "encoder.layers.{i}.layer_norm1": "layer.{i}.norm_self",
    "encoder.layers.{i}.self_attn.q_proj": "layer.{i}.self.query",
    "encoder.layers.{i}.self_attn.k_proj": "layer.{i}.self.key",
    "encoder.layers.{i}.self_attn.v_proj": "layer.{i}.self.value",
    "encoder.layers.{i}.self_attn.out_proj": "layer.{i}.self.out",
    "encoder.layers.{i}.layer_norm2": "layer.{i}.norm_feed",
    "encoder.layers.{i}.mlp.fc1": "layer.{i}.feed.expand",
    "encoder.layers.{i}.mlp.fc2": "layer.{i}.feed.out",
    "final_layer_norm": "norm",
}


def _under(theirs: str, ours: str, table: Mapping[str, str]) -> Iterator[Rename]:
    return (Rename(theirs + their_leaf, ours + our_leaf) for their_leaf, our_leaf in table.items())


def _text_encoder(config: TextEncoderConfig) -> Layout:
    projection = () if config.projection is None else (Rename("text_projection", "projection"),)
    reason = "the numbers 0, 1, 2 ... that older transformers kept in the file"
    return Layout(
        rules=(*_under("text_model.", "", TEXT), *projection),
        also_read=tuple(_under("", "", TEXT)),  # transformers 5 writes no prefix where there is no projection
        ignored={"text_model.embeddings.position_ids": reason, "embeddings.position_ids": reason},
    )


def _unet(config: UNetConfig) -> Iterator[Rename]:
    levels = len(config.channels)
    yield Rename("conv_in", "stem")
    yield from _under("time_embedding.linear_", "time.", {"1": "first", "2": "second"})
    if config.guidance_dim is not None:
        yield Rename("time_embedding.cond_proj", "guidance")
    if config.extra_dim is not None:
        yield from _under("add_embedding.linear_", "extra.", {"1": "first", "2": "second"})
    for i, depth in enumerate(config.depth):
        yield from _stage(f"down_blocks.{i}.", f"down.{i}.", config.blocks, depth)
    yield from _stage("mid_block.", "mid.", 1, config.mid_depth)
    for i, depth in enumerate(config.depth[::-1]):
        yield from _stage(f"up_blocks.{i}.", f"up.{i}.", config.blocks + 1, depth)
    for i in range(levels - 1):
        yield Rename(f"down_blocks.{i}.downsamplers.0.conv", f"shrink.{i}.conv")
        yield Rename(f"up_blocks.{i}.upsamplers.0.conv", f"grow.{i}.conv")
    yield from (Rename("conv_norm_out", "norm"), Rename("conv_out", "out"))


def _stage(theirs: str, ours: str, attended: int, depth: int) -> Iterator[Rename]:
    yield from _under(f"{theirs}resnets.{{j}}.", f"{ours}res.{{j}}.", RESIDUAL)
    for j in range(attended if depth else 0):
        yield Rename(f"{theirs}attentions.{j}.norm", f"{ours}enter.{j}.norm")
        yield Rename(f"{theirs}attentions.{j}.proj_in", f"{ours}enter.{j}.project")
        for k in range(depth):
            block = f"{theirs}attentions.{j}.transformer_blocks.{k}."
            yield from _under(block, f"{ours}block.{j * depth + k}.", TRANSFORMER)
        yield Rename(f"{theirs}attentions.{j}.proj_out", f"{ours}leave.{j}.project")


def _vae(config: VAEConfig) -> Layout:
    rules = [Rename("quant_conv", "quant"), Rename("post_quant_conv", "post_quant")]
    old: list[Rename] = []
    for half in ("encoder", "decoder"):
        mid = f"{half}.mid_block."
        rules += [
            Rename(f"{half}.conv_in", f"{half}.stem"),
            *_under(f"{mid}resnets.{{j}}.", f"{half}.mid.res.{{j}}.", RESIDUAL),
            Rename(f"{mid}attentions.0.group_norm", f"{half}.mid.norm"),
            *_under(f"{mid}attentions.0.", f"{half}.mid.self.", ATTENTION),
            Rename(f"{half}.conv_norm_out", f"{half}.norm"),
            Rename(f"{half}.conv_out", f"{half}.out"),
        ]
        old += _under(f"{mid}attentions.0.", f"{half}.mid.self.", OLD_ATTENTION)
    rules += _under("encoder.down_blocks.{i}.resnets.{j}.", "encoder.down.{i}.res.{j}.", RESIDUAL)
    rules += _under("decoder.up_blocks.{i}.resnets.{j}.", "decoder.up.{i}.res.{j}.", RESIDUAL)
    for i in range(len(config.channels) - 1):
        rules.append(Rename(f"encoder.down_blocks.{i}.downsamplers.0.conv", f"encoder.shrink.{i}.conv"))
        rules.append(Rename(f"decoder.up_blocks.{i}.upsamplers.0.conv", f"decoder.grow.{i}.conv"))
    return Layout(rules=tuple(rules), also_read=tuple(old))
