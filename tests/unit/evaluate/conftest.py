"""A scorer over the corpus of shapes."""

from pathlib import Path

import pytest
import torch

from diffuscope.evaluate.eval_data import EvalData
from diffuscope.evaluate.scorer import Scorer, galleries
from diffuscope.vision.efficientnet import EfficientNet


@pytest.fixture(scope="session")
def data(corpus_file: Path) -> EvalData:
    return EvalData.load(corpus_file, torch.device("cpu"), size=32, processes=1)


@pytest.fixture(scope="session")
def scorer(data: EvalData, feature_net: EfficientNet) -> Scorer:
    def letters(texts: list[str]) -> torch.Tensor:
        """Not a text encoder, but a function of the text: how often each letter stands in it."""
        return torch.tensor([[float(text.count(chr(97 + i))) for i in range(26)] for text in texts])

    projection = torch.randn(26, 1280, generator=torch.Generator().manual_seed(2))
    return Scorer(data, feature_net, *galleries(data, feature_net), encode_texts=letters, projection=projection)
