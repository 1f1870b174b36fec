"""How good generated digits are: read as asked, not copied, and distributed like real ones.

The judge is no network of ours and saw no generated picture. Its accuracy on held-out real pictures stands beside
every score: generated ones may be read more often than real ones, since guidance makes them typical.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from diffuscope.data.digits import LabelledImages
from diffuscope.errors import DiffuscopeError
from diffuscope.evaluate.frechet import frechet_distance
from diffuscope.evaluate.intervals import Score, proportion
from diffuscope.evaluate.scenes import diversity, kernel_distance

SHIFT = 2
"""Pixels to either side by which a training picture is moved when its copies are looked for."""

RARE = 0.01
"""Part of the held-out pictures that are nearer to a training picture than what counts as memorised."""

_COMPARED = 1000
"""Held-out pictures whose nearest training picture is looked for."""

_JUDGED = 10_000
"""Most pictures that the judge learns from: its time grows with their square."""


@dataclass(frozen=True)
class Exam:
    """Scores of generated pictures."""

    as_asked: Score
    """Share that the judge reads as the class that was asked for."""
    real: Score
    """The same of held-out real pictures: the judge's own accuracy."""
    memorised: float
    """Share that is nearer to a training picture than 99% of held-out ones are; 0.01 is what real pictures have."""
    distance: float
    """Kernel distance (Binkowski et al. 2018) to held-out pictures; unbiased, so a floor of 0 may come out below it."""
    distance_real: float
    """The same of training pictures: the floor."""


class Examiner:
    """The judge and its measures.

    Args:
        learned: the pictures that the model was trained on.
        held_out: pictures that neither the model nor the judge has seen.

    Raises:
        DiffuscopeError: scikit-learn is missing.
    """

    def __init__(self, learned: LabelledImages, held_out: LabelledImages) -> None:
        try:
            from sklearn.svm import SVC
        except ImportError as error:
            raise DiffuscopeError("the judge needs a package that is missing; run: pip install scikit-learn") from error
        self.learned, self.held_out = learned, held_out
        rows = torch.randperm(len(learned), generator=torch.Generator().manual_seed(0))[:_JUDGED]
        self.judge = SVC(C=10).fit(learned.pixels[rows].flatten(1).numpy(), learned.labels[rows].numpy())
        self.real = proportion((self.read(held_out.pixels) == held_out.labels)[:, None])

    @cached_property
    def near(self) -> float:
        """The distance to the nearest training picture below which a picture counts as memorised."""
        return nearest(self.held_out.pixels[:_COMPARED], self.learned.pixels).quantile(RARE).item()

    def read(self, pixels: Tensor) -> Tensor:
        """[B] classes that the judge reads in [B,1,28,28] pixels in [0,1]."""
        return torch.from_numpy(self.judge.predict(pixels.cpu().flatten(1).numpy()))

    def agreement(self, pixels: Tensor, labels: Tensor) -> float:
        """Share of the pictures that are read as asked."""
        return (self.read(pixels) == labels).float().mean().item()

    def distance(self, pixels: Tensor) -> float:
        """Kernel distance to the held-out pictures."""
        return kernel_distance(_features(pixels.cpu()), _features(self.held_out.pixels))

    def frechet(self, pixels: Tensor) -> float:
        """Fréchet distance to the held-out pictures: it sees lost variety, which the kernel distance hardly does."""
        return frechet_distance(_features(pixels.cpu()), _features(self.held_out.pixels))

    def diversity(self, pixels: Tensor, labels: Tensor) -> float:
        """Mean distance between two pictures of one class, of which there are equally many; 0 if all are the same."""
        by_class = _features(pixels.cpu())[labels.cpu().argsort(stable=True)]
        return diversity(by_class.unflatten(0, (len(labels.unique()), -1))).mean().item()

    def exam(self, pixels: Tensor, labels: Tensor) -> Exam:
        """All scores of pictures [B,1,28,28] that were asked for as ``labels`` [B]."""
        pixels = pixels.cpu()
        some = torch.randperm(len(self.learned), generator=torch.Generator().manual_seed(1))[: len(self.held_out)]
        return Exam(
            as_asked=proportion((self.read(pixels) == labels)[:, None]),
            real=self.real,
            memorised=(nearest(pixels, self.learned.pixels) < self.near).float().mean().item(),
            distance=self.distance(pixels),
            distance_real=self.distance(self.learned.pixels[some]),
        )


def nearest(pixels: Tensor, learned: Tensor, chunk: int = 2000) -> Tensor:
    """[B] root mean squared distance of each picture to the nearest training picture, at the best shift of it."""
    own = pixels.flatten(1)
    best = torch.full((len(own),), torch.inf)
    for part in learned.split(chunk):
        wide = F.pad(part, (SHIFT,) * 4)
        for y in range(2 * SHIFT + 1):
            for x in range(2 * SHIFT + 1):
                moved = wide[..., y : y + part.shape[-2], x : x + part.shape[-1]].flatten(1)
                best = torch.minimum(best, torch.cdist(own, moved).amin(1))
    return best / own.shape[1] ** 0.5


def _features(pixels: Tensor) -> Tensor:
    """[B,196] float64: pixels of half the size, in [-1,1]."""
    return F.avg_pool2d(pixels.double() * 2 - 1, 2).flatten(1)
