"""A whole model and a whole corpus, small enough for every test: TINY with random weights, shapes with names."""

import diffuscope  # noqa: F401  # isort: skip (before torch: threads that wait shall sleep, as other programs run here)

import gc
import os
import random
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.font_manager  # noqa: F401 (writes its list of fonts now, and no process of a test speaks of it)
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from safetensors.torch import save_file

from diffuscope.config import TINY
from diffuscope.data.corpus import Corpus, Picture
from diffuscope.data.names import slug
from diffuscope.diffusion import samplers
from diffuscope.loading import Components
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline
from diffuscope.vision.efficientnet import EfficientNet

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


def pytest_configure() -> None:
    gc.disable()  # until the tests are collected: modules are no garbage
    os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach a network, nor wait for one; read when the hub is imported
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run in Python, on the CPU; read when triton is imported
    torch.set_num_threads(1)  # tests run side by side; and results must not depend on how many cores there are
    # The same examples everywhere, however long each takes.
    ours = settings(derandomize=True, database=None, deadline=None, suppress_health_check=[*HealthCheck])
    settings.register_profile("diffuscope", ours)
    settings.load_profile("diffuscope")


def pytest_sessionstart(session: pytest.Session) -> None:
    """What a process of tests tells the one that counts failures goes out at once: it waited 40 ms for more to send."""
    if link := getattr(getattr(session.config, "failures_db", None), "sock", None):  # of pytest-rerunfailures, with -n
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first: at the end no process waits long for the other."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    gc.set_threshold(20_000, 10, 10)  # of 700: a test makes many objects and few circles of them
    gc.enable()


def pytest_fixture_setup() -> None:
    _seed()


def pytest_runtest_call() -> None:
    _seed()


def _seed() -> None:
    """Who names no seed draws the same numbers, whatever has run before: the order of the tests is none."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (of those libraries that draw from it)
    torch.manual_seed(0)


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


@pytest.fixture
def registry() -> Iterator[None]:
    """What a test registers as a sampler is gone after it."""
    tables = (samplers.TABLE, samplers.SAMPLERS)
    kept = [dict(table) for table in tables]
    yield
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)


@pytest.fixture(scope="session")
def tiny_folder(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in our layout. Not to be written to."""
    return tiny.save(tmp_path_factory.mktemp("model") / "tiny", layout="own")


@pytest.fixture(scope="session")
def diffusers_folder(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in diffusers' layout. Not to be written to."""
    return tiny.save(tmp_path_factory.mktemp("model") / "tiny", layout="diffusers")


@pytest.fixture
def folder(diffusers_folder: Path, tmp_path: Path) -> Path:
    """A copy of it for one test, to be changed."""
    return shutil.copytree(diffusers_folder, tmp_path / "model")


@pytest.fixture(scope="session")
def quick(tiny: Pipeline) -> Pipeline:
    """The tiny model with one step a picture: what is measured, and how, does not depend on the number."""
    config = replace(tiny.config, preset=replace(tiny.config.preset, num_inference_steps=1))
    return Pipeline(replace(tiny.components, config=config))


@pytest.fixture(scope="session")
def quick_folder(quick: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It in our layout. Not to be written to."""
    return quick.save(tmp_path_factory.mktemp("model") / "tiny", layout="own")


def svg(thing: int, style: int, fill: str) -> str:
    place = f'x="{2 + thing % 4}" y="{2 + style}" width="{18 + thing % 3}" height="{16 + thing % 5}" rx="{thing}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect {place} fill="{fill}"/></svg>'


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = [
        Picture(style, name, tags, "objects", slug(name), svg(i, j, fill), tags[:1])
        for i, (name, (tags, fill)) in enumerate(THINGS.items())
        for j, style in enumerate(STYLES)
    ]
    pictures.append(Picture("freehand", "rocket flight", (), "icon", "rocket-flight", svg(3, 9, "#000"), ("rocket",)))
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl.xz"
    Corpus(tuple(pictures)).save(path)
    return path


@pytest.fixture(scope="session")
def feature_net() -> EfficientNet:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return EfficientNet().eval().requires_grad_(False)


@pytest.fixture(scope="session")
def feature_net_file(feature_net: EfficientNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("feature_net") / "feature_net.safetensors"
    save_file(feature_net.state_dict(), path)
    return path
