"""Options of guidance: each is the function of its name, is in the receipt, and is replayed; bad ones are named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import diffuscope as ds
from diffuscope.diffusion.guidance import Rule, falling, guided, guided_by, interval, norm_rescale, rescaled
from diffuscope.diffusion.loss_guidance import colour_loss, loss_guidance
from diffuscope.lens.functions import decoder, denoiser
from diffuscope.pipeline import Pipeline
from diffuscope.types import Denoiser
from refusals import refused

CALL: dict[str, Any] = {"seed": 3, "num_inference_steps": 4, "sampler": "euler", "upscale": 1}
TOLERANCE = 1e-3
"""One call of a doubled batch against two: only the kernels' order of sums may differ."""


def rule(make: Callable[[float, str], Rule]) -> Callable[[Pipeline, Denoiser, Denoiser], Denoiser]:
    return lambda pipe, cond, uncond: guided(cond, uncond, make(4.0, pipe.config.schedule.prediction))


def sigmas(pipe: Pipeline) -> tuple[float, ...]:
    return pipe.schedule.levels(4, sampler="euler").sigmas


BY_HAND = {
    "rescale": ({"rescale": 0.7}, rule(lambda scale, kind: rescaled(scale, 0.7, kind))),
    "whole": ({"norm": "whole"}, rule(lambda scale, kind: norm_rescale(scale, "whole", kind))),
    "update": ({"norm": "update"}, rule(lambda scale, kind: norm_rescale(scale, "update", kind))),
    "both": ({"norm": "both"}, rule(lambda scale, kind: norm_rescale(scale, "both", kind))),
    "end": ({"end": 0}, lambda pipe, cond, uncond: guided_by(cond, uncond, falling(4.0, 0.0, sigmas(pipe)))),
    "shape": (
        {"end": 2.0, "shape": "cosine"},
        lambda pipe, cond, uncond: guided_by(cond, uncond, falling(4.0, 2.0, sigmas(pipe), "cosine")),
    ),
    "interval": (
        {"interval": (0.1, 3.0)},
        lambda _, cond, uncond: guided_by(cond, uncond, interval(4.0, 0.1, 3.0)),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_an_option_is_the_function_of_its_name(tiny: Pipeline, tmp_path: Path, name: str) -> None:
    given, by_hand = BY_HAND[name]
    levels = tiny.schedule.levels(4, sampler="euler")
    cond, uncond = (denoiser(tiny, text, levels) for text in ("a red fox", "blue"))
    wanted = tiny("a red fox", guidance_scale=1.0, guidance=lambda _: by_hand(tiny, cond, uncond), **CALL)
    call = {"negative_prompt": "blue", "guidance_scale": 4.0, **CALL}
    found = tiny("a red fox", guidance_options=given, **call)
    torch.testing.assert_close(found.latents, wanted.latents, rtol=TOLERANCE, atol=TOLERANCE)
    assert not torch.equal(found.latents, tiny("a red fox", **call).latents)
    assert found.receipt["guidance_options"] == {
        key: list(value) if isinstance(value, tuple) else value for key, value in given.items()
    }
    assert found.receipt["edits"] == []
    (path,) = found.save(tmp_path / "guided.png")
    assert ds.replay(path, model=tiny).identical


def test_a_colour_leads_there_as_the_function_does(tiny: Pipeline, tmp_path: Path) -> None:
    colour = (0.9, 0.1, 0.2)
    function = loss_guidance(colour_loss(*colour), decoder(tiny), scale=4.0, low=0.5)
    wanted = tiny("a red fox", guidance=function, **CALL)
    given = {"colour": colour, "colour_scale": 4, "colour_low": 0.5}
    found = tiny("a red fox", guidance_options=given, **CALL)
    assert torch.equal(found.latents, wanted.latents)
    (path,) = found.save(tmp_path / "coloured.png")
    assert ds.replay(path, model=tiny).identical
    alone = tiny("a red fox", guidance_scale=1.0, guidance_options={"colour": colour}, **CALL)
    assert not torch.equal(alone.latents, tiny("a red fox", guidance_scale=1.0, **CALL).latents)


def test_no_options_change_no_bit(tiny: Pipeline) -> None:
    plain = tiny("a red fox", **CALL)
    assert plain.receipt["guidance_options"] == {}
    assert torch.equal(tiny("a red fox", guidance_options={}, **CALL).latents, plain.latents)


def test_outside_of_the_interval_rows_are_saved_but_not_from_a_tap(tiny: Pipeline, monkeypatch) -> None:
    rows: list[int] = []
    forward = tiny.unet.forward
    monkeypatch.setattr(tiny.unet, "forward", lambda x, *args, **kw: rows.append(len(x)) or forward(x, *args, **kw))
    call = {"guidance_scale": 4.0, "guidance_options": {"interval": [0.1, 3.0]}, **CALL}
    plain = tiny("a red fox", **call)
    inside = [2 if 0.1 < sigma <= 3.0 else 1 for sigma in sigmas(tiny)[:-1]]
    assert rows == inside
    assert {1, 2} == set(inside)
    rows.clear()
    seen = tiny("a red fox", tap={"unet.conv_out": lambda value: value}, **call)
    assert rows == [2] * 4
    torch.testing.assert_close(seen.latents, plain.latents, rtol=TOLERANCE, atol=TOLERANCE)


def test_conditioning_of_another_length_is_guided_by_two_calls(tiny: Pipeline) -> None:
    told = tiny.encode_prompt("a red fox")
    short = replace(told, embeddings=told.embeddings[:, :9], ids=None)
    levels = tiny.schedule.levels(4, sampler="euler")
    cond, uncond = (denoiser(tiny, text, levels) for text in (short, ""))
    call = {"conditioning": short, **CALL}
    found = tiny(guidance_scale=4.0, guidance_options={"rescale": 1.0}, **call)
    kind = tiny.config.schedule.prediction
    wanted = tiny(guidance_scale=1.0, guidance=lambda _: guided(cond, uncond, rescaled(4.0, 1.0, kind)), **call)
    assert torch.equal(found.latents, wanted.latents)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        (["rescale"], "guidance_options"),
        ({"recsale": 1}, "guidance_options.recsale"),
        ({"rescale": 1.5}, "guidance_options.rescale"),
        ({"rescale": "much"}, "guidance_options.rescale"),
        ({"rescale": True}, "guidance_options.rescale"),
        ({"norm": "half"}, "guidance_options.norm"),
        ({"norm": "whole", "rescale": 0.5}, "guidance_options.norm"),
        ({"end": float("nan")}, "guidance_options.end"),
        ({"shape": "cosine"}, "guidance_options.shape"),
        ({"interval": [1.0]}, "guidance_options.interval"),
        ({"interval": [3.0, 1.0]}, "guidance_options.interval"),
        ({"colour": [0.1, 0.9]}, "guidance_options.colour"),
        ({"colour": [25, 0.9, 0.5]}, "guidance_options.colour"),
        ({"colour_scale": 3}, "guidance_options.colour_scale"),
        ({"colour_low": 3}, "guidance_options.colour_low"),
    ],
)
def test_options_that_cannot_be_are_named(tiny: Pipeline, options: object, argument: str) -> None:
    with refused(argument):
        tiny("a red fox", guidance_scale=4.0, guidance_options=options, **CALL)


def test_without_guidance_there_is_nothing_to_join(tiny: Pipeline) -> None:
    for given in ({"rescale": 0.7}, {"norm": "whole"}, {"end": 0}, {"interval": [0.1, 3.0]}):
        with refused("guidance_scale", 1.0):
            tiny("a red fox", guidance_scale=1.0, guidance_options=given, **CALL)


@pytest.mark.parametrize(
    "change",
    [lambda x0: x0[:, :1], lambda x0: x0[:1], lambda x0: x0.mean(), lambda x0: x0[..., None], lambda _: None],
    ids=["channel", "image", "number", "axis", "nothing"],
)
def test_estimates_of_another_shape_are_not_broadcast(tiny: Pipeline, change: Callable[[Any], Any]) -> None:
    with refused("guidance"):
        tiny("a fox", num_images_per_prompt=2, guidance=lambda d: lambda x, sigma: change(d(x, sigma)), **CALL)


BEYOND = [1e7, -1e39, 1e308, 10**400]
"""Beyond what float32 or a float can hold."""


@pytest.mark.parametrize("value", BEYOND, ids=lambda value: "10^400" if isinstance(value, int) else f"{value:g}")
def test_numbers_beyond_all_use_are_refused(tiny: Pipeline, value: float) -> None:
    for name in ("guidance_scale", "image_guidance_scale"):
        with refused(name, value):
            tiny("a fox", **{name: value}, **CALL)
    for option in ("end", "colour_scale", "similarity_scale"):
        losses = {"colour": (0, 0, 1), "similarity": "a cat"}
        with refused(f"guidance_options.{option}", value):
            tiny("a fox", guidance_options={option: value, **losses}, **CALL)
    for option in ("limit", "max_value"):
        with refused(f"thresholding.{option}", value):
            tiny("a fox", thresholding={option: value}, **CALL)
    with refused("sigmas"):
        tiny("a fox", seed=1, sigmas=[abs(value), 0])
    with refused("scale"):
        guided_by(lambda x, _: x, lambda x, _: x, lambda _: value)(torch.zeros(1), 1.0)


def test_the_largest_numbers_are_possible(tiny: Pipeline) -> None:
    for sampler in ("euler", "dpmpp_2m_sde", "lcm"):
        assert tiny("a fox", seed=1, sampler=sampler, sigmas=[1e6, 1.0, 0.0]).latents.isfinite().all()
    assert tiny("a fox", thresholding={"limit": 1e6}, **CALL).latents.isfinite().all()


def test_both_estimates_are_seen_and_change_nothing(tiny: Pipeline) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]] = []
    options = {"prompt": "a fox", "seed": 3, "num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent"}
    run = tiny.steps(**options, on_guidance=lambda *each: seen.append(each))
    steps = [(step.x.clone(), step.x0.clone()) for step in run]
    assert [sigma for *_, sigma in seen] == list(run.levels.sigmas[:-1])
    for (uncond, cond, _, _), (_, x0) in zip(seen, steps, strict=True):
        torch.testing.assert_close(uncond + 4.0 * (cond - uncond), x0)
    torch.testing.assert_close(seen[1][2], steps[0][0], rtol=0, atol=0)
    result = run.result()
    assert torch.equal(result.latents, tiny(**options).latents)
    assert result.receipt["edits"] == []
    with refused("on_guidance"):
        tiny.steps("a fox", on_guidance=3)
