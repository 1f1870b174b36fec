"""A model on pixels: every sampler and all guidance work on it, and its folder brings it back."""

import json
from dataclasses import replace

import pytest
import torch

import diffuscope as ds
from diffuscope.data.digits import load_digits, split
from diffuscope.diffusion.samplers import SAMPLERS
from diffuscope.errors import ModelNotFoundError, WeightsError
from diffuscope.evaluate.digits import Examiner
from diffuscope.models.class_unet import ClassUNet
from diffuscope.recipes.digits import HELD_OUT, digits
from diffuscope.recipes.pixel_model import CONFIG, WEIGHTS, PixelModel, PixelModelConfig, load
from diffuscope.training.pixels import PixelLatents, one_hot
from refusals import refused


@pytest.fixture(scope="module")
def model():
    recipe = digits()
    unet = replace(recipe.unet, channels=(16,))  # with 8, a norm group is a channel, and no vector gets through
    config = PixelModelConfig(
        name="random",
        classes=recipe.classes,
        unet=unet,
        schedule=recipe.schedule,
        latents=PixelLatents(mean=0.13, std=0.31, patch=4),
        preset=replace(recipe.preset, num_inference_steps=3),
    )
    torch.manual_seed(0)
    return PixelModel(config, ClassUNet(unet))


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_draws(model, sampler):
    steps = list(model.steps([1, -1], sampler=sampler, num_inference_steps=4))
    assert len(steps) == 4
    assert steps[-1].x.isfinite().all()
    pixels = model.sample([1, -1], sampler=sampler, num_inference_steps=4)
    assert pixels.shape == (2, 1, 28, 28)
    assert torch.equal(pixels, model.config.latents.decode(steps[-1].x))


def test_a_picture_is_its_seed_and_its_class(model):
    both = model.sample([3, 4], seed=5)
    torch.testing.assert_close(model.sample([4], seed=6), both[1:], rtol=0, atol=1e-5)
    assert not torch.allclose(model.sample([5], seed=6), both[1:], atol=1e-3)
    assert model(4, seed=6).size == (28, 28)


def test_guidance_is_the_engine_s_own(model):
    levels = model.schedule.levels(5, sampler="ddim", sigmas="trailing")
    x, sigma = torch.randn(2, 16, 7, 7) * 3, levels.sigmas[2]
    cond, none, half = (
        model.denoiser(labels, levels, scale)(x, sigma)
        for labels, scale in (([7, 1], 1.0), ([-1, -1], 1.0), ([7, 1], 2.5))
    )
    torch.testing.assert_close(half, none + 2.5 * (cond - none), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(cond, none, atol=1e-3)


def test_a_denoiser_is_the_network_between_two_formulas(model):
    levels = model.schedule.levels(5, sampler="ddim", sigmas="trailing")
    x, sigma = torch.randn(1, 16, 7, 7), levels.sigmas[2]
    v = model.unet(x / (sigma**2 + 1) ** 0.5, torch.tensor(levels.timesteps[2]), one_hot(torch.tensor([7]), 10))
    expected = x / (sigma**2 + 1) - v * sigma / (sigma**2 + 1) ** 0.5
    torch.testing.assert_close(model.denoiser([7], levels)(x, sigma), expected)


@pytest.mark.parametrize("labels", [[], [10], [-2], [1, 11]])
def test_a_class_that_is_none_is_refused(model, labels):
    with refused("labels", labels):
        model.sample(labels)


def test_a_folder_brings_it_back(model, tmp_path):
    back = load(model.save(tmp_path / "folder"))
    assert back.config == model.config
    weights = model.unet.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in back.unet.state_dict().items())
    # Weights that begin at other addresses, as in a file, may be multiplied in another order: docs, numerics.
    torch.testing.assert_close(back.sample([1], seed=3), model.sample([1], seed=3), rtol=0, atol=1e-5)


def test_a_packed_folder_is_a_quarter_and_nearly_the_same(model, tmp_path):
    sizes = {}
    for packed in (False, True):
        folder = model.save(tmp_path / str(packed), packed=packed)
        sizes[packed] = (folder / WEIGHTS).stat().st_size
    assert sizes[True] < 0.7 * sizes[False]  # most tensors of this one are too small to pack
    with pytest.raises(ModelNotFoundError, match=r"a model of classes: open it with diffuscope\.recipes\.digits\.load"):
        ds.load(tmp_path / "True")
    back = load(tmp_path / "True")
    assert (back.sample([1], seed=3) - model.sample([1], seed=3)).abs().max() < 0.1


def test_no_folder_and_damaged_ones_are_told(model, tmp_path):
    with pytest.raises(ModelNotFoundError, match="diffuscope train digits --out"):
        load(tmp_path)
    path = model.save(tmp_path) / CONFIG
    document = json.loads(path.read_text())
    latents, unet = document["latents"], document["unet"]
    damages = (
        *({"unet": 3}, {"unet": {"channels": [8]}}, {"unet": unet | {"extra_dim": -1}}, {"magic": 1}, {"name": 5}),
        *({"classes": "x"}, {"classes": ["a", "b"]}, {"latents": {"x": 1}}),
        *({"latents": latents | each} for each in ({"std": -1}, {"std": "x"}, {"patch": 0}, {"patch": 2})),
    )
    for wrong in ({}, *(document | damage for damage in damages)):
        path.write_text(json.dumps(wrong))
        with pytest.raises(WeightsError):
            load(tmp_path)


@pytest.mark.slow
def test_the_shipped_digits_are_read_as_asked():
    """By the judge of the exam, on 100 of them; the exam itself asks for 1,000."""
    learned, held_out = split(load_digits(), HELD_OUT)
    labels = torch.arange(100) % 10
    drawn = load().sample(labels.tolist(), num_inference_steps=8)
    assert Examiner(learned, held_out).agreement(drawn, labels) > 0.96
