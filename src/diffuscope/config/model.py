"""Everything that tells one model from another: its networks, its noise schedule, and the defaults of a call."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from diffuscope.config.checks import positive, typed
from diffuscope.config.networks import TextEncoderConfig, UNetConfig, VAEConfig

Prediction = Literal["epsilon", "v", "x0", "edm"]
BetaKind = Literal["scaled_linear", "linear", "cosine", "edm"]
TimeSpacing = Literal["linspace", "leading", "trailing"]  # of training times: Lin et al. 2024, Table 2
Spacing = Literal["model", "linspace", "leading", "trailing", "karras", "exponential", "beta", "sgm_uniform"]
TIME_SPACINGS: tuple[TimeSpacing, ...] = get_args(TimeSpacing)
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)  # of a run's noise levels
FinalSigma = Literal["zero", "sigma_min"]  # where a run ends: without noise, or at the lowest trained level

LARGEST = 1_000_000
"""The largest noise level, guidance scale and threshold of a call; float32 overflows not far above their squares."""

LEVELS = f"a list of at least two noise levels, strictly decreasing, the first at most {LARGEST:,}, the last 0 or above"
"""What a list of sigmas must be, in the words of a refusal."""

MAX_PIXELS = 1 << 26
"""Of an image: larger ones (67 million pixels, 200 MB as RGB) are neither made nor read."""

MOST_TRAIN_STEPS = 100_000
UPSCALES = (1, 4)  # factors of the output
SDXL_SIZES, REFINER_SIZES = 6, 5  # how many sizes and scores stand beside the pooled text
INPUTS = {5: "depth2img", 7: "an upscaler"}
"""Input channels of a U-Net for latents of 4 -> the models that have them."""


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
    sigma_min: float = 0.0  # lowest and highest level where betas is "edm" (Karras et al. 2022)
    sigma_max: float = 0.0
    sigma_data: float = 1.0  # deviation of the latents that EDM's levels are stated for; here it is 1

    def __post_init__(self) -> None:
        typed(self)
        positive(train_steps=self.train_steps)
        if self.train_steps > MOST_TRAIN_STEPS or not 0 <= self.steps_offset <= MOST_TRAIN_STEPS:
            raise ValueError(
                f"train_steps is {self.train_steps} and steps_offset {self.steps_offset}; "
                f"they may be at most {MOST_TRAIN_STEPS}, and at least 0"
            )
        if self.betas == "edm" and not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"levels go from {self.sigma_min} to {self.sigma_max}; they must rise above 0")
        if self.betas != "edm" and (self.sigma_min, self.sigma_max) != (0, 0):
            raise ValueError(f"sigma_min is {self.sigma_min} and sigma_max {self.sigma_max}; only edm has them, else 0")
        if self.sigma_data <= 0:
            raise ValueError(f"sigma_data is {self.sigma_data}; it must be a positive number")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start is {self.beta_start} and beta_end {self.beta_end}; betas must rise between 0 and 1"
            )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Defaults of a call's options, under their names; measured for a shipped model."""

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    image_guidance_scale: float | None = None  # of a model that edits an image
    sampler: str = "ddim"
    sampler_options: Mapping[str, bool | int | float | str] = field(default_factory=dict)  # of this sampler alone
    sigmas: str | tuple[float, ...] = "model"
    final_sigma: FinalSigma | None = None  # of this sampler alone
    height: int = 512
    width: int = 512
    upscale: int = 1

    def __post_init__(self) -> None:
        typed(self)
        positive(num_inference_steps=self.num_inference_steps, height=self.height, width=self.width)
        if self.upscale not in UPSCALES:
            raise ValueError(f"upscale is {self.upscale}; it must be 1 or 4")


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
    base: str | None = None  # shipped model whose files complete this one's folder
    base_hash: str | None = None  # of that model's files; a difference is of no other
    draws: str = ""  # what it was trained to draw, for a note on words that it never learned
    examples: tuple[str, ...] = ()  # prompts that show what it draws
    zero_negative: bool = False  # no negative prompt means zeros, not the states of an empty text (SDXL base)

    def __post_init__(self) -> None:
        typed(self)
        for encoder in self.text_encoders:
            if encoder.pad >= encoder.vocabulary:
                raise ValueError(f"pad is {encoder.pad}; it must be the id of one of {encoder.vocabulary} tokens")
        width = sum(encoder.width for encoder in self.text_encoders)
        if self.unet.context_dim != width:
            raise ValueError(f"the U-Net reads text of width {self.unet.context_dim}, the encoder writes {width}")
        widths = [self.pooled_dim + count * self.unet.size_dim for count in (SDXL_SIZES, REFINER_SIZES)]
        if self.unet.extra_dim is not None and self.unet.extra_dim not in widths:
            raise ValueError(
                f"the U-Net's extra conditioning has width {self.unet.extra_dim}; with pooled text of width "
                f"{self.pooled_dim} it must be {widths[0]}, or for a refiner {widths[1]}"
            )
        latent, (read, written) = self.vae.latent_channels, (self.unet.in_channels, self.unet.out_channels)
        if read not in (latent, 2 * latent, 2 * latent + 1) or written != latent:
            kind = INPUTS.get(read, "another kind of model")
            raise ValueError(
                f"the U-Net reads {read} channels, like {kind}, and writes {written}; with latents of {latent} it must "
                f"read {latent}, {2 * latent} to edit an image, or {2 * latent + 1} for inpainting, and write {latent}"
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
        return 0 if self.unet.extra_dim is None else (self.unet.extra_dim - self.pooled_dim) // self.unet.size_dim

    @property
    def inpaints(self) -> bool:
        """Whether the U-Net reads a mask and what lies outside of it, beside the latents (Rombach et al. 2022, 4.5)."""
        return self.unet.in_channels == 2 * self.vae.latent_channels + 1

    @property
    def edits(self) -> bool:
        """Whether the U-Net reads an image, which it edits as the prompt says (InstructPix2Pix: Brooks et al. 2023)."""
        return self.unet.in_channels == 2 * self.vae.latent_channels
