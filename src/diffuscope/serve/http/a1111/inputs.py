"""Pictures of a request: read, brought to the size of the generation, and what is put back around a masked area."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from diffuscope.errors import InputError, Unquoted
from diffuscope.images import fit_to_size
from diffuscope.serve.http.a1111.table import number, whole
from diffuscope.serve.http.fill import filled
from diffuscope.serve.http.pictures import opened

WANTED = "base64 of a PNG, JPEG or WebP file; no address is fetched"


@dataclass(frozen=True)
class Source:
    """The picture of an img2img request, and its masked area."""

    image: Image.Image
    """RGB, what the model gets."""
    mask: Image.Image | None = None
    """Mode "L", of its size."""
    around: Image.Image | None = None
    """What is kept outside the masked area, in the size of the answer."""
    blend: Image.Image | None = None
    """Mode "L", of its size: how much of the generation is seen."""
    box: tuple[int, int, int, int] | None = None
    """The part of ``around`` that is generated; all of it by default."""

    def finished(self, image: Image.Image) -> Image.Image:
        """The generation, put into what is kept around the masked area."""
        if self.around is None or self.blend is None:
            return image
        box = self.box or (0, 0, *self.around.size)
        whole_image = self.around.copy()
        whole_image.paste(fit_to_size(image, box[2] - box[0], box[3] - box[1]), box[:2])
        return Image.composite(whole_image, self.around, self.blend)


def decoded(value: object, argument: str) -> bytes:
    """The bytes of a base64 text, which may be a data URL.

    Raises:
        InputError: it is none, or an address.
    """
    if not isinstance(value, str) or value[:5].lower() in ("http:", "https", "file:"):
        raise InputError(argument, Unquoted("something else"), WANTED)
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InputError(argument, Unquoted("other characters"), WANTED) from None


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
