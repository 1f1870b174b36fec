"""The architectures of the networks, and the few switches without which their weights mean nothing."""

import reprlib
from dataclasses import dataclass
from typing import Literal

from diffuscope.config.checks import few, positive, typed

Activation = Literal["quick_gelu", "gelu"]
States = Literal["last", "penultimate"]
Depth = int | tuple[int, ...]
"""Transformer layers after each residual block of a level: one number for all, or one per block."""


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """CLIP's text tower: a causal transformer with learned positions (Radford et al. 2021)."""

    vocabulary: int = 49408
    positions: int = 77
    width: int = 768
    layers: int = 12
    heads: int = 12  # number of heads, not their width
    hidden: int = 3072
    activation: Activation = "quick_gelu"
    projection: int | None = None  # width of the pooled text's projection, where the file has one
    states: States = "last"  # what the U-Net reads: after the final norm, or before the last layer, without the norm
    pad: int = 49407  # id that fills up short texts; OpenCLIP's is 0

    def __post_init__(self) -> None:
        typed(self)
        positive(vocabulary=self.vocabulary, positions=self.positions, layers=self.layers, hidden=self.hidden)
        positive(heads=self.heads, width=self.width, projection=1 if self.projection is None else self.projection)
        few(1, self.layers)
        if self.pad < 0:
            raise ValueError(f"pad is {reprlib.repr(self.pad)}; it must be the id of a token")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not split into {self.heads} heads")


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The denoiser of latent diffusion (Rombach et al. 2022): residual blocks and transformers at several scales."""

    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)  # one per resolution, outside in
    blocks: int = 2  # residual blocks per resolution on the way down; one more on the way up
    depth: tuple[Depth, ...] = (1, 1, 1, 0)  # transformer layers of each level's blocks; 0 is no attention
    up_depth: tuple[Depth, ...] | None = None  # those of the way up, inside out; None mirrors ``depth``
    mid_resnets: int = 2  # residual blocks in the middle: 2 with a transformer between them, 1, or none at all
    mid_depth: int = 1
    heads: tuple[int, ...] = (8, 8, 8, 8)  # number of heads, not their width
    context_dim: int = 768
    linear_projection: bool = False  # transformer projections are linear layers (SD 2, SDXL), not 1x1 convolutions
    extra_dim: int | None = None  # width of the added conditioning (SDXL: pooled text and sizes)
    size_dim: int = 256  # of it, the width of the sinusoidal features of each size
    guidance_dim: int | None = None  # width of the guidance-scale embedding of distilled networks (LCM)
    step_dim: int | None = None  # width of the step-size embedding of few-step networks (shortcut models)
    norm_groups: int = 32

    def __post_init__(self) -> None:
        typed(self)
        positive(blocks=self.blocks, norm_groups=self.norm_groups, context_dim=self.context_dim)
        positive(in_channels=self.in_channels, out_channels=self.out_channels, size_dim=self.size_dim)
        positive(extra_dim=1 if self.extra_dim is None else self.extra_dim)
        levels = len(self.channels)
        few(levels, levels * (2 * self.blocks + 1))
        for name, width in (("guidance_dim", self.guidance_dim), ("step_dim", self.step_dim)):
            if width is not None and width < 4:
                raise ValueError(f"{name} is {width}; it must be at least 4")
        if self.mid_resnets not in (0, 1, 2) or self.mid_depth < 0:
            raise ValueError(f"the middle has {self.mid_resnets} residual blocks and depth {self.mid_depth}")
        up_depth = self.depth if self.up_depth is None else self.up_depth
        if not levels == len(self.depth) == len(up_depth) == len(self.heads):
            counts = f"{len(self.depth)} and {len(up_depth)} depths, {len(self.heads)} heads"
            raise ValueError(f"{levels} channels, {counts}: one each per level")
        few(levels, levels * (2 * self.blocks + 1) + sum(map(sum, (*self.down_depths, *self.up_depths))))
        few(levels, self.mid_depth)
        for i, channels in enumerate(self.channels):
            self._check_level(i, channels, [*self.down_depths[i], *self.up_depths[-1 - i]])

    def _check_level(self, level: int, channels: int, depths: list[int]) -> None:
        heads = self.heads[level]
        positive(channels=channels, heads=heads)
        attends = any(depths) or (level == len(self.channels) - 1 and self.mid_resnets == 2 and self.mid_depth > 0)
        if attends and channels % heads:
            raise ValueError(f"{channels} channels do not split into {heads} heads")
        if channels % self.norm_groups:
            raise ValueError(f"{channels} channels do not split into {self.norm_groups} norm groups")

    @property
    def down_depths(self) -> tuple[tuple[int, ...], ...]:
        """Transformer layers after each residual block on the way down, level by level."""
        return tuple(_per_block(depth, self.blocks) for depth in self.depth)

    @property
    def up_depths(self) -> tuple[tuple[int, ...], ...]:
        """The same on the way up, from the coarsest level."""
        if self.up_depth is None and any(isinstance(depth, tuple) for depth in self.depth):
            raise ValueError("a depth per block has no mirror; give up_depth")
        up_depth = self.depth[::-1] if self.up_depth is None else self.up_depth
        return tuple(_per_block(depth, self.blocks + 1) for depth in up_depth)

    @property
    def layers(self) -> int:
        """Transformer layers in all."""
        return sum(map(sum, (*self.down_depths, *self.up_depths))) + (self.mid_depth if self.mid_resnets == 2 else 0)

    @property
    def time_dim(self) -> int:
        """Width of the time embedding after its two linear layers."""
        return 4 * self.channels[0]


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The autoencoder between pixels and latents (Kingma & Welling 2014; KL-f8 of Rombach et al. 2022)."""

    image_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)  # one per resolution, outside in
    blocks: int = 2  # residual blocks per resolution in the encoder; one more in the decoder
    norm_groups: int = 32
    scale: float = 0.18215  # latents are multiplied by this before the U-Net sees them
    mean: tuple[float, ...] | None = None  # of each channel, subtracted before that (Playground v2.5)
    std: tuple[float, ...] | None = None  # of each channel, by which they are divided
    upcast: bool = False  # runs in float32 where the rest is float16, which its activations overflow (SDXL)

    def __post_init__(self) -> None:
        typed(self)
        positive(blocks=self.blocks, norm_groups=self.norm_groups, image_channels=self.image_channels)
        positive(latent_channels=self.latent_channels)
        few(len(self.channels), len(self.channels) * (2 * self.blocks + 1))
        if self.scale <= 0:
            raise ValueError(f"scale is {self.scale}; it must be a positive number")
        if {len(self.mean or ()), len(self.std or ())} not in ({0}, {self.latent_channels}) or 0 in (self.std or ()):
            raise ValueError(f"mean and std have a number, std none of 0, for each of {self.latent_channels} channels")
        for channels in self.channels:
            positive(channels=channels)
            if channels % self.norm_groups:
                raise ValueError(f"{channels} channels do not split into {self.norm_groups} norm groups")

    @property
    def factor(self) -> int:
        """Pixels per latent, along each side."""
        return int(2 ** (len(self.channels) - 1))


def _per_block(depth: Depth, blocks: int) -> tuple[int, ...]:
    """The depth of each of a level's blocks."""
    depths = (depth,) * blocks if isinstance(depth, int) else depth
    if len(depths) != blocks or min(depths) < 0 or (0 in depths and any(depths)):
        raise ValueError(f"depth {reprlib.repr(depth)} does not fit {blocks} blocks: all have attention, or none has")
    return depths
