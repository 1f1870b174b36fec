"""Edit real images: invert them to noise (DDIM), then denoise with another prompt; DiffEdit."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from diffuscope.diffusion.guidance import guided
from diffuscope.diffusion.inversion import check_inversion, ddim_inversion
from diffuscope.diffusion.noise import PerImageNoise
from diffuscope.diffusion.samplers import SAMPLERS
from diffuscope.diffusion.schedules import img2img_levels
from diffuscope.errors import InputError
from diffuscope.images import ImageSource, open_image
from diffuscope.lens.functions import check_text_only, denoiser
from diffuscope.pipeline import Pipeline
from diffuscope.types import Brief, Conditioning, Denoiser, Levels

Prompt = str | Conditioning


@dataclass(frozen=True, repr=False)
class Inversion(Brief):
    """The latents of an image at rising noise levels."""

    path: tuple[Tensor, ...]
    """[1,C,h,w] latents at each of ``levels.sigmas``, in that order: noise first, the image's own last."""
    levels: Levels


@dataclass(frozen=True, repr=False)
class Edit(Brief):
    """The result of an edit."""

    images: list[Image.Image]
    latents: Tensor
    """[1,C,h,w], for ``pipe.decode``."""
    mask: Tensor | None = None
    """[1,1,h,w], 1 in the edited area; None if that is the whole image."""


@torch.no_grad()
def invert(
    pipe: Pipeline,
    image: ImageSource,
    prompt: Prompt = "",
    *,
    steps: int = 50,
    strength: float = 1.0,
    refine: int = 0,
) -> Inversion:
    """DDIM inversion of an image, without guidance (Song et al. 2021, section 4.3).

    Args:
        pipe: the model.
        image: cropped to multiples of the VAE's factor; its latents are the mean of the VAE's distribution.
        prompt: a description of it, or "".
        steps: of the whole schedule.
        strength: share of the steps: 1 goes to pure noise. In (0, 1].
        refine: fixed-point iterations per step; see ``ddim_inversion``.

    Raises:
        InputError: the image is smaller than one latent, an argument is impossible, or the model's U-Net has other
            inputs than text; before any network runs.
        ImageError: the image cannot be read.
    """
    check_text_only(pipe)
    levels = img2img_levels(pipe.schedule.levels(steps, sampler="ddim", final_sigma="zero"), strength)
    check_inversion(levels.sigmas, refine)
    clean = pipe.encode_image(image, sample=False)
    rising = ddim_inversion(denoiser(pipe, prompt, levels), clean, levels.sigmas, refine=refine)
    path = [clean, *(step.x for step in rising)]
    return Inversion(tuple(path[::-1]), levels)


@torch.no_grad()
def redraw(
    pipe: Pipeline,
    inversion: Inversion,
    prompt: Prompt,
    *,
    negative_prompt: Prompt = "",
    guidance_scale: float = 1.0,
    start: int = 0,
    mask: Tensor | None = None,
) -> Edit:
    """DDIM sampling from an inverted image, with another prompt.

    With the prompt of the inversion, no guidance and enough steps (or ``refine``) the image comes back.

    Args:
        pipe: the model.
        inversion: of the image.
        prompt: of the new image.
        negative_prompt: for guidance.
        guidance_scale: 1 is no guidance.
        start: how many steps are left out: 0 starts at the highest noise level, more edits less.
        mask: [1,1,h,w], 1 in the area to edit; elsewhere each step is set back to the inversion.

    Raises:
        InputError: the mask has another size than the latents, or no step is left after ``start``.
    """
    path, levels = inversion.path[start:], inversion.levels
    if not 0 <= start < len(inversion.path) - 1:
        raise InputError("start", start, f"0 to {len(inversion.path) - 2}, as the inversion has steps")
    _check_mask(mask, path[0].shape[-2:])
    denoise: Denoiser = denoiser(pipe, prompt, levels)
    if guidance_scale != 1.0:
        denoise = guided(denoise, denoiser(pipe, negative_prompt, levels), guidance_scale)
    x = path[0]
    for step in SAMPLERS["ddim"](denoise, x, levels.sigmas[start:]):
        if mask is not None:
            known = path[step.index + 1]
            step.x = known + mask.to(known) * (step.x - known)
        x = step.x
    return Edit(pipe.decode(x), x.cpu(), mask)


@torch.no_grad()
def difference_mask(
    pipe: Pipeline,
    clean: Tensor,
    source: Prompt,
    target: Prompt,
    *,
    strength: float = 0.5,
    samples: int = 10,
    seed: int = 0,
    threshold: float = 0.5,
) -> Tensor:
    """[1,1,h,w] 1 where two prompts predict different noise: DiffEdit's step 1 (Couairon et al. 2023).

    The absolute difference of the two predictions is averaged over noise samples and channels, clamped at three times
    its mean, scaled to [0,1] and compared with ``threshold``.

    Args:
        pipe: the model.
        clean: [1,C,h,w] latents of the image.
        source: describes the image.
        target: describes the edited image.
        strength: noise level, as a share of the schedule's steps.
        samples: of noise.
        seed: of the noise.
        threshold: 0 to 1; 0 is the whole image.

    Raises:
        InputError: a number is out of range, or the two prompts predict the same everywhere.
    """
    if samples < 1:
        raise InputError("samples", samples, "at least 1")
    if not 0 <= threshold <= 1:
        raise InputError("threshold", threshold, "0 to 1")
    levels = img2img_levels(pipe.schedule.levels(100, sampler="ddim", final_sigma="zero"), strength)
    sigma = levels.sigmas[0]
    noise = PerImageNoise(range(seed, seed + samples)).draw(clean.shape[1:]).to(clean)
    x = clean + sigma * noise
    first, second = (denoiser(pipe, prompt, levels)(x, sigma) for prompt in (source, target))
    distance = ((first - second) / sigma).abs().mean((0, 1))
    if not distance.max() > 0:
        raise InputError("target", target, "a prompt whose predicted noise differs from the source's")
    distance = distance.clamp(max=float(3 * distance.mean()))
    share = (distance - distance.min()) / (distance.max() - distance.min()).clamp_min(1e-12)
    return (share >= threshold).to(clean)[None, None]


def diffedit(
    pipe: Pipeline,
    image: ImageSource,
    source: Prompt,
    target: Prompt,
    *,
    steps: int = 50,
    strength: float = 0.8,
    guidance_scale: float = 7.5,
    mask: Tensor | None = None,
) -> Edit:
    """DiffEdit (Couairon et al. 2023): edit the area on which two prompts disagree, keep the rest.

    Args:
        pipe: the model.
        image: the image.
        source: describes it.
        target: describes the edited image.
        steps: of the whole schedule.
        strength: share of the steps that are inverted, without a prompt: the paper's encoding ratio.
        guidance_scale: of the target prompt.
        mask: [1,1,h,w]; None makes it from the two prompts.

    Raises:
        InputError: as ``invert`` and ``difference_mask``; both prompts are equal, or the mask has another size than
            the latents.
    """
    opened, factor = open_image(image), pipe.config.vae.factor
    _check_mask(mask, (opened.height // factor, opened.width // factor))
    if mask is None and isinstance(source, str) and source == target:
        raise InputError("target", target, "another prompt than the source, or a mask")
    inversion = invert(pipe, opened, "", steps=steps, strength=strength)
    if mask is None:
        mask = difference_mask(pipe, inversion.path[-1], source, target)
    return redraw(pipe, inversion, target, guidance_scale=guidance_scale, mask=mask)


def _check_mask(mask: Tensor | None, size: Sequence[int]) -> None:
    if mask is not None and list(mask.shape[-2:]) != list(size):
        raise InputError("mask", mask, f"a mask of the latents' height and width, {list(size)}")
