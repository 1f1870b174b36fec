"""Pictures of a request: read, brought to the size of the generation, and what is put back around a masked area."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from diffuscope.errors import InputError, Unquoted
from diffuscope.images import fit_to_size
from diffuscope.serve.http.a1111.table import number, whole
from diffuscope.serve.http.fill import filled
from diffuscope.serve.http.inputs import Source, decoded
from diffuscope.serve.http.pictures import opened


def source(known: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[Source, tuple[int, int]]:
    """The pictures of a request, and the size of the answer; by default that of the picture.

    Raises:
        InputError: names the key.
    """
    images = known.get("init_images")
    if not isinstance(images, list) or len(images) != 1:
        got = Unquoted(f"{len(images)} pictures" if isinstance(images, list) else "none")
        raise InputError("init_images", got, "one picture")
    image = opened(decoded(images[0], "init_images"), "init_images")
    size = size or image.size
    mode = whole(known, "resize_mode", 0)
    if mode not in (0, 1, 2):
        raise InputError("resize_mode", mode, "0, 1 or 2: stretched, cropped or filled")
    if known.get("mask") is None:
        return Source(_resized(image, size, mode)), size
    mask = _mask(known, image.size)
    blur = number(known, "mask_blur", 4)
    if not 0 <= blur <= 256:
        raise InputError("mask_blur", blur, "a number from 0 to 256")
    soft = mask.filter(ImageFilter.GaussianBlur(blur))
    fill = whole(known, "inpainting_fill", 0)
    if fill not in (0, 1):
        raise InputError("inpainting_fill", fill, "0, the colours around, or 1, the picture")
    if known.get("inpaint_full_res", True) not in (False, 0):
        box = _box(soft, whole(known, "inpaint_full_res_padding", 0), size, image.size)
        inside, area = image.crop(box), mask.crop(box)
        return Source(filled(inside, area) if fill == 0 else inside, area, image, soft, box), image.size
    image, mask, soft = (_resized(each, size, mode) for each in (image, mask, soft))
    return Source(filled(image, mask) if fill == 0 else image, mask, image, soft), size


def _mask(known: Mapping[str, Any], size: tuple[int, int]) -> Image.Image:
    """The mask, white where something is generated; of a picture with transparency what can be seen of it."""
    content = decoded(known["mask"], "mask")
    alpha = opened(content, "mask", mode="RGBA").getchannel("A")
    mask = opened(content, "mask", mode="L") if alpha.getextrema()[0] == 255 else alpha
    mask = mask.resize(size, Image.Resampling.NEAREST)
    mask = ImageOps.invert(mask) if whole(known, "inpainting_mask_invert", 0) else mask
    return mask.point(lambda grey: 255 * (grey > 127))


def _box(mask: Image.Image, padding: int, size: tuple[int, int], limit: tuple[int, int]) -> tuple[int, int, int, int]:
    """The masked area with padding, grown to the aspect ratio of ``size`` as far as the picture goes."""
    found = mask.getbbox()
    if found is None:
        raise InputError("mask", Unquoted("no white area"), "a mask with a white area")
    left, top, right, bottom = found[0] - padding, found[1] - padding, found[2] + padding, found[3] + padding
    width, height = right - left, bottom - top
    wide, high = max(width, round(height * size[0] / size[1])), max(height, round(width * size[1] / size[0]))
    left, right = _within(left - (wide - width) // 2, wide, limit[0])
    top, bottom = _within(top - (high - height) // 2, high, limit[1])
    return left, top, right, bottom


def _within(start: int, length: int, limit: int) -> tuple[int, int]:
    length = min(length, limit)
    start = min(max(start, 0), limit - length)
    return start, start + length


def _resized(image: Image.Image, size: tuple[int, int], mode: int) -> Image.Image:
    """Stretched (0), scaled to cover and cropped (1), or scaled to fit and filled with its border (2)."""
    if image.size == size:
        return image
    if mode == 0:
        return image.resize(size, Image.Resampling.LANCZOS)
    if mode == 1:
        return fit_to_size(image, *size)
    inside = ImageOps.contain(image, size, Image.Resampling.LANCZOS)
    left, top = (size[0] - inside.width) // 2, (size[1] - inside.height) // 2
    right, bottom = size[0] - inside.width - left, size[1] - inside.height - top
    array = np.asarray(inside)
    around = ((top, bottom), (left, right), (0, 0))[: array.ndim]
    return Image.fromarray(np.pad(array, around, mode="edge"))
