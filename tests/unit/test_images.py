"""Images in: modes, transparency, orientation, limits. Images out: whole files with their text chunks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from diffuscope import images
from diffuscope.errors import ImageError
from diffuscope.images import fit_to_size, image_hash, open_image, to_images, to_pixels, write_png
from diffuscope.metadata import read_texts
from refusals import refused


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "PA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = Image.new("RGB", (4, 4), "white").convert("RGBA" if mode == "PA" else "RGB")
    picture = Image.new("I;16", (4, 4), 65535) if mode == "I;16" else picture.convert(mode)
    rgb = open_image(picture)
    assert rgb.mode == "RGB"
    assert rgb.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("argument", ["image", "mask_image"])
@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.full((8, 8, 3), 1.5),
        np.full((8, 8, 3), np.nan),
        np.zeros((8, 8, 3), np.int64),
        np.zeros(8, np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_an_array_that_is_no_image_is_refused_under_the_name_of_its_argument(argument: str, array) -> None:
    with refused(argument):
        open_image(array, argument)


def test_an_array_is_the_image_that_it_was_made_from() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    wanted = Image.fromarray(pixels)
    for array in (pixels, pixels / 255, (pixels / 255).astype(np.float32), pixels[::-1][::-1]):
        assert open_image(array).tobytes() == wanted.tobytes()
    grey = pixels[:, :, 0]
    for array in (grey, grey[:, :, None], grey / 255):
        assert open_image(array).tobytes() == Image.fromarray(grey).convert("RGB").tobytes()
    assert open_image(grey > 127).getextrema() == ((0, 255),) * 3
    clear = np.concatenate([pixels, np.zeros((6, 4, 1), np.uint8)], axis=2)
    assert open_image(clear).getextrema() == ((255, 255),) * 3


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 128 * 257, 65535]], dtype=np.uint16)).save(tmp_path / "grey.png")
    assert np.asarray(open_image(tmp_path / "grey.png"))[0, :, 0].tolist() == [0, 128, 255]


def test_large_images_are_converted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every grey of 16 bits, every transparency, and palettes, as at once."""
    grey = Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256))
    clear = Image.merge("RGBA", [Image.linear_gradient("L").rotate(90 * k) for k in range(4)])
    palette = clear.quantize(64)
    for picture in (grey, clear, palette, clear.convert("LA")):
        monkeypatch.setattr(images, "_ROWS", 1000)
        whole = open_image(picture)
        monkeypatch.setattr(images, "_ROWS", 7)
        assert open_image(picture).tobytes() == whole.tobytes()
    rounded = (np.arange(65536) / 257).round().astype(np.uint8)
    assert np.asarray(open_image(grey))[..., 0].ravel().tolist() == rounded.tolist()


def test_transparent_parts_are_over_white() -> None:
    picture = Image.new("RGBA", (3, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (255, 0, 0, 255))
    picture.putpixel((2, 0), (0, 0, 0, 51))
    assert [open_image(picture).getpixel((x, 0)) for x in range(3)] == [(255, 255, 255), (255, 0, 0), (204, 204, 204)]
    assert picture.mode == "RGBA"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_is_applied(tmp_path: Path, format: str) -> None:
    picture = Image.new("RGB", (32, 16), "black")
    picture.paste("white", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to be upright
    path = tmp_path / "turned"
    picture.save(path, format=format, exif=exif)
    upright = open_image(path)
    assert upright.size == (16, 32)
    assert upright.getpixel((8, 4))[0] > 200
    assert upright.getpixel((8, 28))[0] < 50
    assert image_hash(upright) == image_hash(open_image(path.read_bytes()))


def test_a_truncated_file_is_an_error_or_the_whole_picture(tmp_path: Path) -> None:
    """The last pixel comes before the last byte: what follows it are checksums and the end mark."""
    picture = Image.effect_noise((8, 8), 50).convert("RGB")
    whole = write_png(tmp_path / "a.png", picture, {"key": "text"}).read_bytes()
    refused = 0
    for length in range(len(whole)):
        try:
            assert open_image(whole[:length]).tobytes() == picture.tobytes()
        except ImageError:
            refused += 1
    assert refused > len(whole) - 40


def test_pixels_and_back_is_exact() -> None:
    picture = Image.effect_noise((7, 5), 80).convert("RGB")
    pixels = to_pixels([picture, picture])
    assert pixels.shape == (2, 3, 5, 7)
    assert pixels.dtype == torch.float32
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    assert all(image.tobytes() == picture.tobytes() for image in to_images(pixels))
    assert to_images(torch.tensor([-9.0, 0.0, 9.0]).reshape(1, 3, 1, 1))[0].getpixel((0, 0)) == (0, 128, 255)


def test_fitted_covers_and_cuts_the_middle() -> None:
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste("white", (10, 0, 30, 20))
    assert fit_to_size(picture, 20, 20).getextrema() == ((255, 255),) * 3
    assert fit_to_size(picture, 40, 20) is picture


@pytest.mark.parametrize("text", ["plain", "lines\nand\ttabs", "狐 \N{FOX FACE}", "", "a\0b", "x" * 200_000])
def test_texts_come_back(tmp_path: Path, text: str) -> None:
    path = write_png(tmp_path / "a.png", Image.new("RGB", (2, 2)), {"parameters": text})
    assert read_texts(path).texts == {"parameters": text.replace("\0", "\N{REPLACEMENT CHARACTER}")}


def test_the_hash_is_of_what_is_seen(tmp_path: Path) -> None:
    picture = Image.effect_noise((8, 8), 50).convert("RGB")
    path = write_png(tmp_path / "a.png", picture, {"parameters": "text"})
    picture.save(tmp_path / "a.webp", lossless=True)
    assert image_hash(open_image(path)) == image_hash(picture) == image_hash(open_image(tmp_path / "a.webp"))
    assert image_hash(Image.new("RGB", (4, 2))) != image_hash(Image.new("RGB", (2, 4)))


def test_a_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    path = write_png(tmp_path / "a.png", Image.new("RGB", (2, 2)))
    assert path.stat().st_mode == plain.stat().st_mode
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.png", "plain"]


def test_truncated_pictures_are_not_filled_up():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
