"""Another program's folder of models, used in place."""

from pathlib import Path

import pytest
import torch

import diffuscope as ds
from diffuscope import library
from diffuscope.errors import ModelNotFoundError, WeightsError
from diffuscope.pipeline import Pipeline
from lora_files import kohya, layers, trained, write
from refusals import refused


@pytest.fixture(scope="module", params=["web UI", "ComfyUI"])
def program(request: pytest.FixtureRequest, tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("program")
    web = request.param == "web UI"
    checkpoints = top / "models" / ("Stable-diffusion" if web else "checkpoints")
    loras = top / "models" / ("Lora" if web else "loras")
    embeddings = top / "embeddings" if web else top / "models" / "embeddings"
    for folder in (checkpoints / "people", loras, embeddings):
        folder.mkdir(parents=True)
    tiny.save(checkpoints / "fox.safetensors", layout="single")
    tiny.save(checkpoints / "people" / "cat.safetensors", layout="single")
    tiny.save(checkpoints / "people" / "fox.safetensors", layout="single")
    tiny.save(checkpoints / "whole")
    (checkpoints / "notes.txt").write_text("none")
    write(loras / "ink.safetensors", kohya(layers(tiny, wanted=trained)))
    write(embeddings / "<old>.safetensors", {"emb_params": torch.zeros(1, 32)})
    return top


@pytest.mark.parametrize("below", ["", "models"])
def test_models_are_found_by_name(tiny: Pipeline, program: Path, below: str) -> None:
    assert [*library.entries(program / below, "model")] == [
        "fox.safetensors",
        "people/cat.safetensors",
        "people/fox.safetensors",
        "whole",
    ]
    for name in ("cat", "cat.safetensors", "people/cat", "people/fox", "whole"):
        assert ds.load(name, device="cpu", models_dir=program / below).weights == tiny.weights
    assert [*library.entries(program / below, "embedding")] == ["<old>.safetensors"]


def test_its_loras_answer_to_tags(program: Path) -> None:
    pipe = ds.load("cat", device="cpu", models_dir=program)
    receipt = pipe("a fox <lora:ink:0.5>", seed=1).receipt
    assert [each["name"] for each in receipt["loras"]] == ["ink"]


def test_what_is_not_clear_is_asked(program: Path, tmp_path: Path) -> None:
    with refused("name_or_path", "fox"):
        library.find(program, "fox")
    with pytest.raises(ModelNotFoundError, match="Did you mean 'cat"):
        library.find(program, "cta")
    with pytest.raises(ModelNotFoundError, match="no folder"):
        library.find(tmp_path / "nowhere", "cat")
    (tmp_path / "flat").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"needs one of the folders Stable-diffusion, checkpoints.* itself"):
        library.find(tmp_path / "flat", "cat")


def test_a_part_of_a_model_s_folder_is_named_as_such(diffusers_folder: Path) -> None:
    with pytest.raises(WeightsError, match="unet is one part of a model; give the folder above"):
        ds.load(diffusers_folder / "unet")
