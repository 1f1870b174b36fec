"""How far a model's pictures of held-out scenes are from other held-out scenes: ``fd.scenes`` and its companions.

A scene is held out if it shows a (concept, style) or a (colour, concept) that was never trained on. The model gets the
captions of some such scenes and is compared with the real pictures of others; the distance between the real pictures
of both is the floor. docs/explanation/scores.md defines the measures.
"""

from collections.abc import Sequence
from itertools import count as count_up

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffuscope.data.compose import Canvas, compose
from diffuscope.data.corpus import Picture
from diffuscope.data.palette import COLOUR_WORDS
from diffuscope.data.scenes import Scenes, concatenate, sample_scenes
from diffuscope.data.split import Split, colour_key
from diffuscope.data.sprites import SpriteSampler
from diffuscope.errors import InputError
from diffuscope.evaluate.intervals import Score

RESAMPLES = 200
_Z = 1.959963984540054


def is_held_out(scenes: Scenes, pictures: Sequence[Picture], split: Split) -> NDArray[np.bool_]:
    """[N] whether anything in a scene was kept from training."""
    styles = np.array([(p.concept, p.style) in split.styles for p in pictures])
    colours = np.array([[(word, colour_key(p.name)) in split.colours for word in COLOUR_WORDS] for p in pictures])
    used = scenes.sprite >= 0
    found = used & styles[scenes.sprite]
    found |= used & (scenes.colour >= 0) & colours[scenes.sprite, scenes.colour]
    return found.any(1)


def held_out_scenes(
    sampler: SpriteSampler,
    pictures: Sequence[Picture],
    split: Split,
    count: int,
    seed: int,
    processes: int | None = None,
) -> Scenes:
    """The first ``count`` held-out scenes of those that ``seed`` gives. Seeds 1,000,000 apart share no scene.

    Args:
        sampler: of the sprites of all ``pictures``, made with ``train=False``.
        pictures: the corpus.
        split: what was kept from training.
        count: how many scenes.
        seed: at least 0.
        processes: as in ``sample_scenes``.
    """
    parts: list[Scenes] = []
    for block in count_up():
        scenes = sample_scenes(sampler, 8 * count, seed * 1_000_000 + block, processes=processes)
        parts.append(scenes.take(np.flatnonzero(is_held_out(scenes, pictures, split))))
        if sum(map(len, parts)) >= count:
            break
        if block == 50:
            raise InputError("count", count, "fewer scenes", "Too few scenes of this corpus show a held-out pair.")
    return concatenate(parts).take(slice(0, count))


def real_images(canvas: Canvas, scenes: Scenes, chunk: int = 256) -> Tensor:
    """[N,3,P,P] uint8 of composed scenes."""
    parts = [compose(canvas, scenes.take(slice(i, i + chunk))) for i in range(0, len(scenes), chunk)]
    return torch.cat([((part + 1) * 127.5).round().clamp(0, 255).to(torch.uint8) for part in parts])


class Reference:
    """Features of real pictures, prepared so that each distance to them costs one eigenvalue problem.

    Args:
        features: [M,F].
    """

    def __init__(self, features: Tensor) -> None:
        self.mean, self.covariance = _moments(features.double(), None)
        values, vectors = torch.linalg.eigh(self.covariance)
        self.root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T

    def distance(self, features: Tensor, counts: Tensor | None = None) -> float:
        """The Frechet distance of ``features`` [N,F] (Heusel et al. 2017, equation 6).

        Row i counts as ``counts[i]`` rows. The trace of (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of
        R S1 R, with R the root of S2.
        """
        mean, covariance = _moments(features.double(), counts)
        values = torch.linalg.eigvalsh(self.root @ covariance @ self.root).clamp(min=0)
        traces = covariance.trace() + self.covariance.trace() - 2 * values.sqrt().sum()
        return ((mean - self.mean).square().sum() + traces).item()

    def distances(self, features: Tensor, resamples: int = RESAMPLES) -> Tensor:
        """[1+resamples] distances: of all rows, then of rows drawn with replacement.

        Equal numbers of rows are drawn alike, so differences and ratios of two results are those of the same captions.
        """
        generator = torch.Generator().manual_seed(0)
        found = [self.distance(features)]
        for _ in range(resamples):
            rows = torch.randint(len(features), (len(features),), generator=generator)
            counts = torch.bincount(rows, minlength=len(features)).to(features.device, torch.float64)
            found.append(self.distance(features, counts))
        return torch.tensor(found, dtype=torch.float64)


def interval(values: Tensor, prompts: int) -> Score:
    """The first of ``values`` with the 95% interval of a normal distribution as wide as the others, the resamples.

    Not their percentiles: drawing rows twice raises every distance, so the resamples lie around another number.
    """
    value, half = values[0].item(), _Z * values[1:].std().item() if len(values) > 2 else 0.0
    return Score(value, value - half, value + half, prompts, prompts)


def kernel_distance(ours: Tensor, theirs: Tensor, chunk: int = 1000) -> float:
    """Unbiased squared maximum mean discrepancy of features [N,F] and [M,F] with the kernel (x.y / F + 1)^3.

    Binkowski et al. 2018, section 4; unlike the Frechet distance it does not depend on N and M but for chance.
    """

    def total(a: Tensor, b: Tensor) -> float:
        return sum(((part @ b.T) / a.shape[1] + 1).pow(3).sum().item() for part in a.split(chunk))

    def within(a: Tensor) -> float:
        own = (a.square().sum(1) / a.shape[1] + 1).pow(3).sum().item()
        return (total(a, a) - own) / (len(a) * (len(a) - 1))

    x, y = ours.double(), theirs.double()
    return within(x) + within(y) - 2 * total(x, y) / (len(x) * len(y))


def diversity(features: Tensor) -> Tensor:
    """[P] mean distance between the features [P,S,F] of each prompt's S pictures of different seeds."""
    seeds = features.shape[1]
    return torch.stack([torch.cdist(own, own).sum() / (seeds * (seeds - 1)) for own in features.double()])


def psnr(ours: Tensor, theirs: Tensor) -> Tensor:
    """[N] PSNR in dB of uint8 pictures [N,3,H,W] made from the same noise; 99 at most."""
    errors = (ours.double() - theirs.double()).div(255).square().mean((1, 2, 3))
    return -10 * errors.clamp(min=10**-9.9).log10()


def _moments(features: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean [F] and covariance [F,F] of rows [N,F], each counted ``counts`` times."""
    weights = torch.ones_like(features[:, 0]) if counts is None else counts
    number = weights.sum()
    if len(features) < 2:
        raise InputError("features", len(features), "at least two pictures")
    mean = weights @ features / number
    centred = features - mean
    return mean, centred.T @ (centred * weights[:, None]) / (number - 1)
