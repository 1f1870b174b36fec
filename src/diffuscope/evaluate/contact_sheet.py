"""A contact sheet: fixed prompts and seeds, no image selected by hand."""

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont

from diffuscope.errors import InputError, Unquoted
from diffuscope.pipeline import Pipeline

SEED = 32
"""Of the first image; image i has seed 32 + i."""

PROMPTS = (
    # plain
    "a red fox", "a cat", "a rocket", "a pizza", "a house", "an octopus", "a guitar", "a sunflower",
    "an owl", "a bicycle", "a hamburger", "a crown", "a snowman", "a sailboat", "a mushroom", "a dragon",
    # styles
    "a dog face, noto style", "a dog face, twemoji style", "a dog face, fluent 3d style", "a dog face, blob style",
    "a dog face, emojitwo style", "a dog face, firefox style", "a dog face, streamline style",
    "a wolf, game icon style", "a strawberry, fluent flat style", "a camera, line icon style",
    "a tiger, noto style", "a castle, fluent 3d style",
    # colours
    "a blue apple", "a purple frog", "a green car", "a pink elephant", "a yellow umbrella", "an orange whale",
    "a red penguin", "a cyan turtle", "a brown balloon", "a black rabbit",
    # backgrounds, and colours on them
    "a lemon on a blue background", "a ghost on a purple background", "a penguin on an orange background",
    "a cactus on a pink background", "a green apple on a yellow background", "a red car on a cyan background",
    "a blue bird on a green background", "a pink pig on a black background", "a yellow star on a red background",
    "a purple butterfly on a gray background",
    # two things, and several
    "a cat and a dog side by side", "a sun above a mountain", "a red apple and a green apple side by side",
    "a mouse on the left of a cheese wedge", "two cherries", "three balloons", "four blue fish", "two foxes",
    # size and place
    "a tiny bee in the middle", "a huge heart", "a tiny airplane in the top right corner",
    # words known from tags alone
    "a puppy", "a kitten", "a burger", "a rhino", "a sneaker",
)  # fmt: skip
"""The 64 prompts of the sheet in the README, chosen before there was a model."""

_COLUMNS = 8
_SIDE = 192
_GAP = 16
_TEXT = 15
_LINE = 19
_LINES = 2
_INK = (60, 60, 67)


def contact_sheet(images: Sequence[Image.Image], captions: Sequence[str], columns: int = _COLUMNS) -> Image.Image:
    """The images in rows, each above its caption, on white."""
    if not images:
        raise InputError("images", Unquoted("none"), "at least one")
    if len(images) != len(captions):
        raise InputError("captions", Unquoted(f"{len(captions)} captions"), f"one for each of {len(images)} images")
    font = ImageFont.load_default(_TEXT)
    wide, high = _SIDE + _GAP, _SIDE + _LINES * _LINE + _GAP
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * wide + _GAP, rows * high + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = _GAP + i % columns * wide, _GAP + i // columns * high
        sheet.paste(image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (left, top))
        for line, text in enumerate(wrap(caption, lambda text: pen.textlength(text, font), _SIDE)[:_LINES]):
            middle = left + _SIDE / 2
            pen.text((middle, top + _SIDE + 4 + line * _LINE), text, fill=_INK, font=font, anchor="ma")
    return sheet


def wrap(text: str, length: Callable[[str], float], width: float) -> list[str]:
    """``text`` as lines of at most ``width``, broken between words; a longer word gets its own line."""
    lines: list[str] = []
    for word in text.split():
        if lines and length(f"{lines[-1]} {word}") <= width:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(word)
    return lines


def generate_sheet(pipe: Pipeline, prompts: Sequence[str] = PROMPTS, seed: int = SEED) -> Image.Image:
    """The contact sheet of a model at its preset, upscaled; image i has the seed ``seed + i``."""
    return contact_sheet(pipe(list(prompts), seed=seed).images, prompts)
