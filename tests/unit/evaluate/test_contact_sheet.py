import numpy as np
from PIL import Image

from diffuscope.evaluate.contact_sheet import PROMPTS, contact_sheet, wrap
from refusals import refused


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
    lines = wrap("a blue bird on a green background", len, 12)
    assert lines == ["a blue bird", "on a green", "background"]
    assert " ".join(wrap("one verylongwordindeed two", len, 5)) == "one verylongwordindeed two"
    assert wrap("", len, 5) == []


def test_one_caption_for_each_picture():
    with refused("captions"):
        contact_sheet([Image.new("RGB", (8, 8))], ["a", "b"])
    with refused("images"):
        contact_sheet([], [])
