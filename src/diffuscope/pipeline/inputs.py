"""A call: a Request, and the inputs that JSON cannot hold: images, masks, latents, conditioning, functions, taps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Generator, Tensor

from diffuscope.diffusion import samplers
from diffuscope.diffusion.guidance import OnGuidance
from diffuscope.diffusion.samplers import Sampler
from diffuscope.errors import InputError, Unquoted
from diffuscope.images import ImageSources
from diffuscope.pipeline.answers import Answers
from diffuscope.request import Request
from diffuscope.types import Conditioning, Denoiser, TapArgument

Guidance = Callable[[Denoiser], Denoiser]
OutputType = Literal["pil", "np", "pt", "latent"]


def checked_latents(latents: Tensor, argument: str, shape: Sequence[int]) -> Tensor:
    """The same latents; an InputError for another shape, or values that are not finite."""
    if list(latents.shape) != list(shape):
        raise InputError(argument, latents, f"latents of shape {list(shape)}")
    if not latents.isfinite().all():
        raise InputError(argument, Unquoted("latents that are not finite"), "finite numbers")
    return latents


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of a call that do not fit into JSON."""

    image: ImageSources | Tensor | None = None
    """img2img and inpainting: one image or one per prompt; or latents [N,C,h,w] in the U-Net's scale"""
    mask_image: ImageSources | None = None
    """inpainting: one mask or one per prompt, of the image's aspect ratio; the masked area is white"""
    latents: Tensor | None = None
    """[N,C,h,w] start noise of unit variance, instead of the seeds' noise"""
    conditioning: Conditioning | Tensor | None = None
    """instead of a prompt: what ``encode_prompt`` returns, edited, or its text states [B,T,D]; one row per prompt"""
    guidance: Guidance | Sequence[Guidance] = ()
    """further functions from Denoiser to Denoiser, applied in turn"""
    generator: Generator | Sequence[Generator] | None = None
    """instead of a seed: one torch.Generator, or one per image, which draws the noise as in diffusers"""
    output_type: OutputType = "pil"
    """form of the result's images: "pil", "np" [N,H,W,3] or "pt" [N,3,H,W] from 0 to 1, or "latent", not decoded"""
    tap: TapArgument | None = None
    """reads or replaces activations, by the names of ``tap_points``; rows of a guided batch are [negative, prompt]"""
    on_guidance: OnGuidance | None = None
    """sees both estimates whenever guidance combines them: unconditional x0, conditional x0, x and sigma"""
    answers: Answers | None = None
    """``run.answers`` of the run from which this one branches: its steps are not computed again"""


@dataclass(frozen=True, eq=False)
class Call(Inputs, Request):
    """A whole call. ``Pipeline.__call__`` and ``Pipeline.steps`` take its fields as keywords."""

    prompt: str | Sequence[str] | Request | None = None  # type: ignore[assignment]  # in its place, a Request
    sampler: str | Sampler | None = None  # type: ignore[assignment]  # or a function, which JSON cannot hold

    def __post_init__(self) -> None:
        sampler = self.sampler
        if callable(sampler):
            object.__setattr__(self, "sampler", samplers.find(sampler).info.name)
        super().__post_init__()
        object.__setattr__(self, "sampler", sampler)
        if (self.prompt is None) is (self.conditioning is None):
            got = Unquoted("neither") if self.prompt is None else Unquoted("both")
            raise InputError("prompt", got, "either a prompt or conditioning")
        if not isinstance(self.conditioning, Conditioning | Tensor | None):
            raise InputError("conditioning", self.conditioning, "a Conditioning, or a tensor of text states [B,T,D]")
        if self.mask_image is not None and (self.image is None or isinstance(self.image, Tensor)):
            raise InputError("image", self.image, "an image file or PIL image with mask_image")
        if self.denoising_start is not None and not isinstance(self.image, Tensor):
            raise InputError("image", self.image, "the latents of the base model's result with denoising_start")
        if self.mask_image is not None and self.denoising_end is not None:
            raise InputError("denoising_end", self.denoising_end, "None with mask_image")
        if self.generator is not None and self.seed is not None:
            raise InputError("seed", self.seed, "None with generator")
        if self.output_type not in get_args(OutputType):
            raise InputError("output_type", self.output_type, f"one of {', '.join(get_args(OutputType))}")
        if self.on_guidance is not None and not callable(self.on_guidance):
            want = "a function of unconditional x0, conditional x0, x and sigma"
            raise InputError("on_guidance", self.on_guidance, want)
        for function in self.functions:
            if not callable(function):
                raise InputError("guidance", function, "functions from Denoiser to Denoiser")

    @property
    def states(self) -> Conditioning | None:
        """``conditioning`` with a tensor as text states."""
        given = self.conditioning
        return Conditioning(given) if isinstance(given, Tensor) else given

    @property
    def fills_from_noise(self) -> bool:
        """Whether an image only gives what lies outside the masked area, which starts from noise alone."""
        return self.mask_image is not None and self.strength == 1

    @property
    def functions(self) -> tuple[Guidance, ...]:
        """``guidance`` as a tuple."""
        if callable(self.guidance) or not isinstance(self.guidance, Sequence):
            return (self.guidance,)
        return tuple(self.guidance)

    @property
    def edits(self) -> list[str]:
        """The names of the inputs that no receipt can hold."""
        given = {
            "latents": self.latents is not None,
            "conditioning": self.conditioning is not None,
            "guidance": bool(self.functions),
            "tap": self.tap is not None,
        }
        return [name for name, is_given in given.items() if is_given]
