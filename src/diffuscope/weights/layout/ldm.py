"""LDM's layout of each network as tables: its module names and ours.

They are the names of the code that trained Stable Diffusion 1, 2 and XL, whose single files ``single_file`` reads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from diffuscope.config import ModelConfig, TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.weights.layout import rules
from diffuscope.weights.layout.diffusers import TRANSFORMER, Layout, PartConfig, diffusers_layout
from diffuscope.weights.layout.rules import Rename, Reshape, under

RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
VAE_RESIDUAL = {**{name: name for name in ("norm1", "conv1", "norm2", "conv2")}, "nin_shortcut": "conv_shortcut"}
VAE_ATTENTION = {"q": "query", "k": "key", "v": "value", "proj_out": "out"}
OPEN_CLIP = {
    "ln_1": "norm1",
    "attn.out_proj": "self_attn.out",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
FUSED = ("attn.in_proj_weight", "attn.in_proj_bias")


def prefixes(config: ModelConfig) -> dict[str, str]:
    """Part -> the prefix of its names in a single file."""
    towers = [is_open_clip(encoder) for encoder in config.text_encoders]
    conditioner = config.unet.extra_dim is not None or len(towers) > 1
    roots = [f"conditioner.embedders.{i}." if conditioner else "cond_stage_model." for i in range(len(towers))]
    text = [root + ("model." if tower else "transformer.") for root, tower in zip(roots, towers, strict=True)]
    return {
        **dict(zip(("text_encoder", "text_encoder_2"), text, strict=False)),
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
    }


def is_open_clip(config: TextEncoderConfig) -> bool:
    """Whether OpenCLIP trained the text encoder; only those have the exact GELU."""
    return config.activation == "gelu"


def from_ldm(tensors: Mapping[str, Tensor], config: PartConfig) -> dict[str, Tensor]:
    """One network's tensors, named as in a single file without the prefix, under our names; views where possible."""
    layout, reshapes = ldm_layout(config)
    special = {rule.theirs for rule in reshapes}
    plain = {name: tensor for name, tensor in tensors.items() if name not in special}
    return rules.reshape(tensors, reshapes) | rules.rename(plain, (*layout.rules, *layout.also_read), layout.ignored)


def to_ldm(tensors: Mapping[str, Tensor], config: PartConfig) -> dict[str, Tensor]:
    """Our tensors under the names of a single file, without the prefix."""
    layout, reshapes = ldm_layout(config)
    special = {name for rule in reshapes for name in rule.ours}
    plain = {name: tensor for name, tensor in tensors.items() if name not in special}
    return rules.reshape_back(tensors, reshapes) | rules.rename(plain, [rule.inverse() for rule in layout.rules])


def ldm_layout(config: PartConfig) -> tuple[Layout, tuple[Reshape, ...]]:
    """The tables for a network of this config."""
    if isinstance(config, UNetConfig):
        return Layout(rules=tuple(_unet(config))), ()
    if isinstance(config, VAEConfig):
        return Layout(rules=tuple(_vae(config))), tuple(_vae_attention())
    return _open_clip(config) if is_open_clip(config) else _clip(config)


def _unet(config: UNetConfig) -> Iterator[Rename]:
    levels, blocks = len(config.channels), config.blocks
    yield Rename("input_blocks.0.0", "conv_in")
    yield from under("time_embed.", "time_embed.", {"0": "linear_1", "2": "linear_2"})
    if config.extra_dim is not None:
        yield from under("label_emb.0.", "add_embed.", {"0": "linear_1", "2": "linear_2"})
    if config.guidance_dim is not None:
        yield Rename("time_embed.cond_proj", "guidance_embed")
    for i, depths in enumerate(config.down_depths):
        first = 1 + i * (blocks + 1)
        for j, depth in enumerate(depths):
            yield from _block(f"input_blocks.{first + j}.", f"down.{i}.", j, depth)
        if i < levels - 1:
            yield Rename(f"input_blocks.{first + blocks}.0.op", f"down.{i}.downsample.conv")
    if config.mid_resnets:
        yield from under("middle_block.0.", "mid.resnet.0.", RESIDUAL)
    if config.mid_resnets == 2:
        yield from under("middle_block.1.", "mid.attn.0.", TRANSFORMER)
        yield from under("middle_block.2.", "mid.resnet.1.", RESIDUAL)
    for i, depths in enumerate(config.up_depths):
        first = i * (blocks + 1)
        for j, depth in enumerate(depths):
            yield from _block(f"output_blocks.{first + j}.", f"up.{i}.", j, depth)
        if i < levels - 1:
            yield Rename(f"output_blocks.{first + blocks}.{2 if any(depths) else 1}.conv", f"up.{i}.upsample.conv")
    yield from (Rename("out.0", "norm_out"), Rename("out.2", "conv_out"))


def _block(theirs: str, ours: str, j: int, depth: int) -> Iterator[Rename]:
    yield from under(f"{theirs}0.", f"{ours}resnet.{j}.", RESIDUAL)
    if depth:
        yield from under(f"{theirs}1.", f"{ours}attn.{j}.", TRANSFORMER)


def _vae(config: VAEConfig) -> Iterator[Rename]:
    levels = len(config.channels)
    yield from (Rename(name, name) for name in ("quant_conv", "post_quant_conv"))
    for half in ("encoder", "decoder"):
        yield from (Rename(f"{half}.{name}", f"{half}.{name}") for name in ("conv_in", "norm_out", "conv_out"))
        yield from under(f"{half}.mid.block_1.", f"{half}.mid.resnet.0.", VAE_RESIDUAL)
        yield from under(f"{half}.mid.block_2.", f"{half}.mid.resnet.1.", VAE_RESIDUAL)
        yield Rename(f"{half}.mid.attn_1.norm", f"{half}.mid.norm")
    yield from under("encoder.down.{i}.block.{j}.", "encoder.down.{i}.resnet.{j}.", VAE_RESIDUAL)
    yield Rename("encoder.down.{i}.downsample.conv", "encoder.down.{i}.downsample.conv")
    for i in range(levels):  # their decoder counts from the finest
        theirs, ours = f"decoder.up.{levels - 1 - i}.", f"decoder.up.{i}."
        yield from under(f"{theirs}block.{{j}}.", f"{ours}resnet.{{j}}.", VAE_RESIDUAL)
        yield Rename(f"{theirs}upsample.conv", f"{ours}upsample.conv")


def _vae_attention() -> Iterator[Reshape]:
    for half in ("encoder", "decoder"):
        for theirs, ours in VAE_ATTENTION.items():
            their_name, our_name = f"{half}.mid.attn_1.{theirs}", f"{half}.mid.self_attn.{ours}"
            yield rules.pointwise(f"{their_name}.weight", f"{our_name}.weight")
            yield rules.bare(f"{their_name}.bias", f"{our_name}.bias")


def _clip(config: TextEncoderConfig) -> tuple[Layout, tuple[Reshape, ...]]:
    """That of transformers; some files of the first year have no text_model, as the class of that time had none."""
    layout = diffusers_layout(config)
    if config.projection is None:
        unread = {"text_projection.weight": "this model does not use CLIP's pooled text"}
        layout = replace(layout, ignored={**layout.ignored, **unread})
    return layout, ()


def _open_clip(config: TextEncoderConfig) -> tuple[Layout, tuple[Reshape, ...]]:
    special = [rules.bare("positional_embedding", "position_embedding.weight")]
    for i in range(config.layers):
        theirs, ours = f"transformer.resblocks.{i}.attn.in_proj_", f"layer.{i}.self_attn."
        special += [
            rules.fused(theirs + leaf, *(f"{ours}{name}.{leaf}" for name in ("query", "key", "value")))
            for leaf in ("weight", "bias")
        ]
    ignored = {"logit_scale": "for CLIP's training", "attn_mask": "the causal mask, not a weight"}
    if config.projection is None:
        ignored["text_projection"] = "this model does not use the pooled text"
    else:
        special.append(rules.transposed("text_projection", "text_projection.weight"))
    for leaf in (*(f"{name}.{leaf}" for name in OPEN_CLIP for leaf in ("weight", "bias")), *FUSED):
        ignored[f"transformer.resblocks.{config.layers}.{leaf}"] = "above the hidden states that this model uses"
    renames = [Rename("token_embedding", "token_embedding"), Rename("ln_final", "final_norm")]
    for i in range(config.layers):
        renames += under(f"transformer.resblocks.{i}.", f"layer.{i}.", OPEN_CLIP)
    return Layout(rules=tuple(renames), ignored=ignored), tuple(special)
