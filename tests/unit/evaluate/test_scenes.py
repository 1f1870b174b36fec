import numpy as np
import pytest
import torch

from diffuscope.data.colours import dominant_tones
from diffuscope.data.compose import Canvas
from diffuscope.data.corpus import Corpus
from diffuscope.data.foreground import recolourable
from diffuscope.data.palette import COLOUR_WORDS
from diffuscope.data.render import render_all
from diffuscope.data.scenes import blank_scenes
from diffuscope.data.split import Split, split
from diffuscope.data.sprites import sprite_sampler
from diffuscope.evaluate import scenes
from diffuscope.evaluate.frechet import frechet_distance
from diffuscope.evaluate.intervals import Score


def features(count, seed, width=6):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix + seed


@pytest.fixture(scope="module")
def corpus(corpus_file):
    return Corpus.load(corpus_file)


@pytest.fixture(scope="module")
def sprites(corpus):
    return torch.from_numpy(render_all(corpus, 32, processes=1)).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def sampler(corpus, sprites):
    tones = dominant_tones(sprites)
    return sprite_sampler(corpus, split(corpus), tones.numpy(), recolourable(sprites, tones).numpy(), train=False)


def test_held_out_scenes_are_those_that_show_a_pair_never_trained_on(corpus):
    pictures = corpus.pictures
    parts = Split(frozenset({(pictures[0].concept, pictures[0].style)}), frozenset(), ())
    asked = blank_scenes(3)
    asked.sprite[0, 0] = 0
    asked.sprite[1, 0] = next(i for i, p in enumerate(pictures) if p.style != pictures[0].style)
    assert scenes.is_held_out(asked, pictures, parts).tolist() == [True, False, False]
    key = scenes.colour_key(pictures[asked.sprite[1, 0]].name)
    parts = Split(frozenset(), frozenset({("red", key)}), ())
    assert not scenes.is_held_out(asked, pictures, parts).any()
    asked.colour[1, 0] = COLOUR_WORDS.index("red")
    assert scenes.is_held_out(asked, pictures, parts).tolist() == [False, True, False]


def test_the_scenes_are_held_out_and_depend_on_the_seed_alone(sampler, corpus, sprites):
    parts = split(corpus)
    one, same, other = (
        scenes.held_out_scenes(sampler, corpus.pictures, parts, 20, seed, processes=1) for seed in (1, 1, 2)
    )
    assert len(one) == len(one.captions) == 20
    assert scenes.is_held_out(one, corpus.pictures, parts).all()
    assert one.captions == same.captions != other.captions
    shown = scenes.real_images(Canvas.on("cpu", sprites, dominant_tones(sprites)), one, chunk=7)
    assert shown.shape == (20, 3, 32, 32)
    assert shown.dtype == torch.uint8


def test_the_distance_is_that_of_the_other_formula():
    ours, theirs = features(40, 1), features(50, 2)
    assert scenes.Reference(theirs).distance(ours) == pytest.approx(frechet_distance(ours, theirs), rel=1e-9)


def test_counted_rows_are_repeated_rows():
    ours, reference = features(20, 1), scenes.Reference(features(50, 2))
    counts = torch.arange(20, dtype=torch.float64) % 3
    repeated = ours.repeat_interleave(counts.long(), 0)
    assert reference.distance(ours, counts) == pytest.approx(reference.distance(repeated), rel=1e-9)


def test_equal_crowds_have_no_distance_and_resamples_are_paired():
    reference = scenes.Reference(features(60, 2))
    assert reference.distance(features(60, 2)) == pytest.approx(0, abs=1e-8)
    first, second = (reference.distances(features(30, 1), 10) for _ in range(2))
    assert torch.equal(first, second)
    assert len(first) == 11


def test_an_interval_is_around_the_value_of_all_pictures():
    score = scenes.interval(torch.tensor([1.0, 3.0, 5.0, 4.0]), 7)
    assert score == Score(1.0, pytest.approx(1 - 1.96, abs=1e-4), pytest.approx(1 + 1.96, abs=1e-4), 7, 7)


def test_the_kernel_distance_is_the_double_sum_without_equal_pairs():
    x, y = features(12, 1), features(9, 2)

    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3

    own = [np.mean([kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    both = np.mean([kernel(a, b) for a in x for b in y])
    assert scenes.kernel_distance(x, y, chunk=5) == pytest.approx(sum(own) - 2 * both, rel=1e-9)


def test_diversity_is_the_mean_distance_of_two_pictures():
    crowd = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert scenes.diversity(crowd).tolist() == [5.0, 0.0]


def test_psnr_of_pictures():
    black, white = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    assert scenes.psnr(black, white).item() == pytest.approx(0)
    assert scenes.psnr(white, white).item() == pytest.approx(99)
