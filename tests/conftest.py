"""A whole model small enough to run in every test: our TINY config, random weights, CLIP's own vocabulary."""

from pathlib import Path

import pytest
import torch

from diffuscope.config import TINY
from diffuscope.loading import Components
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline


def pytest_configure() -> None:
    torch.set_num_threads(1)  # tests run side by side; and results must not depend on how many cores there are


@pytest.fixture(scope="session")
def tiny() -> Pipeline:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {
            "text_encoder": TextEncoder(TINY.text_encoder),
            "unet": UNet(TINY.unet),
            "vae": VAE(TINY.vae),
        }
    for network in networks.values():
        network.eval().requires_grad_(False)
    return Pipeline(Components(config=TINY, tokenizer=Tokenizer(), **networks))


@pytest.fixture(scope="session")
def tiny_folder(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in our layout. Not to be written to."""
    return tiny.save(tmp_path_factory.mktemp("model") / "tiny", layout="own")
