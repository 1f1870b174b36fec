"""CLIP score: the shipped networks tell images apart by their texts; the loss can be lowered; bad files are named."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from diffuscope.errors import DiffuscopeError, ModelNotFoundError, WeightMismatchError, WeightsError
from diffuscope.images import to_images, to_pixels
from diffuscope.lens.gradient_memory import gradient_memory
from diffuscope.model_files import shipped_models
from diffuscope.pipeline import Pipeline
from diffuscope.vision.clip_score import PROJECTION, TOWERS, ClipScore, great_circle, load_clip_score
from diffuscope.weights.store import packing
from refusals import refused


@pytest.fixture(scope="module")
def similarity() -> ClipScore:
    return load_clip_score()


def painted(colour: str, shape: str) -> Tensor:
    """[1,3,128,128] one flat shape on white, pixels in [0,1]."""
    picture = Image.new("RGB", (128, 128), "white")
    getattr(ImageDraw.Draw(picture), shape)((24, 24, 104, 104), fill=colour)
    return to_pixels([picture]) / 2 + 0.5


def test_a_picture_is_nearest_to_its_own_text(similarity: ClipScore) -> None:
    pictures = torch.cat([painted("red", "ellipse"), painted("blue", "rectangle")])
    with torch.no_grad():
        cosines = similarity(pictures, ["a red circle", "a blue square"])
    assert cosines.shape == (2, 2)
    assert cosines.argmax(1).tolist() == [0, 1]
    assert cosines.abs().max() <= 1


def test_vectors_are_unit_vectors_and_one_text_is_one_row(similarity: ClipScore) -> None:
    with torch.no_grad():
        for vectors in (similarity.encode_texts("a cat"), similarity.encode_images(painted("red", "ellipse"))):
            assert vectors.shape == (1, 320)
            assert float(vectors.norm()) == pytest.approx(1)


def test_images_may_be_pil_or_files_of_any_sizes(similarity: ClipScore, tmp_path: Path) -> None:
    red, blue = (to_images(2 * painted(*kind) - 1)[0] for kind in (("red", "ellipse"), ("blue", "rectangle")))
    blue.resize((64, 96)).save(tmp_path / "blue.png")
    with torch.no_grad():
        cosines = similarity([red, tmp_path / "blue.png"], ["a red circle", "a blue square"])
        assert torch.equal(similarity(red, "a red circle"), similarity(to_pixels([red]) / 2 + 0.5, "a red circle"))
    assert cosines.argmax(1).tolist() == [0, 1]
    with refused("images", []):
        similarity([], "a cat")


def test_a_step_down_the_gradient_comes_nearer(similarity: ClipScore) -> None:
    loss = similarity.loss("a green tree")
    picture = painted("red", "ellipse").requires_grad_()
    before = loss(picture)
    (gradient,) = torch.autograd.grad(before, picture)
    after = loss((picture - 0.001 * gradient / gradient.abs().max()).detach())
    assert float(after) < float(before.detach())
    assert float(loss(picture.detach())) == float(before.detach()), "the cuts are drawn once"


def test_the_weight_is_a_factor_and_cuts_are_needed(similarity: ClipScore) -> None:
    picture = painted("red", "ellipse")
    once, twice = (float(similarity.loss("a cat", weight=weight)(picture)) for weight in (8.0, 16.0))
    assert twice == pytest.approx(2 * once)
    with refused("cuts", 0):
        similarity.loss("a cat", cuts=0)


def test_great_circles_are_angles() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    angles = great_circle(first, torch.tensor([[1.0, 0.0]]))
    assert angles.tolist() == pytest.approx([0.0, math.pi / 2, math.pi], abs=1e-3)


def test_the_memory_of_the_loss_is_counted(tiny: Pipeline, similarity: ClipScore) -> None:
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
    """The files of the shipped model that the score reads, to be damaged."""
    folder = tmp_path / "towers"
    folder.mkdir()
    for name in ("config.json", "text_encoder.safetensors", TOWERS):
        shutil.copyfile(shipped_models()["emoji"] / name, folder / name)
    return folder


def test_a_folder_may_bring_its_own_towers(towers: Path, similarity: ClipScore) -> None:
    own = load_clip_score(folder=towers)
    assert own.tensors().keys() == similarity.tensors().keys()
    assert all(torch.equal(value, similarity.tensors()[name]) for name, value in own.tensors().items())


def test_unusable_files_are_named(towers: Path, feature_net_file: Path, tiny_folder: Path) -> None:
    def raises(
        kind: type[DiffuscopeError], says: str, feature_net: Path = feature_net_file, folder: Path = towers
    ) -> None:
        with pytest.raises(kind, match=says):
            load_clip_score(folder=folder, feature_net=feature_net)

    raises(ModelNotFoundError, "no weights at", feature_net=towers / "gone.safetensors")
    raises(WeightMismatchError, "EfficientNet-Lite0 expects", feature_net=tiny_folder / "vae.safetensors")
    raises(ModelNotFoundError, "use the shipped one", folder=tiny_folder)
    (towers / "cut.safetensors").write_bytes((towers / TOWERS).read_bytes()[:100])
    raises(WeightsError, "cut", feature_net=towers / "cut.safetensors")
    for tensors, says in (
        ({PROJECTION: torch.zeros(3, 4)}, r"has shape \[3, 4\], expected shape \[320, 1280\]"),
        ({"log_scale": torch.zeros(1)}, "is missing"),
    ):
        packing.write(towers / TOWERS, tensors)
        raises(WeightsError, says)
    (towers / TOWERS).write_bytes(b"no weights")
    raises(WeightsError, TOWERS)
    (towers / TOWERS).unlink()
    raises(ModelNotFoundError, f"has no {TOWERS}")
