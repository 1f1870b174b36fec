"""Editing real pictures: back to noise by the source text, forward again by another, where the two texts differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from diffuscope.diffusion.guidance import guided
from diffuscope.diffusion.inversion import check, ddim_inversion
from diffuscope.diffusion.noise import PerImageNoise
from diffuscope.diffusion.samplers import SAMPLERS
from diffuscope.diffusion.schedules import tail
from diffuscope.errors import InputError
from diffuscope.images import ImageSource, open_image
from diffuscope.lens.functions import check_reads, denoiser
from diffuscope.pipeline import Pipeline
from diffuscope.types import Conditioning, Denoiser, Levels

Told = str | Conditioning


@dataclass(frozen=True)
class Inversion:
    """A picture's way up to noise."""

    path: tuple[Tensor, ...]
    """[1,C,h,w] latents at each of ``levels.sigmas``, in that order: noise first, the picture's own last."""
    levels: Levels

    @property
    def noisy(self) -> Tensor:
        """[1,C,h,w] latents at the highest level reached."""
        return self.path[0]


@dataclass(frozen=True)
class Edited:
    """What an edit made."""

    images: list[Image.Image]
    latents: Tensor
    """[1,C,h,w], for ``pipe.decode``."""
    mask: Tensor | None = None
    """[1,1,h,w], 1 where the picture was made anew; None where all of it was."""


@torch.no_grad()
def invert(
    pipe: Pipeline, image: ImageSource, told: Told = "", *, steps: int = 50, strength: float = 1.0, refine: int = 0
) -> Inversion:
    """DDIM inversion of a picture, without guidance.

    Args:
        pipe: the model.
        image: cut to multiples of the VAE's factor; its latents are the mean.
        told: a text that describes it, or nothing.
        steps: of the whole schedule.
        strength: how far up: 1 is to pure noise, 0.5 to the middle of the steps.
        refine: fixed-point iterations a step; see ``ddim_inversion``.

    Raises:
        InputError: the picture is smaller than one latent, the steps, the strength or ``refine`` are not possible, or
            the model's U-Net reads more than text; before any network runs.
        ImageError: the picture cannot be read.
    """
    check_reads(pipe)
    levels = tail(pipe.schedule.levels(steps, sampler="ddim", final="zero"), strength)
    check(levels.sigmas, refine)
    clean = pipe.encode_image(image, sample=False)
    climb = ddim_inversion(denoiser(pipe, told, levels), clean, levels.sigmas, refine=refine)
    path = [clean, *(step.x for step in climb)]
    return Inversion(tuple(path[::-1]), levels)


@torch.no_grad()
def redraw(
    pipe: Pipeline,
    inverted: Inversion,
    told: Told,
    *,
    negative: Told = "",
    scale: float = 1.0,
    start: int = 0,
    mask: Tensor | None = None,
) -> Edited:
    """DDIM down again from an inverted picture by another text.

    With the source text, ``scale`` 1 and enough steps (or ``refine``) the picture comes back.

    Args:
        pipe: the model.
        inverted: the way up.
        told: what the picture shall be.
        negative: what guidance leads away from.
        scale: of the guidance; 1 is none.
        start: how many of the steps are left out: 0 starts at the highest level, more is an edit from a middle step.
        mask: [1,1,h,w], 1 where the picture is made anew; elsewhere each step is put back onto the way up.

    Raises:
        InputError: the mask has another size than the latents, or no step is left after ``start``.
    """
    path, levels = inverted.path[start:], inverted.levels
    if not 0 <= start < len(inverted.path) - 1:
        raise InputError(f"start is {start}; give 0 to {len(inverted.path) - 2}, as {len(inverted.path) - 1} were made")
    _check_mask(mask, path[0].shape[-2:])
    x = path[0]
    for step in SAMPLERS["ddim"](_led(pipe, told, negative, scale, levels), x, levels.sigmas[start:]):
        if mask is not None:
            known = path[step.index + 1]
            step.x = known + mask.to(known) * (step.x - known)
        x = step.x
    return Edited(pipe.decode(x), x.cpu(), mask)


@torch.no_grad()
def difference_mask(
    pipe: Pipeline,
    clean: Tensor,
    source: Told,
    target: Told,
    *,
    strength: float = 0.5,
    count: int = 10,
    seed: int = 0,
    threshold: float = 0.5,
) -> Tensor:
    """[1,1,h,w] 1 where two texts predict different noise: DiffEdit's step 1 (Couairon et al. 2023).

    The picture is noised ``count`` times; the distances of the two predictions are averaged over the draws and the
    channels, those above three times the mean cut, scaled to [0,1] and compared with ``threshold``.

    Args:
        pipe: the model.
        clean: [1,C,h,w] latents of the picture.
        source: what it shows.
        target: what it shall show.
        strength: how noisy, as a share of the schedule's steps.
        count: draws of noise.
        seed: of the draws.
        threshold: 0 is the whole picture.

    Raises:
        InputError: a number is not possible, or the two texts predict the same everywhere.
    """
    if count < 1 or not 0 <= threshold <= 1:
        raise InputError(f"{count} draws and threshold {threshold}; give at least one draw and a threshold in [0, 1]")
    levels = tail(pipe.schedule.levels(100, sampler="ddim", final="zero"), strength)
    sigma = levels.sigmas[0]
    noise = PerImageNoise(range(seed, seed + count)).draw(clean.shape[1:]).to(clean)
    x = clean + sigma * noise
    first, second = (denoiser(pipe, told, levels)(x, sigma) for told in (source, target))
    distance = ((first - second) / sigma).abs().mean((0, 1))
    if not distance.max() > 0:
        raise InputError("the two texts predict the same noise everywhere: give texts that differ")
    distance = distance.clamp(max=float(3 * distance.mean()))
    share = (distance - distance.min()) / (distance.max() - distance.min()).clamp_min(1e-12)
    return (share >= threshold).to(clean)[None, None]


def diffedit(
    pipe: Pipeline,
    image: ImageSource,
    source: Told,
    target: Told,
    *,
    steps: int = 50,
    strength: float = 0.8,
    scale: float = 7.5,
    mask: Tensor | None = None,
) -> Edited:
    """DiffEdit: change what the two texts disagree on, keep the rest (Couairon et al. 2023).

    Args:
        pipe: the model.
        image: the picture.
        source: what it shows.
        target: what it shall show.
        steps: of the whole schedule.
        strength: how far up it is inverted, without a text: the paper's encoding ratio.
        scale: of the guidance on the way down.
        mask: None makes it from the two texts.

    Raises:
        InputError: as ``invert`` and ``difference_mask``; both texts are one, or the mask has another size than the
            latents.
    """
    picture, factor = open_image(image), pipe.config.vae.factor
    _check_mask(mask, (picture.height // factor, picture.width // factor))
    if mask is None and isinstance(source, str) and source == target:
        raise InputError(f"both texts are {source!r}: give texts that differ, or a mask")
    inverted = invert(pipe, picture, "", steps=steps, strength=strength)
    if mask is None:
        mask = difference_mask(pipe, inverted.path[-1], source, target)
    return redraw(pipe, inverted, target, scale=scale, mask=mask)


def _check_mask(mask: Tensor | None, size: Sequence[int]) -> None:
    if mask is not None and list(mask.shape[-2:]) != list(size):
        raise InputError(f"the mask is {list(mask.shape[-2:])} and the latents {list(size)}; make them equal")


def _led(pipe: Pipeline, told: Told, negative: Told, scale: float, levels: Levels) -> Denoiser:
    cond = denoiser(pipe, told, levels)
    return cond if scale == 1.0 else guided(cond, denoiser(pipe, negative, levels), scale)
