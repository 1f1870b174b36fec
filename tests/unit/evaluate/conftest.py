"""Judges over the corpus of shapes."""

from pathlib import Path

import pytest
import torch

from diffuscope.evaluate.judges import Judges, galleries
from diffuscope.evaluate.material import Material
from diffuscope.models.efficientnet import EfficientNet


@pytest.fixture(scope="session")
def material(corpus_file: Path) -> Material:
    return Material.load(corpus_file, torch.device("cpu"), size=32, processes=1)


@pytest.fixture
def judges(material: Material, feature_net: EfficientNet) -> Judges:
    def letters(texts: list[str]) -> torch.Tensor:
        """Not a text encoder, but a function of the text: how often each letter stands in it."""
        return torch.tensor([[float(text.count(chr(97 + i))) for i in range(26)] for text in texts])

    tower = torch.randn(26, 1280, generator=torch.Generator().manual_seed(2))
    return Judges(material, feature_net, *galleries(material, feature_net), encode=letters, tower=tower)
