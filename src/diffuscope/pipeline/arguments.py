"""What a call may give in several forms, or instead of each other: prompts, size, start noise, guidance."""

from collections.abc import Callable, Sequence

from torch import Tensor

from diffuscope.config import ModelConfig
from diffuscope.errors import InputError
from diffuscope.pipeline import request as requests
from diffuscope.pipeline.request import Request
from diffuscope.pipeline.told import check_conditioning
from diffuscope.types import Conditioning, Denoiser

Guidance = Callable[[Denoiser], Denoiser]


def prompts_of(
    config: ModelConfig, prompt: str | Sequence[str] | None, conditioning: Conditioning | None
) -> tuple[str, ...]:
    """The prompts; for conditioning an empty one for each row.

    Raises:
        InputError: neither or both are given, or one that is not possible.
    """
    if conditioning is None:
        if prompt is None:
            raise InputError("neither a prompt nor conditioning is given; give one of them")
        return requests.texts(prompt, "prompt")
    if prompt is not None:
        raise InputError("both a prompt and conditioning are given; give one of them")
    return ("",) * check_conditioning(config, conditioning)


def functions_of(guidance: Guidance | Sequence[Guidance]) -> tuple[Guidance, ...]:
    """One function or several as a tuple.

    Raises:
        InputError: something else.
    """
    if not callable(guidance) and not isinstance(guidance, Sequence):
        raise InputError(f"guidance is a {type(guidance).__name__}; give functions from Denoiser to Denoiser")
    functions = (guidance,) if callable(guidance) else tuple(guidance)
    for function in functions:
        if not callable(function):
            raise InputError(f"guidance holds a {type(function).__name__}; give functions from Denoiser to Denoiser")
    return functions


def size_of(
    height: int | None, width: int | None, latents: Tensor | None, factor: int
) -> tuple[int | None, int | None]:
    """Height and width as given, or else as the start noise has them."""
    if latents is None or latents.ndim != 4:
        return height, width
    return (
        latents.shape[2] * factor if height is None else height,
        latents.shape[3] * factor if width is None else width,
    )


def check_start(image: object, denoising_start: object, mask_image: object) -> None:
    """Refuse what cannot be started from: latents go without a mask, and ``denoising_start`` wants latents.

    Raises:
        InputError: it is so.
    """
    if isinstance(image, Tensor) and mask_image is not None:
        raise InputError("a mask is given with latents as image; give the picture itself")
    if denoising_start is not None and not isinstance(image, Tensor):
        raise InputError(
            "denoising_start goes on with another model's latents; give the `latents` of its result as image"
        )


def check_tap(tap: object, request: Request) -> None:
    """Refuse a tap where exact gradients call the U-Net further times, with other rows than the run's own calls.

    Raises:
        InputError: it is so.
    """
    if tap is not None and request.guidance_options.get("exact"):
        raise InputError(
            "guidance option exact calls the U-Net beside the run's own calls, which a tap would confuse with them; "
            "leave the tap or exact out, or give diffusion.loss_guidance as guidance, with a Denoiser of your own"
        )


def start_latents(image: Tensor, request: Request, config: ModelConfig) -> Tensor:
    """[N,C,h,w] the latents that each image of the call starts from, given for each, for each prompt, or once.

    Raises:
        InputError: they have another shape than the call's, or are not finite.
    """
    factor, prompts = config.vae.factor, len(request.prompt)
    shape = (config.vae.latent_channels, request.height // factor, request.width // factor)
    if image.ndim != 4 or image.shape[1:] != shape or len(image) not in {1, prompts, request.images}:
        raise InputError(
            f"image is latents of shape {list(image.shape)}; this call starts from {[request.images, *shape]}"
        )
    if not image.isfinite().all():
        raise InputError("image is latents that are not finite; give the `latents` of a result")
    return image.repeat_interleave(request.images // len(image), dim=0)


def check_latents(latents: Tensor, request: Request, config: ModelConfig, image: object) -> None:
    """Refuse start noise that is none.

    Raises:
        InputError: it has another shape than the call's, is not finite, or comes with an image.
    """
    factor = config.vae.factor
    shape = [request.images, config.vae.latent_channels, request.height // factor, request.width // factor]
    if image is not None:
        raise InputError("both latents and an image are given to start from; give one of them")
    if list(latents.shape) != shape:
        raise InputError(f"latents have shape {list(latents.shape)}; this call starts from {shape}")
    if not latents.isfinite().all():
        raise InputError("latents are not finite; give noise of unit variance")
