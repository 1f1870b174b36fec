"""Attend-and-Excite: the loss by hand, its gradient through the network, and a step that lowers it."""

import pytest
import torch

from diffuscope.lens.attend_and_excite import AttendAndExcite, attend_and_excite_loss
from diffuscope.pipeline import Pipeline
from refusals import refused

PROMPT = "a red fox and a blue cat"


def test_the_loss_is_of_the_most_neglected_word() -> None:
    weights = torch.full((1, 2, 4, 5), 0.01)
    weights[..., 2] = 0.3  # everywhere: its map is near 1, whatever is smoothed
    assert float(attend_and_excite_loss([weights], [2], (2, 2))) == pytest.approx(0.0, abs=1e-6)
    assert float(attend_and_excite_loss([weights], [2, 3], (2, 2))) == pytest.approx(1.0, abs=1e-6)


def test_steps_go_down_the_loss(tiny: Pipeline) -> None:
    levels = tiny.schedule.levels(4, sampler="ddim")
    losses: list[torch.Tensor] = []
    asked: list[torch.Tensor] = []
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * levels.sigmas[2]
    guide = AttendAndExcite(
        tiny, PROMPT, ["fox", "cat"], levels, scale=0.5, stride=1, callback=lambda _, loss: losses.append(loss)
    )

    def keep(x, sigma):
        asked.append(x)
        return x

    denoise = guide(keep)
    with torch.no_grad():
        denoise(x, levels.sigmas[2])
        denoise(asked[0], levels.sigmas[2])
    assert bool((losses[1] < losses[0]).all())
    assert not torch.equal(asked[0], x)
    with torch.no_grad():
        denoise(x, 0.123)
    assert asked[-1] is x


def test_it_guides_a_run(tiny: Pipeline) -> None:
    seen: list[float] = []
    levels = tiny.steps(PROMPT, seed=1).levels
    guide = AttendAndExcite(
        tiny, PROMPT, ["fox"], levels, steps=2, stride=1, callback=lambda sigma, _: seen.append(sigma)
    )
    led = tiny(PROMPT, seed=1, guidance=guide).latents
    assert seen == list(levels.sigmas[:2])
    assert not torch.equal(led, tiny(PROMPT, seed=1).latents)


def test_it_moves_the_latents_between_steps(tiny: Pipeline) -> None:
    run = tiny.steps(PROMPT, seed=1)
    seen: list[float] = []
    excite = AttendAndExcite(
        tiny, PROMPT, ["fox"], run.levels, steps=3, stride=1, callback=lambda sigma, _: seen.append(sigma)
    )
    for _ in excite.guide(run):
        pass
    assert seen == list(run.levels.sigmas[1:3])
    assert run.result().receipt["branch"]["step"] == 2


def test_what_cannot_be_is_refused(tiny: Pipeline) -> None:
    levels = tiny.schedule.levels(4)
    with refused("word", "foxx"):
        AttendAndExcite(tiny, PROMPT, ["foxx"], levels)
    with refused("words", []):
        AttendAndExcite(tiny, PROMPT, [], levels)
    guide = AttendAndExcite(tiny, PROMPT, ["fox"], levels, stride=7)
    with refused("steps", 0):
        AttendAndExcite(tiny, PROMPT, ["fox"], levels, steps=0)
    with refused("stride", 7):
        guide(lambda x, _: x)(torch.zeros(1, 4, 16, 16), levels.sigmas[0])
