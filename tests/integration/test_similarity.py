"""Similarity: the shipped towers tell pictures apart by their texts; the loss can be lowered; bad files are named."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from diffuscope.errors import DiffuscopeError, InputError, ModelNotFoundError, WeightMismatchError, WeightsError
from diffuscope.images import to_pixels
from diffuscope.lens.functions import gradient_memory
from diffuscope.loading import shipped_models
from diffuscope.pipeline import Pipeline
from diffuscope.similarity import PICTURE, TOWERS, Similarity, great_circle, load_similarity
from diffuscope.weights.store import packing


@pytest.fixture(scope="module")
def similarity() -> Similarity:
    return load_similarity()


def painted(colour: str, shape: str) -> Tensor:
    """[1,3,128,128] one flat shape on white, pixels in [0,1]."""
    picture = Image.new("RGB", (128, 128), "white")
    getattr(ImageDraw.Draw(picture), shape)((24, 24, 104, 104), fill=colour)
    return to_pixels([picture]) / 2 + 0.5


def test_a_picture_is_nearest_to_its_own_text(similarity: Similarity) -> None:
    pictures = torch.cat([painted("red", "ellipse"), painted("blue", "rectangle")])
    with torch.no_grad():
        cosines = similarity(pictures, ["a red circle", "a blue square"])
    assert cosines.shape == (2, 2)
    assert cosines.argmax(1).tolist() == [0, 1]
    assert cosines.abs().max() <= 1


def test_vectors_are_unit_vectors_and_one_text_is_one_row(similarity: Similarity) -> None:
    with torch.no_grad():
        for vectors in (similarity.texts("a cat"), similarity.pictures(painted("red", "ellipse"))):
            assert vectors.shape == (1, 320)
            assert float(vectors.norm()) == pytest.approx(1)


def test_a_step_down_the_gradient_comes_nearer(similarity: Similarity) -> None:
    loss = similarity.loss("a green tree")
    picture = painted("red", "ellipse").requires_grad_()
    before = loss(picture)
    (gradient,) = torch.autograd.grad(before, picture)
    after = loss((picture - 0.001 * gradient / gradient.abs().max()).detach())
    assert float(after) < float(before.detach())
    assert float(loss(picture.detach())) == float(before.detach()), "the cuts are drawn once"


def test_the_weight_is_a_factor_and_cuts_are_needed(similarity: Similarity) -> None:
    picture = painted("red", "ellipse")
    once, twice = (float(similarity.loss("a cat", weight=weight)(picture)) for weight in (8.0, 16.0))
    assert twice == pytest.approx(2 * once)
    with pytest.raises(InputError, match="0 cuts"):
        similarity.loss("a cat", cuts=0)


def test_great_circles_are_angles() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    angles = great_circle(first, torch.tensor([[1.0, 0.0]]))
    assert angles.tolist() == pytest.approx([0.0, math.pi / 2, math.pi], abs=1e-3)


def test_the_memory_of_the_loss_is_counted(tiny: Pipeline, similarity: Similarity) -> None:
    alone, one, two = (
        gradient_memory(tiny, 64, 64, images=images, guided=False, loss=loss)
        for images, loss in ((1, None), (1, similarity.loss("a cat")), (2, similarity.loss("a cat")))
    )
    assert alone.loss == 0
    assert two.loss == 2 * one.loss > 0
    assert one.cheap == alone.cheap + one.loss
    assert one.exact == max(alone.exact, one.loss)
    more = gradient_memory(tiny, 64, 64, guided=False, loss=similarity.loss("a cat", cuts=8))
    assert 1.5 * one.loss < more.loss < 2.5 * one.loss


@pytest.fixture
def towers(tmp_path: Path) -> Path:
    """What of the shipped model the judge reads, to be damaged."""
    folder = tmp_path / "towers"
    folder.mkdir()
    for name in ("config.json", "text_encoder.safetensors", TOWERS):
        shutil.copyfile(shipped_models()["emoji"] / name, folder / name)
    return folder


def test_a_folder_may_bring_its_own_towers(towers: Path, similarity: Similarity) -> None:
    own = load_similarity(folder=towers)
    assert own.tensors().keys() == similarity.tensors().keys()
    assert all(torch.equal(value, similarity.tensors()[name]) for name, value in own.tensors().items())


def test_towers_that_cannot_judge_are_named(towers: Path, teacher_file: Path, tiny_folder: Path) -> None:
    def refused(kind: type[DiffuscopeError], says: str, teacher: Path = teacher_file, folder: Path = towers) -> None:
        with pytest.raises(kind, match=says):
            load_similarity(folder=folder, teacher=teacher)

    refused(ModelNotFoundError, "no weights at", teacher=towers / "gone.safetensors")
    refused(WeightMismatchError, "EfficientNet-Lite0 wants", teacher=tiny_folder / "vae.safetensors")
    refused(ModelNotFoundError, "the shipped towers can, any model's", folder=tiny_folder)
    (towers / "cut.safetensors").write_bytes((towers / TOWERS).read_bytes()[:100])
    refused(WeightsError, "cut", teacher=towers / "cut.safetensors")
    for tensors, says in (
        ({PICTURE: torch.zeros(3, 4)}, r"has shape \[3, 4\], expected \[320, 1280\]"),
        ({"log_scale": torch.zeros(1)}, "is missing"),
    ):
        packing.write(towers / TOWERS, tensors)
        refused(WeightsError, says)
    (towers / TOWERS).write_bytes(b"no weights")
    refused(WeightsError, TOWERS)
    (towers / TOWERS).unlink()
    refused(ModelNotFoundError, f"has no {TOWERS}")
