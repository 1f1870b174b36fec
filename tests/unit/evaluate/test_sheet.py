import numpy as np
import pytest
from PIL import Image

from diffuscope.errors import InputError
from diffuscope.evaluate.sheet import PROMPTS, contact_sheet, wrapped


def test_there_are_64_different_prompts():
    assert len(set(PROMPTS)) == len(PROMPTS) == 64


def test_every_picture_stands_above_its_caption():
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    sheet = contact_sheet(pictures, ["a red fox", "green", "blue"], columns=2)
    assert sheet.size == (2 * 208 + 16, 2 * (192 + 38 + 16) + 16)
    assert sheet.getpixel((100, 100)) == (255, 0, 0)
    assert sheet.getpixel((300, 100)) == (0, 255, 0)
    assert sheet.getpixel((100, 400)) == (0, 0, 255)
    under = np.asarray(sheet)[16 + 192 : 16 + 192 + 38, 16:208]
    assert under.min() < 128
    assert (np.asarray(sheet)[:, :16] == 255).all()


def test_words_wrap_and_stay():
    lines = wrapped("a blue bird on a green background", len, 12)
    assert lines == ["a blue bird", "on a green", "background"]
    assert " ".join(wrapped("one verylongwordindeed two", len, 5)) == "one verylongwordindeed two"
    assert wrapped("", len, 5) == []


def test_one_caption_for_each_picture():
    with pytest.raises(InputError, match="1 pictures, 2 captions"):
        contact_sheet([Image.new("RGB", (8, 8))], ["a", "b"])
    with pytest.raises(InputError, match="0 pictures"):
        contact_sheet([], [])
