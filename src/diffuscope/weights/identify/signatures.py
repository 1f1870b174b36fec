"""A U-Net's architecture, as far as the shapes in a file's header show it; and the presets that have it."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from diffuscope.config import PRESETS, ModelConfig, UNetConfig
from diffuscope.weights.store.headers import TensorInfo

Shapes = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class Signature:
    """Everything of a U-Net's architecture but the number of heads, which shapes do not show."""

    in_channels: int
    width: int  # channels at the finest resolution
    deepest: int  # channels at the coarsest
    levels: int
    middle: int  # transformer layers in the middle
    layers: int  # in all
    context: int
    linear: bool
    extra: int | None
    guidance: int | None

    @classmethod
    def of(cls, config: UNetConfig) -> "Signature":
        """That of a config."""
        return cls(
            config.in_channels,
            config.channels[0],
            config.channels[-1],
            len(config.channels),
            config.mid_depth if config.mid_resnets == 2 else 0,
            config.layers,
            config.context_dim,
            config.linear_projection,
            config.extra_dim,
            config.guidance_dim,
        )


@dataclass(frozen=True, kw_only=True)
class UNetNames:
    """A layout's names of the tensors that a signature is read from, beside ``PROJECT``."""

    stem: str
    middle: str  # a convolution of the middle's first residual block
    context: str  # a pattern; it matches one name per transformer layer
    centre: str  # what names of the middle begin with
    level: str  # a pattern; it matches one name per downsampling
    extra: str
    guidance: str


PROJECT = r".+\.proj_in\.weight"  # in every layout; it matches one name per transformer

UNETS = {
    "ldm": UNetNames(
        stem="input_blocks.0.0.weight",
        middle="middle_block.0.in_layers.2.weight",
        context=r".+\.transformer_blocks\.\d+\.attn2\.to_k\.weight",
        centre="middle_block.",
        level=r"input_blocks\.(\d+)\.0\.op\.weight",
        extra="label_emb.0.0.weight",
        guidance="time_embed.cond_proj.weight",
    ),
    "diffusers": UNetNames(
        stem="conv_in.weight",
        middle="mid_block.resnets.0.conv1.weight",
        context=r".+\.transformer_blocks\.\d+\.attn2\.to_k\.weight",
        centre="mid_block.",
        level=r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.weight",
        extra="add_embedding.linear_1.weight",
        guidance="time_embedding.cond_proj.weight",
    ),
    "own": UNetNames(
        stem="conv_in.weight",
        middle="mid.resnet.0.conv1.weight",
        context=r".+\.block\.\d+\.cross_attn\.key\.weight",
        centre="mid.",
        level=r"down\.(\d+)\.downsample\.conv\.weight",
        extra="add_embed.linear_1.weight",
        guidance="guidance_embed.weight",
    ),
}


def signature(tensors: Shapes, prefix: str, names: UNetNames) -> Signature | None:
    """That of the U-Net whose names begin with ``prefix``, or None without its tensors."""

    def shape(name: str, dimensions: tuple[int, ...]) -> tuple[int, ...] | None:
        info = tensors.get(prefix + name)
        return info.shape if info is not None and len(info.shape) in dimensions else None

    def matching(pattern: str) -> list[str]:
        compiled = re.compile(pattern)
        return [name for name in bare if compiled.fullmatch(name)]

    bare = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    layers, projects = matching(names.context), matching(PROJECT)
    stem, middle = shape(names.stem, (4,)), shape(names.middle, (4,))
    project = shape(projects[0], (2, 4)) if projects else None
    context = shape(layers[0], (2,)) if layers else None
    extra, guidance = shape(names.extra, (2,)), shape(names.guidance, (2,))
    if stem is None or middle is None or project is None or context is None:
        return None
    return Signature(
        in_channels=stem[1],
        width=stem[0],
        deepest=middle[0],
        levels=1 + len(matching(names.level)),
        middle=sum(name.startswith(names.centre) for name in layers),
        layers=len(layers),
        context=context[1],
        linear=len(project) == 2,
        extra=None if extra is None else extra[1],
        guidance=None if guidance is None else guidance[1],
    )


def fitting(unet: Signature) -> tuple[str, ...]:
    """The presets with a U-Net of that signature."""
    return tuple(name for name, preset in PRESETS.items() if Signature.of(preset.unet) == unet)


def differences(unet: Signature, preset: ModelConfig) -> list[str]:
    """How a signature differs from that of a preset, one clause each."""
    theirs, ours = asdict(unet), asdict(Signature.of(preset.unet))
    return [f"{name} {theirs[name]} instead of {ours[name]}" for name in theirs if theirs[name] != ours[name]]
