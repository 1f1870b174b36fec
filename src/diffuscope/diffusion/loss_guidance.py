"""Loss guidance: any Python function of the predicted picture leads the run, by its gradient.

Cheap mode differentiates the picture by the predicted latents alone, after the network call; exact mode goes through
the network as well. The gradient of image k does not depend on its batch mates: each has its own loss.
"""

import math
from collections.abc import Callable, Iterator, Sequence, Set

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffuscope.errors import InputError
from diffuscope.types import Denoiser, Step

Loss = Callable[[Tensor], Tensor]
"""Picture [1,3,H,W] in [0,1], not clamped, -> one number. Called once an image, and first by ``check``."""

Decode = Callable[[Tensor], Tensor]
"""Latents [B,C,h,w] -> pictures [B,3,H,W] in [0,1], differentiable."""

HIGHEST = 15.0
"""Noise level above which no loss acts: Stable Diffusion's levels begin at 14.6. With zero terminal SNR the first is
4096, where the latents say nothing of the picture and ``sigma^2 gradient`` would throw them away."""


def colour_loss(red: float, green: float, blue: float, weight: float = 40.0) -> Loss:
    """``weight`` times the mean distance of all pixels from a colour in [0,1]; the class's target is (0.1, 0.9, 0.5).

    Raises:
        InputError: a part of the colour is outside [0, 1].
    """
    target = (red, green, blue)
    if not all(0 <= part <= 1 for part in target):
        raise InputError(f"colour {target} is outside [0, 1]; give red, green and blue as shares")

    def loss(picture: Tensor) -> Tensor:
        return weight * (picture - torch.tensor(target).to(picture)[:, None, None]).abs().mean()

    return loss


def blue_loss(target: float = 0.9, weight: float = 200.0) -> Loss:
    """The lesson's: ``weight`` times the mean distance of the blue channel from ``target``.

    A mean over pixels is per area: on a picture of fewer pixels each of them, and each latent, gets more of the
    gradient, and the constants made for 512x512 move the mean blue as far.
    """
    return lambda picture: weight * (picture[:, 2] - target).abs().mean()


def loss_gradient(loss: Loss, decode: Decode, denoise: Denoiser | None, x: Tensor, sigma: float) -> Tensor:
    """[B,C,H,W] gradient of the loss of the picture that ``x`` is estimated to become, by ``x``.

    Args:
        loss: of one picture.
        decode: latents to pictures.
        denoise: None takes ``x`` as the clean estimate itself. Else the gradient goes through it, and through
            ``decode``, each as one checkpoint: what the backward pass needs is computed again, so that only one of
            the two graphs is in memory at a time.
        x: latents. Not modified.
        sigma: their noise level.

    Raises:
        InputError: the loss is no single number, or nothing of it depends on the picture.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        if denoise is None:
            pictures = decode(leaf)
        else:
            x0 = checkpoint(denoise, leaf, sigma, use_reentrant=False, preserve_rng_state=False)
            pictures = checkpoint(decode, x0, use_reentrant=False, preserve_rng_state=False)
        return _gradient([loss(picture[None]) for picture in pictures], leaf)


def check(loss: Loss) -> None:
    """Try a loss on a grey picture of 64x64, so that one that cannot lead is refused before a network is called.

    What the loss itself raises there is left to the run: it may be made for another size, or another device.

    Raises:
        InputError: it is no function, it returns no single number, or nothing of that depends on the picture.
    """
    if not callable(loss):
        raise InputError(f"the loss is a {type(loss).__name__}; give a function of a picture")
    with torch.inference_mode(False), torch.enable_grad():
        grey = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
        try:
            value = loss(grey)
        except Exception:  # whatever a stranger's function may raise
            return
        _gradient([value], grey)


def _gradient(losses: Sequence[Tensor], leaf: Tensor) -> Tensor:
    """That of the sum of the losses by ``leaf``, from which they were computed."""
    for value in losses:
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"the loss returned {got}; return one number, such as .mean() of a tensor")
    total = torch.stack([value.reshape(()) for value in losses]).sum()
    gradient = torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None
    if gradient is None:
        raise InputError("the loss has no gradient by the picture; compute it from the picture with torch, undetached")
    return gradient


def loss_guidance(
    loss: Loss,
    decode: Decode,
    *,
    scale: float = 1.0,
    exact: bool | Denoiser = False,
    low: float = 0.0,
    high: float = HIGHEST,
) -> Callable[[Denoiser], Denoiser]:
    """``x0 - scale sigma^2 gradient``: the loss as one more term of the score (Dhariwal & Nichol 2021, section 4).

    Args:
        loss: of one picture.
        decode: latents to pictures in [0,1].
        scale: how strong; the loss may have its own weight.
        exact: differentiate through the network too (as Ho et al. 2022, video diffusion models): truer, two
            network calls and a backward pass a step more. True is through the Denoiser that is guided here; in a run
            with classifier-free guidance give the conditional Denoiser instead. The guided one, ``g cond - (g - 1)
            uncond``, has no Jacobian of an estimate, and by it a step may raise the loss.
        low: noise level at and below which the loss does not act any more: extra losses early only.
        high: noise level above which it does not act yet.

    Returns:
        A function for ``guidance=`` of a Pipeline's call.

    Raises:
        InputError: the scale is not finite, or a ``check`` of the loss fails.
    """
    if not math.isfinite(scale):
        raise InputError(f"scale {scale} of a loss is not finite; give a number such as 1")
    check(loss)

    def guide(denoise: Denoiser) -> Denoiser:
        def led(x: Tensor, sigma: float) -> Tensor:
            x0 = denoise(x, sigma)
            if not low < sigma <= high:
                return x0
            if exact:
                gradient = loss_gradient(loss, decode, denoise if exact is True else exact, x, sigma)
            else:
                gradient = loss_gradient(loss, decode, None, x0, sigma)
            return x0 - (scale * sigma**2) * gradient

        return led

    return guide


def led_by_loss(
    steps: Iterator[Step],
    sigmas: Sequence[float],
    loss: Loss,
    decode: Decode,
    *,
    every: int = 5,
    high: float = HIGHEST,
    seen: Callable[[int, float], None] | None = None,
) -> Iterator[Step]:
    """The lesson's edit between steps, in its cheap mode: every fifth step ``x - sigma^2 gradient``.

    The gradient is taken by the latents before the step, through ``x0 = x - sigma * noise prediction`` with the
    prediction held, and so equals that by x0. Solvers that are linear in x with the prediction held, such as Euler,
    DDIM and LMS, carry the edit unchanged over the step: taking it from the step's result is the same.

    Args:
        steps: a sampler's, or a Pipeline's run.
        sigmas: the run's noise levels.
        loss: of one picture; the lesson's is ``blue_loss()``.
        decode: latents to pictures in [0,1].
        every: which steps: those whose index is a multiple of it.
        high: noise level above which the steps stay as they are.
        seen: told the step's index and the loss, summed over the images, before the edit.

    Yields:
        The steps, with ``x`` edited.

    Raises:
        InputError: ``every`` is below 1, the loss is no single number, or it has no gradient.
    """
    if every < 1:
        raise InputError(f"every {every} steps; give at least 1")
    check(loss)
    chosen = {i for i, sigma in enumerate(sigmas) if i % every == 0 and sigma <= high}
    return _led(steps, sigmas, loss, decode, chosen, seen)


def _led(
    steps: Iterator[Step],
    sigmas: Sequence[float],
    loss: Loss,
    decode: Decode,
    chosen: Set[int],
    seen: Callable[[int, float], None] | None,
) -> Iterator[Step]:
    for step in steps:
        if step.index in chosen:
            total = 0.0

            def counted(picture: Tensor) -> Tensor:
                nonlocal total
                value = loss(picture)
                total += float(value.detach()) if isinstance(value, Tensor) and value.numel() == 1 else 0.0
                return value

            gradient = loss_gradient(counted, decode, None, step.x0, 0.0)
            if seen is not None:
                seen(step.index, total)
            step.x = step.x - sigmas[step.index] ** 2 * gradient
        yield step
