"""A run as a film: noisy latents and the clean estimate side by side, step by step, and what the network said."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.pipeline import Pipeline
from diffuscope.types import Denoiser, Step
from diffuscope.weights.files import replacing


@dataclass
class Record:
    """Remembers every estimate of a run: ``pipe(..., guidance=record)``. Values are copies, float32 on the CPU.

    ``guidance=(record, change)`` records what the guided network says; ``(change, record)`` what ``change`` makes.
    """

    sigmas: list[float] = field(default_factory=list)
    x: list[Tensor] = field(default_factory=list)
    """[B,C,H,W] noisy latents of each call."""
    x0: list[Tensor] = field(default_factory=list)
    """[B,C,H,W] the clean estimate of each."""

    @property
    def noise(self) -> list[Tensor]:
        """[B,C,H,W] the noise prediction of each call, (x - x0) / sigma."""
        return [(x - x0) / sigma for x, x0, sigma in zip(self.x, self.x0, self.sigmas, strict=True)]

    def __call__(self, denoise: Denoiser) -> Denoiser:
        """The same Denoiser, listened to; what an earlier run left is forgotten."""
        self.sigmas, self.x, self.x0 = [], [], []

        def heard(x: Tensor, sigma: float) -> Tensor:
            x0 = denoise(x, sigma)
            self.sigmas.append(sigma)
            self.x.append(x.detach().float().cpu().clone())
            self.x0.append(x0.detach().float().cpu().clone())
            return x0

        return heard


def kept(steps: Iterator[Step]) -> list[Step]:
    """The steps of a run, each with tensors of its own: a sampler may go on with those that it yields."""
    return [Step(step.index, step.sigma, step.x.detach().clone(), step.x0.detach().clone()) for step in steps]


@torch.no_grad()
def frames(pipe: Pipeline, steps: Sequence[Step], *, image: int = 0) -> list[Image.Image]:
    """One picture a step: the noisy latents decoded on the left, the clean estimate on the right.

    Args:
        pipe: decodes.
        steps: as ``kept`` makes them.
        image: which row.

    Raises:
        InputError: no steps.
    """
    if not steps:
        raise InputError("no steps to show: give kept(pipe.steps(...))")
    pairs = [pipe.decode(torch.stack([step.x[image], step.x0[image]])) for step in steps]
    width, height = pairs[0][0].size
    film = []
    for left, right in pairs:
        frame = Image.new("RGB", (2 * width, height))
        frame.paste(left, (0, 0))
        frame.paste(right, (width, 0))
        film.append(frame)
    return film


def save_gif(film: Sequence[Image.Image], path: str | os.PathLike[str], *, rate: float = 12.0) -> Path:
    """Write pictures of one size as a GIF that repeats, and return its path; it appears whole or not at all.

    Args:
        film: the frames.
        path: ends in .gif.
        rate: frames a second, at most 50; the lesson's is 12. The last stays for two seconds.

    Raises:
        InputError: no frames, another ending, or an impossible rate.
        OutputError: it cannot be written.
    """
    path = Path(path)
    if not film or path.suffix.lower() != ".gif" or not 0 < rate <= 50:
        raise InputError(f"{len(film)} frames to {path.name} at {rate} a second; give frames, a name.gif, and 0 to 50")
    durations = [round(1000 / rate)] * (len(film) - 1) + [2000]
    with replacing(path) as part:
        film[0].save(part, format="GIF", save_all=True, append_images=film[1:], duration=durations, loop=0)
    return path
