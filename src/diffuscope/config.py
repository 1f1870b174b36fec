"""What tells one model from another: frozen configs, checked on birth, and the presets that ship.

An architecture config holds what changes a weight's shape, plus the few switches without which the weights mean
nothing (activation, prediction type). Variants are made with ``dataclasses.replace``.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

Prediction = Literal["epsilon", "v", "x0"]
BetaKind = Literal["scaled_linear", "linear", "cosine"]
TimeSpacing = Literal["linspace", "leading", "trailing"]
Activation = Literal["quick_gelu", "gelu"]


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} is {number!r}; it must be a whole number of at least 1")


def _one_of(kind: object, **values: str) -> None:
    for name, value in values.items():
        if value not in get_args(kind):
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(get_args(kind))}")


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

    def __post_init__(self) -> None:
        _positive(vocabulary=self.vocabulary, positions=self.positions, layers=self.layers, hidden=self.hidden)
        _positive(heads=self.heads, width=self.width)
        _one_of(Activation, activation=self.activation)
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not split into {self.heads} heads")


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The denoiser of latent diffusion (Rombach et al. 2022): residual blocks and transformers at several scales."""

    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)  # one per resolution, outside in
    blocks: int = 2  # residual blocks per resolution on the way down; one more on the way up
    depth: tuple[int, ...] = (1, 1, 1, 0)  # transformer layers after each residual block; 0 is no attention
    mid_depth: int = 1
    heads: tuple[int, ...] = (8, 8, 8, 8)  # number of heads, not their width
    context_dim: int = 768
    linear_projection: bool = False  # transformers enter and leave by a linear layer (SD 2, SDXL), not a 1x1 conv
    extra_dim: int | None = None  # width of the added conditioning (SDXL: pooled text and sizes)
    norm_groups: int = 32

    def __post_init__(self) -> None:
        _positive(blocks=self.blocks, norm_groups=self.norm_groups, levels=len(self.channels))
        if not len(self.channels) == len(self.depth) == len(self.heads):
            raise ValueError(
                f"{len(self.channels)} channels, {len(self.depth)} depths, {len(self.heads)} heads: one each per level"
            )
        for channels, heads in zip(self.channels, self.heads, strict=True):
            if channels % heads:
                raise ValueError(f"{channels} channels do not split into {heads} heads")
            if channels % self.norm_groups:
                raise ValueError(f"{channels} channels do not split into {self.norm_groups} norm groups")

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

    def __post_init__(self) -> None:
        _positive(blocks=self.blocks, norm_groups=self.norm_groups, levels=len(self.channels))
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale is {self.scale}; it must be a positive number")
        for channels in self.channels:
            if channels % self.norm_groups:
                raise ValueError(f"{channels} channels do not split into {self.norm_groups} norm groups")

    @property
    def factor(self) -> int:
        """Pixels per latent, along each side."""
        return int(2 ** (len(self.channels) - 1))


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The noise levels a network was trained on, and how a sampler picks among them."""

    betas: BetaKind = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    train_steps: int = 1000
    prediction: Prediction = "epsilon"
    spacing: TimeSpacing = "leading"
    steps_offset: int = 1  # added to the times of "leading" spacing
    zero_snr: bool = False  # betas rescaled so that the last level is pure noise (Lin et al. 2024, Algorithm 1)
    ddim_ends_at_zero: bool = True  # else DDIM stops at the lowest trained level (diffusers: set_alpha_to_one)

    def __post_init__(self) -> None:
        _positive(train_steps=self.train_steps)
        _one_of(BetaKind, betas=self.betas)
        _one_of(Prediction, prediction=self.prediction)
        _one_of(TimeSpacing, spacing=self.spacing)
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(f"betas go from {self.beta_start} to {self.beta_end}; they must rise between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a call means that does not say: chosen by measurement for a shipped model."""

    steps: int = 50
    guidance_scale: float = 7.5
    sampler: str = "ddim"
    sigmas: str = "model"
    height: int = 512
    width: int = 512
    upscale: int = 1


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that tells one model from another."""

    name: str
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    preset: Preset = field(default_factory=Preset)

    def __post_init__(self) -> None:
        if self.unet.context_dim != self.text_encoder.width:
            raise ValueError(
                f"the U-Net reads text of width {self.unet.context_dim}, the encoder writes {self.text_encoder.width}"
            )


SD15 = ModelConfig(name="sd15", schedule=ScheduleConfig(ddim_ends_at_zero=False))

EMOJI = ModelConfig(
    name="emoji",
    text_encoder=TextEncoderConfig(width=320, layers=5, heads=5, hidden=1280, projection=320),
    unet=UNetConfig(channels=(192, 256, 256), depth=(1, 1, 0), heads=(3, 4, 4), context_dim=320),
    # Eight norm groups: with one channel a group the norm erases each channel's mean, and the decoder buys the
    # colours back with one huge value per picture (a bright droplet).
    vae=VAEConfig(channels=(32, 64, 128, 192), norm_groups=8, scale=1.0),
    schedule=ScheduleConfig(prediction="v", spacing="trailing", zero_snr=True),
    preset=Preset(steps=12, guidance_scale=5.0, sampler="dpmpp_2m", height=128, width=128, upscale=4),
)

TINY = ModelConfig(
    name="tiny",
    text_encoder=TextEncoderConfig(width=32, layers=2, heads=2, hidden=64),
    unet=UNetConfig(channels=(32, 64), blocks=1, depth=(1, 0), heads=(2, 2), context_dim=32, norm_groups=8),
    vae=VAEConfig(channels=(16, 32), blocks=1, norm_groups=8),
    preset=Preset(steps=4, sampler="ddim", height=32, width=32),
)

PRESETS: dict[str, ModelConfig] = {model.name: model for model in (SD15, EMOJI, TINY)}
