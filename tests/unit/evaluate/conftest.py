"""A corpus small enough to be scored in a second: coloured shapes with names, in six styles."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffuscope.data.corpus import Corpus, Picture
from diffuscope.data.names import slug
from diffuscope.evaluate.judges import Judges, galleries
from diffuscope.evaluate.material import Material
from diffuscope.models.efficientnet import EfficientNet

STYLES = ("noto", "blob", "twemoji", "fluent 3d", "fluent flat", "emojitwo", "game icon")
THINGS = {
    "hamburger": (("burger", "food"), "#c63"),
    "cat": (("kitten", "animal"), "#fa0"),
    "frog": (("animal",), "#3a3"),
    "rocket": (("space",), "#d22"),
    "car": (("cab", "drive"), "#26c"),
    "red apple": (("fruit",), "#d22"),
    "tree": (("fir", "plant"), "#2a4"),
    "house": (("home",), "#a63"),
    "ball": (("sport",), "#93c"),
    "cup": (("drink",), "#0cd"),
    "flower": (("plant",), "#f8b"),
    "moon": (("night",), "#fd3"),
}


def svg(thing: int, style: int, fill: str) -> str:
    place = f'x="{2 + thing % 4}" y="{2 + style}" width="{18 + thing % 3}" height="{16 + thing % 5}" rx="{thing}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect {place} fill="{fill}"/></svg>'


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = [
        Picture(style, name, tags, "objects", slug(name), svg(i, j, fill))
        for i, (name, (tags, fill)) in enumerate(THINGS.items())
        for j, style in enumerate(STYLES)
    ]
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl.xz"
    Corpus(tuple(pictures)).save(path)
    return path


@pytest.fixture(scope="session")
def material(corpus_file: Path) -> Material:
    return Material.load(corpus_file, torch.device("cpu"), size=32, processes=1)


@pytest.fixture(scope="session")
def teacher() -> EfficientNet:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return EfficientNet().eval().requires_grad_(False)


@pytest.fixture(scope="session")
def teacher_file(teacher: EfficientNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(teacher.state_dict(), path)
    return path


@pytest.fixture
def judges(material: Material, teacher: EfficientNet) -> Judges:
    def letters(texts: list[str]) -> torch.Tensor:
        """Not a text encoder, but a function of the text: how often each letter stands in it."""
        return torch.tensor([[float(text.count(chr(97 + i))) for i in range(26)] for text in texts])

    tower = torch.randn(26, 1280, generator=torch.Generator().manual_seed(2))
    return Judges(material, teacher, *galleries(material, teacher), encode=letters, tower=tower)
