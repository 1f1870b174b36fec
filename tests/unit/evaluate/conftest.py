"""Judges over the corpus of shapes, and a model that paints for them at once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffuscope.evaluate.judges import Judges, galleries
from diffuscope.evaluate.material import Material
from diffuscope.models.efficientnet import EfficientNet
from diffuscope.pipeline import Pipeline


@pytest.fixture(scope="session")
def material(corpus_file: Path) -> Material:
    return Material.load(corpus_file, torch.device("cpu"), size=32, processes=1)


@pytest.fixture
def judges(material: Material, teacher: EfficientNet) -> Judges:
    def letters(texts: list[str]) -> torch.Tensor:
        """Not a text encoder, but a function of the text: how often each letter stands in it."""
        return torch.tensor([[float(text.count(chr(97 + i))) for i in range(26)] for text in texts])

    tower = torch.randn(26, 1280, generator=torch.Generator().manual_seed(2))
    return Judges(material, teacher, *galleries(material, teacher), encode=letters, tower=tower)


@pytest.fixture(scope="session")
def quick(tiny: Pipeline) -> Pipeline:
    """The tiny model with one step a picture: what is measured, and how, does not depend on the number."""
    config = replace(tiny.config, preset=replace(tiny.config.preset, steps=1))
    return Pipeline(replace(tiny.components, config=config))


@pytest.fixture(scope="session")
def quick_folder(quick: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return quick.save(tmp_path_factory.mktemp("model") / "tiny", layout="own")
