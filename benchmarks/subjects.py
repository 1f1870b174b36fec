"""Pictures of things that no model has seen, drawn with code: subjects for ``teach.py`` and for the documentation."""

from PIL import Image, ImageDraw

SIDE, SCALE = 512, 4


def snail() -> Image.Image:
    """A violet snail whose yellow shell has a red spiral of squares; white background."""
    image, pen = _blank()
    pen.rounded_rectangle(_scaled(60, 350, 430, 425), 36 * SCALE, fill="#7b4fc9")
    pen.polygon(_scaled(380, 350, 480, 425, 380, 425), fill="#7b4fc9")
    pen.rounded_rectangle(_scaled(58, 190, 142, 420), 40 * SCALE, fill="#7b4fc9")
    for x, tilt in ((78, -22), (122, 16)):
        pen.line(_scaled(x, 220, x + tilt, 120), fill="#5c35a3", width=13 * SCALE)
        pen.ellipse(_scaled(x + tilt - 19, 92, x + tilt + 19, 130), fill="#2a2140")
    pen.ellipse(_scaled(72, 240, 100, 268), fill="white")
    pen.ellipse(_scaled(78, 246, 94, 262), fill="#2a2140")
    pen.arc(_scaled(66, 270, 116, 316), 20, 130, fill="#2a2140", width=8 * SCALE)
    pen.ellipse(_scaled(170, 120, 430, 380), fill="#ffc83d")
    for inset in (0, 36):
        box = _scaled(214 + inset, 164 + inset, 386 - inset, 336 - inset)
        pen.rounded_rectangle(box, 26 * SCALE, outline="#e5322d", width=17 * SCALE)
    pen.ellipse(_scaled(282, 232, 318, 268), fill="#e5322d")
    return _finished(image)


def mug() -> Image.Image:
    """A turquoise mug with one eye, a yellow zigzag and an orange handle; white background."""
    image, pen = _blank()
    pen.ellipse(_scaled(320, 190, 470, 350), outline="#ff8c1a", width=34 * SCALE)
    pen.rounded_rectangle(_scaled(80, 110, 390, 440), 60 * SCALE, fill="#12b5b0")
    pen.rectangle(_scaled(80, 110, 390, 190), fill="#12b5b0")
    pen.ellipse(_scaled(80, 80, 390, 150), fill="#0a7f7c")
    zigzag = [point for k in range(9) for point in (90 + k * 36, 360 if k % 2 else 400)]
    pen.line(_scaled(*zigzag), fill="#ffd93b", width=20 * SCALE, joint="curve")
    pen.ellipse(_scaled(170, 185, 300, 315), fill="white")
    pen.ellipse(_scaled(208, 222, 264, 278), fill="#1d1d2b")
    pen.ellipse(_scaled(238, 228, 256, 246), fill="white")
    return _finished(image)


def _blank() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), "white")
    return image, ImageDraw.Draw(image)


def _scaled(*numbers: float) -> list[float]:
    return [number * SCALE for number in numbers]


def _finished(image: Image.Image) -> Image.Image:
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
