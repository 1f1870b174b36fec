"""What tells one model from another: frozen configs, checked on birth, and the presets that ship.

An architecture config holds what changes a weight's shape, plus the few switches without which the weights mean
nothing (activation, prediction type). Variants are made with ``dataclasses.replace``.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

Prediction = Literal["epsilon", "v", "x0"]
BetaKind = Literal["scaled_linear", "linear", "cosine"]
TimeSpacing = Literal["linspace", "leading", "trailing"]  # of training times: Lin et al. 2024, Table 2
Spacing = Literal["model", "linspace", "leading", "trailing", "karras", "exponential", "beta", "sgm_uniform"]
TIME_SPACINGS: tuple[TimeSpacing, ...] = get_args(TimeSpacing)
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)  # of a run's noise levels
FinalSigma = Literal["zero", "sigma_min"]  # where a run ends: without noise, or at the lowest trained level
Activation = Literal["quick_gelu", "gelu"]
States = Literal["last", "penultimate"]
MOST = 256  # layers, blocks or levels; the largest released model has 32
SIZE_WIDTH = 256  # of the wave features of each of SDXL's sizes
SDXL_SIZES, REFINER_SIZES = 6, 5  # how many of them


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} is {number!r}; it must be a whole number of at least 1")


def _few(**numbers: int) -> None:
    """Counts of modules: a stranger's configuration must not ask for a billion of them."""
    for name, number in numbers.items():
        if not isinstance(number, int) or not 0 <= number <= MOST:
            raise ValueError(f"{name} is {number!r}; it must be a whole number of at most {MOST}")


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
    states: States = "last"  # what the U-Net reads: after the final norm, or before the last layer, without the norm
    pad: int = 49407  # id that fills up short texts; OpenCLIP's is 0

    def __post_init__(self) -> None:
        _positive(vocabulary=self.vocabulary, positions=self.positions, layers=self.layers, hidden=self.hidden)
        _positive(heads=self.heads, width=self.width)
        _few(layers=self.layers)
        _one_of(Activation, activation=self.activation)
        _one_of(States, states=self.states)
        if not isinstance(self.pad, int) or self.pad < 0:
            raise ValueError(f"pad is {self.pad!r}; it must be the id of a token")
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
    linear_projection: bool = False  # transformer projections are linear layers (SD 2, SDXL), not 1x1 convolutions
    extra_dim: int | None = None  # width of the added conditioning (SDXL: pooled text and sizes)
    guidance_dim: int | None = None  # width of the guidance-scale embedding of distilled networks (LCM)
    norm_groups: int = 32

    def __post_init__(self) -> None:
        _positive(blocks=self.blocks, norm_groups=self.norm_groups, levels=len(self.channels))
        _few(blocks=self.blocks, levels=len(self.channels), mid_depth=self.mid_depth)
        _few(**{f"depth of level {i}": depth for i, depth in enumerate(self.depth)})
        if self.guidance_dim is not None and self.guidance_dim < 4:
            raise ValueError(f"guidance_dim is {self.guidance_dim}; it must be at least 4")
        if not len(self.channels) == len(self.depth) == len(self.heads):
            raise ValueError(
                f"{len(self.channels)} channels, {len(self.depth)} depths, {len(self.heads)} heads: one each per level"
            )
        for channels, heads in zip(self.channels, self.heads, strict=True):
            _positive(channels=channels, heads=heads)
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
    upcast: bool = False  # runs in float32 where the rest is float16, which its activations overflow (SDXL)

    def __post_init__(self) -> None:
        _positive(blocks=self.blocks, norm_groups=self.norm_groups, levels=len(self.channels))
        _few(blocks=self.blocks, levels=len(self.channels))
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale is {self.scale}; it must be a positive number")
        for channels in self.channels:
            _positive(channels=channels)
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
    """Defaults of a call's options, under their names; measured for a shipped model."""

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    sampler: str = "ddim"
    sigmas: str | tuple[float, ...] = "model"
    height: int = 512
    width: int = 512
    upscale: int = 1


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that tells one model from another."""

    name: str
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    text_encoder_2: TextEncoderConfig | None = None  # its states stand beside those of the first (SDXL)
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    preset: Preset = field(default_factory=Preset)
    zero_negative: bool = False  # no negative prompt means zeros, not the states of an empty text (SDXL base)

    def __post_init__(self) -> None:
        width = sum(encoder.width for encoder in self.text_encoders)
        if self.unet.context_dim != width:
            raise ValueError(f"the U-Net reads text of width {self.unet.context_dim}, the encoder writes {width}")
        widths = [self.pooled_dim + count * SIZE_WIDTH for count in (SDXL_SIZES, REFINER_SIZES)]
        if self.unet.extra_dim is not None and self.unet.extra_dim not in widths:
            raise ValueError(
                f"the U-Net's extra conditioning has width {self.unet.extra_dim}; with pooled text of width "
                f"{self.pooled_dim} it must be {widths[0]}, or for a refiner {widths[1]}"
            )

    @property
    def text_encoders(self) -> tuple[TextEncoderConfig, ...]:
        """One or two, in the order in which their states stand side by side; the last one's pooled text is read."""
        return (self.text_encoder,) if self.text_encoder_2 is None else (self.text_encoder, self.text_encoder_2)

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled text."""
        last = self.text_encoders[-1]
        return last.width if last.projection is None else last.projection

    @property
    def sizes(self) -> int:
        """Numbers beside the pooled text: 6 (sizes and crop), 5 (the refiner's: one score, no target size), or 0."""
        return 0 if self.unet.extra_dim is None else (self.unet.extra_dim - self.pooled_dim) // SIZE_WIDTH

    @property
    def inpaints(self) -> bool:
        """Whether the U-Net reads a mask and what lies outside of it, beside the latents (Rombach et al. 2022, 4.5)."""
        return self.unet.in_channels == 2 * self.vae.latent_channels + 1


def narrow(model: ModelConfig) -> ModelConfig:
    """The same kind of model, named ``tiny-...``, with every width cut to what a test can afford."""
    encoders = [
        replace(
            encoder,
            width=32,
            layers=2,
            heads=2,
            hidden=64,
            projection=None if encoder.projection is None else 32,
        )
        for encoder in model.text_encoders
    ]
    depth = tuple(min(count, 2) for count in model.unet.depth)
    unet = replace(
        model.unet,
        channels=(32,) + (64,) * (len(depth) - 1),
        blocks=1,
        depth=depth,
        mid_depth=min(model.unet.mid_depth, 2),
        heads=(2,) * len(depth),
        context_dim=32 * len(encoders),
        extra_dim=None if model.unet.extra_dim is None else 32 + model.sizes * SIZE_WIDTH,
        norm_groups=8,
    )
    return replace(
        model,
        name=f"tiny-{model.name}",
        text_encoder=encoders[0],
        text_encoder_2=None if model.text_encoder_2 is None else encoders[1],
        unet=unet,
        vae=replace(model.vae, channels=(16, 32), blocks=1, norm_groups=8),
        preset=replace(model.preset, num_inference_steps=min(model.preset.num_inference_steps, 4), height=32, width=32),
    )


SD15 = ModelConfig(name="sd15", schedule=ScheduleConfig(ddim_ends_at_zero=False))
SD15_INPAINT = replace(SD15, name="sd15-inpaint", unet=UNetConfig(in_channels=9))
SD15_LCM = replace(
    SD15,
    name="sd15-lcm",
    unet=UNetConfig(guidance_dim=256),
    preset=Preset(num_inference_steps=4, guidance_scale=8.5, sampler="lcm", height=768, width=768),
)

# 23 of OpenCLIP's 24 layers: the U-Net reads the states before the last, through the final norm.
_OPENCLIP_H = TextEncoderConfig(width=1024, layers=23, heads=16, hidden=4096, activation="gelu", pad=0)
_SD2_UNET = UNetConfig(heads=(5, 10, 20, 20), context_dim=1024, linear_projection=True)
SD21 = replace(SD15, name="sd21", text_encoder=_OPENCLIP_H, unet=_SD2_UNET)
SD21_V = replace(
    SD21, name="sd21-v", schedule=replace(SD15.schedule, prediction="v"), preset=Preset(height=768, width=768)
)
SD21_INPAINT = replace(SD21, name="sd21-inpaint", unet=replace(_SD2_UNET, in_channels=9))
SD_TURBO = replace(
    SD21,
    name="sd-turbo",
    schedule=replace(SD15.schedule, spacing="trailing"),
    preset=Preset(num_inference_steps=1, guidance_scale=1.0, sampler="euler"),
)

_CLIP_L = TextEncoderConfig(states="penultimate")
_OPENCLIP_G = TextEncoderConfig(
    width=1280, layers=32, heads=20, hidden=5120, activation="gelu", projection=1280, states="penultimate", pad=0
)
SDXL = ModelConfig(
    name="sdxl",
    text_encoder=_CLIP_L,
    text_encoder_2=_OPENCLIP_G,
    unet=UNetConfig(
        channels=(320, 640, 1280),
        depth=(0, 2, 10),
        mid_depth=10,
        heads=(5, 10, 20),
        context_dim=2048,
        linear_projection=True,
        extra_dim=1280 + 6 * SIZE_WIDTH,
    ),
    vae=VAEConfig(scale=0.13025, upcast=True),
    schedule=SD15.schedule,
    preset=Preset(guidance_scale=5.0, sampler="euler", height=1024, width=1024),
    zero_negative=True,
)
SDXL_INPAINT = replace(SDXL, name="sdxl-inpaint", unet=replace(SDXL.unet, in_channels=9))
SDXL_REFINER = replace(
    SDXL,
    name="sdxl-refiner",
    text_encoder=_OPENCLIP_G,
    text_encoder_2=None,
    unet=replace(
        SDXL.unet,
        channels=(384, 768, 1536, 1536),
        depth=(0, 4, 4, 0),
        mid_depth=4,
        heads=(6, 12, 24, 24),
        context_dim=1280,
        extra_dim=1280 + 5 * SIZE_WIDTH,
    ),
    zero_negative=False,
)
SDXL_TURBO = replace(
    SDXL,
    name="sdxl-turbo",
    schedule=replace(SDXL.schedule, spacing="trailing"),
    preset=Preset(num_inference_steps=1, guidance_scale=1.0, sampler="euler_ancestral"),
)

FAMILIES: dict[str, ModelConfig] = {
    model.name: model
    for model in (
        SD15,
        SD15_INPAINT,
        SD15_LCM,
        SD21,
        SD21_V,
        SD21_INPAINT,
        SD_TURBO,
        SDXL,
        SDXL_INPAINT,
        SDXL_REFINER,
        SDXL_TURBO,
    )
}
"""What a file of released weights may be."""

EMOJI = ModelConfig(
    name="emoji",
    text_encoder=TextEncoderConfig(width=320, layers=5, heads=5, hidden=1280, projection=320),
    unet=UNetConfig(channels=(192, 256, 256), depth=(1, 1, 0), heads=(3, 4, 4), context_dim=320),
    # Eight norm groups: with one channel a group the norm erases each channel's mean, and the decoder buys the
    # colours back with one huge value per picture (a bright droplet).
    vae=VAEConfig(channels=(32, 64, 128, 192), norm_groups=8, scale=1.0),
    schedule=ScheduleConfig(prediction="v", spacing="trailing", zero_snr=True),
    preset=Preset(num_inference_steps=12, guidance_scale=2.5, sampler="dpmpp_2m", height=128, width=128, upscale=4),
)

TINY = ModelConfig(
    name="tiny",
    text_encoder=TextEncoderConfig(width=32, layers=2, heads=2, hidden=64),
    unet=UNetConfig(channels=(32, 64), blocks=1, depth=(1, 0), heads=(2, 2), context_dim=32, norm_groups=8),
    vae=VAEConfig(channels=(16, 32), blocks=1, norm_groups=8),
    preset=Preset(num_inference_steps=4, sampler="ddim", height=32, width=32),
)

PRESETS: dict[str, ModelConfig] = {
    **FAMILIES,
    **{model.name: model for model in (EMOJI, TINY, *map(narrow, FAMILIES.values()))},
}
