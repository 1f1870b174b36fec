"""Twelve colour words and the constants of OKLab, for code that needs no tensors."""

COLOURS = {
    "red": (222, 45, 38),
    "orange": (250, 140, 22),
    "yellow": (253, 216, 53),
    "green": (67, 160, 71),
    "cyan": (38, 198, 218),
    "blue": (30, 100, 230),
    "purple": (142, 56, 190),
    "pink": (244, 130, 180),
    "brown": (121, 85, 61),
    "black": (33, 33, 33),
    "white": (250, 250, 250),
    "gray": (150, 150, 150),
}
"""Colour word -> sRGB, 0 to 255."""

COLOUR_WORDS = tuple(COLOURS)

MIN_SHARE = 0.25
"""Share of a picture's area that a colour needs to be dominant, and the picture recolourable."""

TO_CONE = ((0.4122214708, 0.5363325363, 0.0514459929),
           (0.2119034982, 0.6806995451, 0.1073969566),
           (0.0883024619, 0.2817188376, 0.6299787005))  # fmt: skip
"""Linear sRGB to cone responses (Ottosson 2020)."""

TO_LAB = ((0.2104542553, 0.7936177850, -0.0040720468),
          (1.9779984951, -2.4285922050, 0.4505937099),
          (0.0259040371, 0.7827717662, -0.8086757660))  # fmt: skip
"""Cube roots of cone responses to OKLab."""


def oklab(red: int, green: int, blue: int) -> tuple[float, float, float]:
    """OKLab of one sRGB colour, 0 to 255. ``colours.oklab`` is the same for tensors."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red / 255, green / 255, blue / 255)]
    roots = [sum(m * c for m, c in zip(row, linear, strict=True)) ** (1 / 3) for row in TO_CONE]
    light, a, b = (sum(m * c for m, c in zip(row, roots, strict=True)) for row in TO_LAB)
    return light, a, b
