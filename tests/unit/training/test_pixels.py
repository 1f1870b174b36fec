"""Training on pixels: what enters the network, what is asked of it, and that it is learned."""

import pytest
import torch
from torch import nn

from diffuscope.config import ScheduleConfig
from diffuscope.data.digits import LabelledImages
from diffuscope.diffusion.schedules import Schedule
from diffuscope.training.loop import StepContext
from diffuscope.training.pixels import PixelLatents, PixelTask, PixelTraining, augment, one_hot

SCHEDULE = Schedule(ScheduleConfig(betas="cosine", prediction="v", zero_snr=True))


def pictures(count):
    pixels = torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return LabelledImages(pixels, torch.arange(count) % 10)


def context(step=0):
    return StepContext(torch.Generator().manual_seed(step), step, step, 0.0)


def test_pixels_come_back_and_have_unit_variance():
    images = pictures(64).pixels
    latents = PixelLatents(mean=images.mean().item(), std=images.std().item(), patch=4)
    z = latents.encode(images)
    assert z.shape == (64, 16, 7, 7)
    assert z.mean().item() == pytest.approx(0, abs=1e-4)
    assert z.std().item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(latents.decode(z), images)
    assert latents.decode(100 * z).max() == 1


def test_a_class_is_one_hot_and_none_is_nothing():
    text = one_hot(torch.tensor([2, -1]), 10)
    assert text.shape == (2, 1, 10)
    assert text[0, 0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert not text[1].any()


def test_augmented_pictures_are_shifted_by_whole_pixels():
    images = pictures(200).pixels
    moved = augment(images, PixelTraining(rotation=0.0, shift=2), torch.Generator().manual_seed(0))
    found = set()
    for before, after in zip(images[:, 0], moved[:, 0], strict=True):
        matches = [
            (y, x)
            for y in range(-2, 3)
            for x in range(-2, 3)
            if torch.allclose(before[6 + y : 22 + y, 6 + x : 22 + x], after[6:22, 6:22], atol=1e-4)
        ]
        assert len(matches) == 1
        found |= set(matches)
    assert len(found) == 25


def test_augmented_pictures_are_rotated_a_little():
    image = torch.zeros(400, 1, 28, 28)
    image[..., 13:15, 20:26] = 1  # a stroke right of the centre
    generator = torch.Generator().manual_seed(0)
    turned = augment(image, PixelTraining(shift=0, rotation=8.0), generator)
    assert turned[..., :14].sum() == 0
    rows = (turned * torch.arange(28.0)[:, None]).sum((1, 2, 3)) / turned.sum((1, 2, 3))
    assert 0.8 < (rows - 13.5).abs().max() < 1.6  # 9.5 pixels from the centre: sin(8 degrees) is 1.3


class Recorder(nn.Module):
    """Writes down what it is called with, and answers zero."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.calls = []

    def forward(self, x, time, text):
        self.calls.append((x, time, text))
        return x * self.weight


def task(network, count=64):
    images = pictures(count)
    latents = PixelLatents(mean=0.5, std=0.2887, patch=2)
    return PixelTask(network, images, images, latents, SCHEDULE, PixelTraining(batch_size=40, shift=0, rotation=0.0))


def test_a_batch_has_every_time_unit_variance_and_a_tenth_without_class():
    network = Recorder()
    loss, _ = task(network).loss(context())
    ((x, time, text),) = network.calls
    assert sorted((time * 40 // 1000).tolist()) == list(range(40))
    assert (text.sum((1, 2)) == 0).nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert x.std().item() == pytest.approx(1, abs=0.1)
    assert loss.item() == pytest.approx(1, abs=0.1)  # v has unit variance too


def test_validation_repeats_itself():
    one = task(Recorder())
    assert one.validate(one.network) == one.validate(one.network)
