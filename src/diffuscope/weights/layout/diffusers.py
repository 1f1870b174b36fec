"""diffusers' layout of each network as tables: their module names and ours."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from diffuscope.config import TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.weights.layout.rules import Rename, rename, under

PartConfig = TextEncoderConfig | UNetConfig | VAEConfig


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The names of a network's tensors in another program's files."""

    rules: tuple[Rename, ...]
    also_read: tuple[Rename, ...] = ()  # older or newer names of the same tensors, which are not written
    ignored: Mapping[str, str] = field(default_factory=dict)  # names without content -> the reason


def from_diffusers(tensors: Mapping[str, Tensor], config: PartConfig) -> dict[str, Tensor]:
    """The tensors of a diffusers (or transformers) file under our names."""
    layout = diffusers_layout(config)
    return rename(tensors, (*layout.rules, *layout.also_read), layout.ignored)


def to_diffusers(tensors: Mapping[str, Tensor], config: PartConfig) -> dict[str, Tensor]:
    """Our tensors under the names of diffusers (or transformers)."""
    return rename(tensors, [rule.inverse() for rule in diffusers_layout(config).rules])


def diffusers_layout(config: PartConfig) -> Layout:
    """The table for a network of this config."""
    if isinstance(config, TextEncoderConfig):
        return _text_encoder(config)
    if isinstance(config, UNetConfig):
        return Layout(rules=tuple(under("", "", UNET)))
    return _vae()


ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "out"}
OLD_ATTENTION = {"query": "query", "key": "key", "value": "value", "proj_attn": "out"}
TRANSFORMER_BLOCK = {
    "norm{n}": "norm{n}",
    **{f"attn1.{theirs}": f"self_attn.{ours}" for theirs, ours in ATTENTION.items()},
    **{f"attn2.{theirs}": f"cross_attn.{ours}" for theirs, ours in ATTENTION.items()},
    "ff.net.0.proj": "ff.fc1",
    "ff.net.2": "ff.fc2",
}
TRANSFORMER = {
    "norm": "norm",
    "proj_in": "proj_in",
    **{f"transformer_blocks.{{k}}.{theirs}": f"block.{{k}}.{ours}" for theirs, ours in TRANSFORMER_BLOCK.items()},
    "proj_out": "proj_out",
}
STAGES = {"down_blocks.{i}.": "down.{i}.", "mid_block.": "mid.", "up_blocks.{i}.": "up.{i}."}
SHARED = {
    "conv_in": "conv_in",
    **{f"{theirs}resnets.{{j}}.{{layer}}": f"{ours}resnet.{{j}}.{{layer}}" for theirs, ours in STAGES.items()},
    "down_blocks.{i}.downsamplers.0.conv": "down.{i}.downsample.conv",
    "up_blocks.{i}.upsamplers.0.conv": "up.{i}.upsample.conv",
    "conv_norm_out": "norm_out",
    "conv_out": "conv_out",
}
"""What the U-Net and each half of the autoencoder have in common."""

UNET = {
    **SHARED,
    "time_embedding.linear_{n}": "time_embed.linear_{n}",
    "time_embedding.cond_proj": "guidance_embed",
    "add_embedding.linear_{n}": "add_embed.linear_{n}",
    **{
        f"{their_stage}attentions.{{j}}.{theirs}": f"{our_stage}attn.{{j}}.{ours}"
        for their_stage, our_stage in STAGES.items()
        for theirs, ours in TRANSFORMER.items()
    },
}
VAE_HALF = {
    **SHARED,
    "mid_block.attentions.0.group_norm": "mid.norm",
    **{f"mid_block.attentions.0.{theirs}": f"mid.self_attn.{ours}" for theirs, ours in ATTENTION.items()},
}
OLD_VAE_HALF = {f"mid_block.attentions.0.{theirs}": f"mid.self_attn.{ours}" for theirs, ours in OLD_ATTENTION.items()}
TEXT = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding": "position_embedding",
    "encoder.layers.{i}.layer_norm{n}": "layer.{i}.norm{n}",
    "encoder.layers.{i}.self_attn.q_proj": "layer.{i}.self_attn.query",
    "encoder.layers.{i}.self_attn.k_proj": "layer.{i}.self_attn.key",
    "encoder.layers.{i}.self_attn.v_proj": "layer.{i}.self_attn.value",
    "encoder.layers.{i}.self_attn.out_proj": "layer.{i}.self_attn.out",
    "encoder.layers.{i}.mlp.fc{n}": "layer.{i}.mlp.fc{n}",
    "final_layer_norm": "final_norm",
}


def _vae() -> Layout:
    halves = ("encoder.", "decoder.")
    quant = (Rename(name, name) for name in ("quant_conv", "post_quant_conv"))
    return Layout(
        rules=(*quant, *(rule for half in halves for rule in under(half, half, VAE_HALF))),
        also_read=tuple(rule for half in halves for rule in under(half, half, OLD_VAE_HALF)),
    )


def _text_encoder(config: TextEncoderConfig) -> Layout:
    projection = () if config.projection is None else (Rename("text_projection", "text_projection"),)
    reason = "the indices 0, 1, 2 ..., which older versions of transformers saved"
    return Layout(
        rules=(*under("text_model.", "", TEXT), *projection),
        also_read=tuple(under("", "", TEXT)),  # transformers 5 writes no prefix without a projection
        ignored={"text_model.embeddings.position_ids": reason, "embeddings.position_ids": reason},
    )
