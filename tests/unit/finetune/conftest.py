"""Pictures to learn from, small enough for the tiny model."""

from pathlib import Path

import pytest
from PIL import Image, ImageDraw


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two pictures without captions. Not to be written to."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in (("a", "purple"), ("b", "orange")):
        image = Image.new("RGB", (40, 40), "white")
        ImageDraw.Draw(image).ellipse((8, 4, 34, 30), fill=colour)
        image.save(folder / f"{name}.png")
    return folder
