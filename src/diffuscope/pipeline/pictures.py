"""The ``image`` and ``mask_image`` arguments: what each image of a call starts from, and what of it is made anew."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.images import ImageSource, ImageSources, fit_to_size, open_image

if TYPE_CHECKING:
    from diffuscope.config import ModelConfig
    from diffuscope.pipeline.request import Request

MIDDLE = 128
"""The darkest grey of a mask that counts as white."""


def check_image(config: "ModelConfig", image: object, mask_image: object) -> None:
    """Refuse a mask without a picture, and a model for inpainting without both.

    Raises:
        InputError: something is missing.
    """
    if mask_image is not None and image is None:
        raise InputError("a mask is given without a picture; give the picture as `image`")
    if config.inpaints and mask_image is None:
        raise InputError(f"{config.name!r} is a model for inpainting; give `image` and `mask_image`")


def start_images(image: ImageSources, request: "Request") -> tuple[Image.Image, ...]:
    """The picture that each image of the call starts from, RGB, of the request's size.

    Raises:
        InputError: not one picture, nor one per prompt.
        ImageError: a picture cannot be read.
    """
    opened = [
        fit_to_size(open_image(each), request.width, request.height) for each in _each(image, request, "start images")
    ]
    return _each_image(opened, request)


def mask_images(
    mask_image: ImageSources, image: ImageSources, request: "Request", factor: int
) -> tuple[Image.Image, ...]:
    """The mask of each image of the call, of the request's size: white (255) is made anew, black (0) stays.

    Raises:
        InputError: not one mask, nor one per prompt; a mask of other proportions than its picture, over which it would
            not lie; or one that is black all over, or at every ``factor``-th pixel, where the latents are.
        ImageError: a mask cannot be read.
    """
    masks, pictures = _each(mask_image, request, "masks"), _each(image, request, "start images")
    found = []
    for k in range(max(len(masks), len(pictures))):
        mask, picture = open_image(masks[k % len(masks)]), open_image(pictures[k % len(pictures)])
        if mask.width * picture.height != mask.height * picture.width:
            raise InputError(
                f"the mask is {mask.width}x{mask.height} and the picture {picture.width}x{picture.height}; "
                "give a mask of the picture's size, white where it is to be made anew"
            )
        grey = fit_to_size(mask, request.width, request.height).convert("L")
        binary = grey.point([255 * (level >= MIDDLE) for level in range(256)])
        if binary.getbbox() is None:
            raise InputError("the mask is black all over, so that nothing is made anew; paint white what is to change")
        if not np.asarray(binary)[::factor, ::factor].any():
            raise InputError(
                "the mask's white is so thin that it falls between the latents, so that nothing is made anew; "
                f"paint it at least {factor} pixels wide"
            )
        found.append(binary)
    return _each_image(found, request)


def mask_pixels(masks: Sequence[Image.Image]) -> Tensor:
    """[N,1,H,W] float32 of black and white masks: 1 where the picture is made anew, 0 where it stays."""
    array = np.stack([np.asarray(mask) for mask in masks])
    return torch.from_numpy(array).gt(0).float()[:, None]


def _each(given: ImageSources, request: "Request", what: str) -> list[ImageSource]:
    pictures = [*given] if isinstance(given, list | tuple) else [given]
    prompts = len(request.prompt)
    if len(pictures) not in {1, prompts}:
        raise InputError(f"{len(pictures)} {what} for {prompts} prompts; give one, or one for each prompt")
    return pictures


def _each_image(pictures: Sequence[Image.Image], request: "Request") -> tuple[Image.Image, ...]:
    """One for each prompt as one for each image."""
    return tuple(pictures[k // request.num_images_per_prompt % len(pictures)] for k in range(request.images))
