"""Loss guidance: gradients are those of finite differences, the lesson's arithmetic holds, bad losses are named."""

from itertools import pairwise

import pytest
import torch

from diffuscope.diffusion.loss_guidance import (
    blue_loss,
    colour_loss,
    guide_steps,
    loss_gradient,
    loss_guidance,
)
from diffuscope.diffusion.samplers import SAMPLERS, final
from refusals import refused

DOUBLE = torch.float64
MATRIX = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
X = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
SIGMAS = [5.0, 2.0, 1.0, 0.5, 0.0]


def decode(latents):
    return torch.sigmoid(torch.einsum("rc,bchw->brhw", MATRIX, latents))


def denoise(x, sigma):
    return torch.tanh(x / (1 + sigma)) * 0.8


def smooth(picture):
    return ((picture - 0.3) ** 2).mean() * 7


def differences(function, x, h=1e-5):
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros(x.numel(), dtype=DOUBLE)
        step[i] = h
        step = step.view_as(x)
        gradient.view(-1)[i] = (function(x + step) - function(x - step)) / (2 * h)
    return gradient


@pytest.mark.parametrize("exact", [False, True])
def test_gradients_are_those_of_finite_differences(exact):
    def total(x):
        x0 = denoise(x, 2.0) if exact else x
        return sum(smooth(picture[None]) for picture in decode(x0))

    with torch.no_grad():  # as a run has it
        found = loss_gradient(smooth, decode, denoise if exact else None, X, 2.0)
        torch.testing.assert_close(found, differences(total, X), rtol=1e-6, atol=1e-8)
        led = loss_guidance(smooth, decode, scale=0.5, exact=exact)(denoise)(X, 2.0)
        if exact:
            torch.testing.assert_close(led, denoise(X, 2.0) - 0.5 * 4 * found)
    assert not X.requires_grad


def test_an_image_does_not_feel_its_batch_mates():
    led = loss_guidance(blue_loss(), decode)(denoise)
    torch.testing.assert_close(led(X, 2.0)[:1], led(X[:1], 2.0))


def test_outside_its_levels_the_loss_does_not_act():
    led = loss_guidance(smooth, decode, low=2.0, high=3.0)(denoise)
    for sigma, acts in ((2.0, False), (2.1, True), (3.0, True), (3.1, False)):
        assert torch.equal(led(X, sigma), denoise(X, sigma)) is not acts


def test_where_the_latents_say_nothing_no_loss_acts():
    """Zero terminal SNR begins at 4096, where sigma^2 gradient would throw the latents away."""
    assert torch.equal(loss_guidance(smooth, decode)(denoise)(X, 4096.0), denoise(X, 4096.0))
    sigmas = [4096.0, 2.0, 0.0]
    seen = []
    run = guide_steps(
        SAMPLERS["euler"](denoise, X, sigmas), sigmas, smooth, decode, every=1, callback=lambda i, _: seen.append(i)
    )
    final(run)
    assert seen == [1]


def test_the_gradient_may_go_through_another_denoiser():
    def other(x, sigma):
        return torch.sin(x) / (1 + sigma)

    led = loss_guidance(smooth, decode, scale=0.5, exact=other)(denoise)(X, 2.0)
    gradient = loss_gradient(smooth, decode, other, X, 2.0)
    torch.testing.assert_close(led, denoise(X, 2.0) - 0.5 * 4 * gradient)


@pytest.mark.parametrize("sampler", ["euler", "ddim", "lms"])
def test_the_edit_is_the_lessons_loop(sampler):
    """The lesson: grad by the latents with the prediction held, ``latents -= grad sigma^2``, then the solver's step."""
    loss, every = blue_loss(), 2
    losses = []
    edited = list(
        guide_steps(
            SAMPLERS[sampler](denoise, X, SIGMAS),
            SIGMAS,
            loss,
            decode,
            every=every,
            callback=lambda _, v: losses.append(v),
        )
    )
    assert len(losses) == 2
    x = X
    history = []
    for i, (sigma, after) in enumerate(pairwise(SIGMAS)):
        noise = (x - denoise(x, sigma)) / sigma
        history.append(noise)
        if i % every == 0:
            leaf = x.detach().requires_grad_()
            value = sum(loss(picture[None]) for picture in decode(leaf - sigma * noise.detach()))
            x = leaf.detach() - torch.autograd.grad(value, leaf)[0] * sigma**2
        if sampler == "lms":  # the solver's own linear combination of predictions, found from its plain step
            plain = list(SAMPLERS[sampler](lambda y, s, h=history: y - s * h[SIGMAS.index(s)], X * 0, SIGMAS[: i + 2]))
            before = plain[i - 1].x if i else X * 0
            x = x + plain[i].x - before
        else:
            x = x + (after - sigma) * noise
    torch.testing.assert_close(edited[-1].x, x)


def test_guiding_lowers_the_loss():
    loss = colour_loss(0.1, 0.9, 0.5, weight=5.0)

    def of(x):
        return float(sum(loss(picture[None]) for picture in decode(x)))

    plain = final(SAMPLERS["euler"](denoise, X * 5, SIGMAS))
    for exact in (False, True):
        led = loss_guidance(loss, decode, exact=exact)(denoise)
        assert of(final(SAMPLERS["euler"](led, X * 5, SIGMAS))) < of(plain)


def test_the_lessons_constants():
    picture = torch.zeros(1, 3, 2, 2)
    assert float(blue_loss()(picture)) == pytest.approx(180.0)
    assert float(colour_loss(0.1, 0.9, 0.5)(picture)) == pytest.approx(40 * 0.5)


@pytest.mark.parametrize(
    "loss",
    [
        lambda picture: picture.mean((2, 3)),
        lambda _: 3.0,
        lambda picture: picture.detach().mean(),
        lambda _: torch.ones((), requires_grad=True) * 2,
    ],
)
def test_unusable_losses_are_refused_before_any_call_and_in_the_run(loss):
    def strict(picture):
        assert picture.shape[-1] == 3, "made for one size, as the trial's is another"
        return loss(picture)

    with refused("loss"):
        loss_guidance(loss, decode)
    with refused("loss"):
        guide_steps(iter(()), SIGMAS, loss, decode)
    with refused("loss"):
        loss_guidance(strict, decode)(denoise)(X, 1.0)
    with refused("loss"):
        list(guide_steps(SAMPLERS["euler"](denoise, X, SIGMAS), SIGMAS, strict, decode))


def test_what_a_loss_itself_raises_is_left_to_the_run():
    def broken(picture):
        raise KeyError(f"of {list(picture.shape)}")

    guide = loss_guidance(broken, decode)
    with pytest.raises(KeyError, match=r"\[1, 3, 3, 3\]"):
        guide(denoise)(X, 1.0)


def test_impossible_settings_are_refused():
    with refused("every", 0):
        guide_steps(iter(()), SIGMAS, smooth, decode, every=0)
    with refused("scale"):
        loss_guidance(smooth, decode, scale=float("nan"))
    with refused("loss", "blue"):
        loss_guidance("blue", decode)
    with refused("colour"):
        colour_loss(0.1, 25, 0.5)
