"""The options of a call, each stated once: its name, type, range, default and help. Imports no torch."""

import base64
import binascii
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from annotated_types import Ge, Interval, MaxLen, MinLen

from diffuscope.config import LARGEST, LEVELS, FinalSigma, Spacing
from diffuscope.errors import InputError, Unquoted
from diffuscope.schema import Group, Options, options

if TYPE_CHECKING:
    from torch import Tensor

Syntax = Literal["plain", "a1111", "comfyui"]
"""How brackets and long prompts are read: as text, or by a program's rules."""

LONGEST_TEXT = 16_384
"""Characters of a prompt: far more than any window reads, and tokens in a fifth of a second."""

Text = Annotated[str, MaxLen(LONGEST_TEXT)]
Texts = Text | Annotated[Sequence[Text], MinLen(1)]
"""One text, or one per image."""

Seed = Annotated[int, Interval(ge=0, le=2**63 - 1)]
Side = Annotated[int, Interval(ge=1, le=8192)]
Coordinate = Annotated[int, Interval(ge=0, le=65536)]
Share = Annotated[float, Interval(gt=0, lt=1)]
NonNegative = Annotated[float, Ge(0)]
Scale = Annotated[float, Interval(ge=-LARGEST, le=LARGEST)]
PositiveScale = Annotated[float, Interval(ge=0, le=LARGEST)]


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions(Options):
    """Guidance beyond the scale. What is left out is off."""

    rescale: Annotated[float, Interval(ge=0, le=1)] | None = None
    """keep the standard deviation of the conditional prediction; 0.7 is usual (Lin et al. 2024)"""
    norm: Literal["whole", "update", "both"] | None = None
    """restore the norm of the whole prediction, the update or both; the last two need a guidance scale near 0.2"""
    end: Scale | None = None
    """guidance scale of the last step, to which it falls"""
    shape: Literal["linear", "cosine"] | None = None
    """curve to the guidance scale of the last step; linear by default"""
    interval: tuple[NonNegative, NonNegative] | None = None
    """guide only between these two noise levels, such as 0.5 10 (Kynkäänniemi et al. 2024)"""
    colour: tuple[float, float, float] | None = None
    """guide towards a colour: red, green and blue from 0 to 1"""
    colour_scale: PositiveScale | None = None
    """weight of the colour guidance; 10 by default, 30 with exact"""
    colour_low: NonNegative | None = None
    """stop the colour guidance at this noise level; 0 by default"""
    similarity: Text | None = None
    """guide towards a second text, by CLIP similarity"""
    similarity_scale: PositiveScale | None = None
    """weight of the similarity guidance; 1 by default, 3 with exact"""
    similarity_low: NonNegative | None = None
    """stop the similarity guidance at this noise level; 0 by default"""
    exact: bool = False
    """backpropagate colour and similarity through the U-Net: slower, more faithful, more memory"""

    def __post_init__(self) -> None:
        super().__post_init__()
        needs = {"shape": ("end",), "exact": ("colour", "similarity")}
        needs |= {f"{loss}_{part}": (loss,) for loss in ("colour", "similarity") for part in ("scale", "low")}
        for name, others in needs.items():
            value = getattr(self, name)
            if value not in (None, False) and all(getattr(self, other) is None for other in others):
                raise InputError(name, value, f"None unless {' or '.join(others)} is set")
        if self.rescale is not None and self.norm is not None:
            raise InputError("norm", self.norm, "None with rescale", "Use one of the two")
        if self.interval is not None and self.interval[0] >= self.interval[1]:
            raise InputError("interval", self.interval, "two noise levels, the lower one first")
        if self.colour is not None and not all(0 <= share <= 1 for share in self.colour):
            raise InputError("colour", self.colour, "red, green and blue from 0 to 1")
        if self.similarity is not None and not self.similarity.strip():
            raise InputError("similarity", self.similarity, "a text, such as 'a blue car'")


@dataclass(frozen=True, kw_only=True)
class Thresholding(Options):
    """Keep the clean estimate x0 in a range: statically, or dynamically at a quantile (Saharia et al. 2022)."""

    limit: Annotated[float, Interval(gt=0, le=LARGEST)] | None = None
    """static: clip x0 to this distance from zero"""
    ratio: Annotated[float, Interval(ge=0, le=1)] | None = None
    """dynamic: quantile of abs(x0) in each image; 0.995 is usual"""
    max_value: Annotated[float, Interval(ge=1, le=LARGEST)] | None = None
    """dynamic: largest divisor; 1 by default"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None and (self.ratio is not None or self.max_value is not None):
            raise InputError("limit", self.limit, "None with ratio or max_value", "Use one kind of thresholding")


WHOLE_RUN = (
    "num_images_per_prompt",
    "batch_size",
    "seed",
    "height",
    "width",
    "strength",
    "denoising_start",
    "denoising_end",
)
"""Options that cannot change within a run."""

MOST_BRANCHES = 64
"""Branches of branches of one request."""


@dataclass(frozen=True, repr=False)
class Latents(Options):
    """Latents as JSON: small arrays, 4 KiB for an image of 128x128, 64 KiB for one of 512x512."""

    shape: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)], Annotated[int, Ge(1)], Annotated[int, Ge(1)]]
    """images, channels, height and width"""
    data: str
    """the float32 values in base64, little-endian, the last axis first; "" where a receipt has only their hash"""
    sha256: str = ""
    """of the values, in the place of ``data``"""

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = 4 * math.prod(self.shape)
        if not self.data and self.sha256:
            return
        if len(self.data) != 4 * -(-wanted // 3):
            got = Unquoted(f"{len(self.data):,} characters")
            raise InputError("data", got, f"{4 * -(-wanted // 3):,}, base64 of {wanted:,} bytes of float32")
        try:
            size = len(base64.b64decode(self.data, validate=True))
        except (binascii.Error, ValueError):
            size = -1
        if size != wanted:
            raise InputError("data", Unquoted("other characters"), f"base64 of {wanted:,} bytes of float32")

    def __repr__(self) -> str:
        return f"Latents({list(self.shape)})"

    def row(self, index: int) -> Self:
        """Those of one image."""
        values = base64.b64decode(self.data)
        size = len(values) // self.shape[0]
        return replace(
            self, shape=(1, *self.shape[1:]), data=base64.b64encode(values[index * size :][:size]).decode(), sha256=""
        )

    def hashed(self) -> Self:
        """The same with the hash in the place of the values."""
        return replace(self, data="", sha256=hashlib.sha256(base64.b64decode(self.data)).hexdigest())

    @classmethod
    def of(cls, values: "Tensor") -> Self:
        """Those of a tensor [N,C,h,w]."""
        if values.ndim != 4:
            raise InputError("x", values, "latents of shape [N,C,h,w]")
        array = values.detach().cpu().float().contiguous().numpy().astype("<f4")
        return cls(tuple(array.shape), base64.b64encode(array.tobytes()).decode())


@dataclass(frozen=True)
class Branch(Options):
    """The first steps of another request, from which this one goes on.

    The sampler keeps its history, its noise and the noise levels above. With another sampler, other options of it, or
    another spacing, the rest is a run of its own from there.
    """

    step: Annotated[int, Interval(ge=0, le=1000)]
    """how many of its steps are kept"""
    request: "Request"
    """the other request; seeds, size, number of images, strength and batch_size may stand in either of the two"""
    x: Latents | None = None
    """latents in the place of those after these steps, such as painted ones; as many steps as there are may be kept"""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """As that of other options, for at most ``MOST_BRANCHES`` within each other."""
        depth, inner = 0, cast(object, values)
        while isinstance(inner, Mapping) and depth <= MOST_BRANCHES:
            request = inner.get("request")
            inner = request.get("branch") if isinstance(request, Mapping) else None
            depth += 1
        if depth > MOST_BRANCHES:
            raise InputError("request", Unquoted("more branches"), f"at most {MOST_BRANCHES} within each other")
        return super().from_dict(values)


@dataclass(frozen=True)
class Request(Options):
    """The options of a call that fit into JSON. What is left out is the model's preset, or off.

    ``help(diffuscope.Pipeline.steps)`` describes each of them, and ``diffuscope schema`` prints their ranges.
    """

    prompt: Annotated[Texts | None, Group("prompt")] = None
    """text of the image, or one text per image; <lora:name:0.8> applies a LoRA"""
    _: KW_ONLY
    negative_prompt: Texts | None = None
    """text to guide away from; one, or one per prompt; without one, the empty text, and zeros in SDXL"""
    prompt_syntax: Syntax = "plain"
    """how prompts are read: plain, every letter is text; or with the weights and long prompts of a1111 or comfyui"""
    clip_skip: Annotated[int, Ge(0)] = 0
    """layers of the text encoder to skip, counted from its end; AUTOMATIC1111's number minus 1"""
    num_images_per_prompt: Annotated[int, Interval(ge=1, le=1024)] = 1
    """images per prompt"""
    batch_size: Annotated[int, Interval(ge=1, le=1024)] | None = None
    """images that the networks compute at once: fewer need less memory; with 1 each is as if alone; all by default"""
    seed: Annotated[Seed | Annotated[Sequence[Seed], MinLen(1)] | None, Group("sampling")] = None
    """seed of the first image (image k has seed + k), or one per image; random by default, and in the receipt"""
    num_inference_steps: Annotated[int, Interval(ge=1, le=1000)] | None = None
    """denoising steps"""
    sampler: str | None = None
    """its name here or in another program: euler, "DPM++ 2M Karras", EulerDiscreteScheduler"""
    sampler_options: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """options of the sampler, such as eta=0.5 or s_churn=10"""
    step_caching: Annotated[int, Interval(ge=1, le=50)] = 1
    """approximate and faster: compute the U-Net's deep layers in every so-manyth call only; 1 is exact (DeepCache)"""
    token_merging: Annotated[float, Interval(ge=0, le=0.75)] = 0.0
    """approximate: share of the tokens that the finest self-attention merges; 0 is exact, 0.5 is usual (ToMe)"""
    sigmas: Spacing | Annotated[Sequence[float], MinLen(2), LEVELS] | None = None
    """noise levels of the steps: their spacing, or the levels themselves"""
    final_sigma: FinalSigma | None = None
    """last noise level: zero, or the lowest trained one; by default that of the sampler's reference implementation"""
    thresholding: Thresholding = Thresholding()
    """static or dynamic thresholding of x0"""
    guidance_scale: Annotated[Scale | None, Group("guidance")] = None
    """how closely the image follows the prompt (classifier-free guidance); 1 and 0 are off, at half the cost"""
    image_guidance_scale: Scale | None = None
    """InstructPix2Pix: guidance scale of the image, beside that of the text; 1 turns it off, 1.2 to 1.8 is usual"""
    guidance_options: GuidanceOptions = GuidanceOptions()
    """guidance beyond the scale"""
    height: Annotated[Side | None, Group("size")] = None
    """pixels, before upscaling; most models need a multiple of 8"""
    width: Side | None = None
    """pixels, before upscaling; most models need a multiple of 8"""
    upscale: Literal[1, 4] | None = None
    """upscaling factor of the output"""
    strength: Annotated[float, Interval(gt=0, le=1), Group("image input")] = 0.8
    """img2img and inpainting: share of the steps that run on the image"""
    denoising_start: Annotated[Share | None, Group("SDXL")] = None
    """refiner: share of the denoising that the base model has done; its latents are the image"""
    denoising_end: Share | None = None
    """base model: share of the denoising after which it stops, for a refiner"""
    original_size: tuple[Coordinate, Coordinate] | None = None
    """size conditioning: height and width before resizing; those of the image by default"""
    crops_coords_top_left: tuple[Coordinate, Coordinate] | None = None
    """crop conditioning: top and left; 0 and 0 by default, for a centred subject"""
    target_size: tuple[Coordinate, Coordinate] | None = None
    """size conditioning: height and width after resizing and cropping; those of the image by default"""
    branch: Annotated[Branch | None, Group("branch")] = None
    """go on from a step of another request"""

    def __post_init__(self) -> None:
        super().__post_init__()
        start, end = self.denoising_start, self.denoising_end
        if start is not None and end is not None and start >= end:
            raise InputError("denoising_start", start, f"a number below denoising_end, {end:g}")

    def branched(self, step: int, x: Latents | None = None, **changes: Any) -> Self:
        """This request with ``changes``, after the first ``step`` steps of what it is now.

        Args:
            step: how many of its steps are kept.
            x: latents in the place of those after these steps.
            changes: other options from there on. Another sampler has none of the options of this one.

        Raises:
            InputError: one of ``WHOLE_RUN``, or a value that is not possible.
        """
        for name in WHOLE_RUN:
            if name in changes:
                raise InputError(name, changes[name], "no change of it, since it holds for a whole run")
        first: Request = self
        while first.branch is not None and step <= first.branch.step:
            if step == first.branch.step:
                x = x or first.branch.x
            first = first.branch.request
        if changes.get("sampler", self.sampler) != self.sampler:
            changes = {"sampler_options": {}} | changes
        if not isinstance(changes.get("sigmas"), str | None):  # a list, whose length is the number of steps
            changes = {"num_inference_steps": None} | changes
        return replace(self, **(changes | {"branch": Branch(step, first, x)}))


def image_options() -> list[str]:
    """The names of the options that an image needs."""
    return [option.name for option in options(Request) if option.group == "image input"]
