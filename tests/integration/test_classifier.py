from dataclasses import replace

import pytest
import torch

from diffuscope.training.classifier import ClassifierTask, ClassifierTraining, augment
from diffuscope.training.loop import LoopConfig, train
from diffuscope.vision.classifier import Classifier, ClassifierConfig

STILL = ClassifierTraining(rotation=0.0, scale=(1.0, 1.0), shift=0.0, hue=0.0, white=1.0, cutout=0.0, noise=0.0)


def sprites(count: int = 6) -> torch.Tensor:
    """A bar of its own colour at its own height, on nothing."""
    out = torch.zeros(count, 4, 32, 32, dtype=torch.uint8)
    for i in range(count):
        out[i, i % 3, 4 * i + 4 : 4 * i + 8, 6:26] = 200
        out[i, 3, 4 * i + 4 : 4 * i + 8, 6:26] = 255
    return out


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmentation_is_a_function_of_its_generator():
    before = sprites()
    given = before.clone()
    one, other = (augment(given, ClassifierTraining(), generator()) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(given, before)
    assert not torch.equal(one, augment(given, ClassifierTraining(), generator(1)))
    assert one.shape == (6, 3, 32, 32)
    assert one.min() >= -1
    assert one.max() <= 1


def test_nothing_is_mirrored_or_moved_where_nothing_is_asked():
    """What is left are changes of saturation, contrast, brightness and sharpness: places stay."""
    given = torch.zeros(16, 4, 32, 32, dtype=torch.uint8)
    given[:, 3, 4:14, 4:12] = 255
    shown = augment(given, STILL, generator())
    assert (shown[:, :, 6:12, 6:10].amax((1, 2, 3)) < shown[:, :, 18:, 18:].amin((1, 2, 3))).all()
    assert (shown[:, :, 6:12, 22:26].amin((1, 2, 3)) > shown[:, :, 6:12, 6:10].amax((1, 2, 3))).all()


def test_a_turned_picture_turns_around_its_middle():
    given = torch.zeros(64, 4, 32, 32, dtype=torch.uint8)
    given[:, 3, 13:19, 13:19] = 255
    shown = augment(given, replace(STILL, rotation=180.0), generator())
    assert (shown[:, :, 14:18, 14:18].amax((1, 2, 3)) < shown[:, :, :8].amin((1, 2, 3))).all()


def test_scaling_below_one_makes_it_smaller():
    given = torch.zeros(8, 4, 32, 32, dtype=torch.uint8)
    given[:, 3] = 255
    shown = augment(given, replace(STILL, scale=(0.5, 0.5)), generator())
    ratio = (shown.mean(1) < shown.mean(1).amax((1, 2), keepdim=True) - 0.5).float().mean((1, 2))
    assert ratio.tolist() == pytest.approx([0.25] * 8, abs=0.07)


def test_it_learns_what_it_is_shown(tmp_path):
    torch.manual_seed(0)
    network = Classifier(ClassifierConfig(classes=6, channels=(8, 16), blocks=1))
    training = ClassifierTraining(batch_size=32, rotation=5.0, scale=(0.9, 1.0), shift=0.02, cutout=0.1)
    labels = torch.arange(6)
    task = ClassifierTask(network, sprites(), labels, (sprites(), labels), training)
    before = task.validate(network)["accuracy"]
    config = LoopConfig(lr=5e-3, steps=100, warmup_steps=5, ema_decay=0.9)
    after = task.validate(train(task, config, tmp_path))["accuracy"]
    assert before < 0.5
    assert after > 0.8


def test_an_image_is_classified_by_itself():
    torch.manual_seed(0)
    network = Classifier(ClassifierConfig(classes=5, channels=(8, 16, 16))).eval()
    pixels = torch.rand(4, 3, 48, 32, generator=generator()) * 2 - 1
    assert network(pixels).shape == (4, 5)
    assert torch.allclose(network(pixels)[2:3], network(pixels[2:3]), atol=1e-5)


@pytest.mark.parametrize("wrong", [{"classes": 1}, {"channels": ()}, {"channels": (12,)}, {"blocks": 0}])
def test_what_is_no_classifier_is_refused(wrong):
    with pytest.raises(ValueError, match=r"is no classifier|do not split"):
        ClassifierConfig(**wrong)
