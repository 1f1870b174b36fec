"""Image files to RGB images, these to pixels [B,3,H,W] in [-1, 1] and back, and PNG with text chunks."""

import hashlib
import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from diffuscope.config import MAX_PIXELS
from diffuscope.errors import ImageError, InputError, Unquoted
from diffuscope.output import check_output, replacing

FORMATS = ("PNG", "JPEG", "WEBP")
"""What is read. Every other decoder would be one more way in for a hostile file."""

MAX_BYTES = 1 << 30
"""Longer files are refused; an image of that many pixels has a third."""

ImageSource = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]
"""A path, a file's bytes, an image, or an array [H,W,3] of uint8 or of floats from 0 to 1."""

ImageSources = ImageSource | list[ImageSource] | tuple[ImageSource, ...]
"""One or several; an array [N,H,W,3] is several."""


def listed(sources: ImageSources) -> list[ImageSource]:
    """One image or several as a list."""
    if isinstance(sources, list | tuple) or (isinstance(sources, np.ndarray) and sources.ndim == 4):
        return [*sources]
    return [sources]


def open_image(source: ImageSource, argument: str = "image") -> Image.Image:
    """A copy as RGB: turned as its EXIF orientation says, transparency over white.

    Args:
        source: a path, the bytes of a file, an image, or an array.
        argument: its name in an InputError.

    Raises:
        ImageError: no such file, not a whole PNG, JPEG or WebP, or more than ``MAX_PIXELS`` pixels.
        InputError: something else, or an array of another shape, type or range.
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source, argument)
    if isinstance(source, Image.Image):
        return _rgb(_limited(source, "the image"))
    if not isinstance(source, str | bytes | os.PathLike):
        raise InputError(argument, source, "a path, the bytes of a file, a PIL image, or an array [H,W,3]")
    name = "the image" if isinstance(source, bytes) else f"{Path(source)}"
    try:
        with warnings.catch_warnings(), io.BytesIO(source) if isinstance(source, bytes) else _opened(source) as file:
            warnings.simplefilter("ignore", UserWarning)  # of damaged EXIF
            with Image.open(file, formats=FORMATS) as image:
                return _rgb(_limited(image, name))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, "more pixels") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file; give the path of a PNG, JPEG or WebP image") from error
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is no image; give a file in one of {', '.join(FORMATS)}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise ImageError(
            f"{name} cannot be read as an image ({error}); give a whole file in one of {', '.join(FORMATS)}"
        ) from error


def _from_array(array: NDArray[Any], argument: str) -> Image.Image:
    """An image of an array: whole numbers from 0 to 255, or floats from 0 to 1, as other programs have them."""
    want = "an array [H,W], [H,W,1], [H,W,3] or [H,W,4] of uint8, or of floats from 0 to 1"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise InputError(argument, array, want)
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise _too_large("the array", f"{array.shape[0] * array.shape[1]:,} pixels")
    if np.issubdtype(array.dtype, np.floating):
        if not ((array >= 0) & (array <= 1)).all():
            raise InputError(argument, Unquoted(f"an array from {array.min():g} to {array.max():g}"), want)
        array = (array * 255).round().astype(np.uint8)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8:
        raise InputError(argument, Unquoted(f"an array of {array.dtype}"), want)
    return Image.fromarray(np.ascontiguousarray(array))


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    check_file(path)
    return Path(path).open("rb")  # PIL leaves it open where it refuses it


def check_file(path: str | os.PathLike[str]) -> None:
    """ImageError for what is no file, such as a pipe, which would wait for ever, or is too long to be an image."""
    status = Path(path).stat()
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{Path(path)} is a folder; give the path of an image")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{Path(path)} is no regular file; give the path of an image")
    if status.st_size > MAX_BYTES:
        raise ImageError(f"{Path(path)} has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read")


def _limited(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, f"{image.width}x{image.height} = {image.width * image.height:,} pixels")
    return image


def _too_large(name: str, size: str) -> ImageError:
    return ImageError(f"{name} has {size}; at most {MAX_PIXELS:,} are decoded. Make it smaller first")


def _rgb(image: Image.Image) -> Image.Image:
    image = _upright(image)
    if not image.mode.startswith("I") and not image.has_transparency_data:
        return image.convert("RGB")
    finished = Image.new("RGB", image.size)
    for top in range(0, image.height, _ROWS):
        part = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
        finished.paste(_eight_bits(part) if image.mode.startswith("I") else _over_white(part), (0, top))
    return finished


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says; as it is, where its EXIF is damaged, of which PIL's parser raises anything."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


_ROWS = 256
"""Rows that are converted at once, since the steps between take several times the memory of the result."""


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits, where PIL would clip."""
    grey = np.asarray(image).clip(0, 65535).astype(np.uint32)
    return Image.fromarray(((2 * grey + 257) // 514).astype(np.uint8))  # grey / 257, to the nearest


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def fit_to_size(image: Image.Image, width: int, height: int) -> Image.Image:
    """The image scaled to cover ``width`` x ``height`` (Lanczos) and cropped to it around the centre."""
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """[B,3,H,W] float32 pixels in [-1, 1] of images of one size."""
    sizes = {image.size for image in images}
    if len(sizes) != 1:
        got = Unquoted(f"sizes {sorted(sizes)}")
        raise InputError("images", got, "at least one image, all of one size", "Scale them with fit_to_size.")
    array = np.stack([np.asarray(image.convert("RGB")) for image in images])  # [B,H,W,3]
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """RGB images of pixels [B,3,H,W] in [-1, 1]; values beyond are clipped. Pixels must be finite."""
    array = pixels.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(image) for image in array.permute(0, 2, 3, 1).cpu().numpy()]


def image_hash(image: Image.Image) -> str:
    """SHA-256 of size and RGB pixels, in hex: equal for every file with the same pixels."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()


def tiled(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Images of one size in rows, on white; a single one as it is."""
    if len(images) == 1:
        return images[0]
    width, height = images[0].size
    columns = min(columns, len(images))
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for k, image in enumerate(images):
        sheet.paste(image, (k % columns * width, k // columns * height))
    return sheet


def write_png(
    path: str | os.PathLike[str],
    image: Image.Image,
    texts: Mapping[str, str] | None = None,
    *,
    overwrite: bool = True,
) -> Path:
    """Write a PNG with text chunks, and return its path. The file appears whole or not at all.

    Raises:
        InputError: the name does not end in .png.
        OutputError: no such folder, no permission, no space.
        FileExistsError: the file is there, without ``overwrite``.
    """
    path = check_output(path)
    content = png_bytes(image, texts)
    with replacing(path, overwrite=overwrite) as part:
        part.write_bytes(content)
    return path


def png_bytes(image: Image.Image, texts: Mapping[str, str] | None = None) -> bytes:
    """An image as the bytes of a PNG file, with text chunks."""
    chunks, content = PngInfo(), io.BytesIO()
    for key, text in (texts or {}).items():
        chunks.add_text(key, _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text))
    image.save(content, format="PNG", pnginfo=chunks, compress_type=zlib.Z_RLE)  # a third of the time, 0 to 4% larger
    return content.getvalue()


_UNWRITABLE = re.compile(r"[\0\ud800-\udfff]")
"""What no text chunk can hold: zero bytes, and the surrogates of file names that are not UTF-8."""
