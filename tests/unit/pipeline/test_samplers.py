"""Every sampler in a call: it is found by its names, gets the noise of its kind, and its seed is its picture."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import diffuscope as ds
from diffuscope.diffusion import samplers
from diffuscope.diffusion.samplers import SAMPLERS, TABLE, SamplerInfo
from diffuscope.diffusion.thresholding import thresholded
from diffuscope.pipeline import Pipeline
from diffuscope.types import Step
from refusals import refused

SIZE = {"height": 32, "width": 32, "guidance_scale": 1.0}


@pytest.mark.parametrize("info", TABLE.values(), ids=lambda info: info.name)
def test_a_call_with_each_sampler(tiny: Pipeline, info) -> None:
    first = tiny("a red fox", seed=3, sampler=info.label, num_inference_steps=2, **SIZE)
    again = tiny("a red fox", seed=3, sampler=info.name, num_inference_steps=2, **SIZE)
    assert first.receipt["sampler"] == info.name
    assert first.latents.isfinite().all()
    assert torch.equal(first.latents, again.latents)


def test_noise_of_a_stochastic_equation_is_a_path(tiny: Pipeline) -> None:
    """The same seed leads to nearly the same picture whatever the number of steps; drawn afresh it would not."""

    @cache
    def latents(sampler: str, steps: int, seed: int) -> torch.Tensor:
        return tiny("a red fox", seed=seed, sampler=sampler, sigmas="karras", num_inference_steps=steps, **SIZE).latents

    def spread(sampler: str) -> float:
        """How far two numbers of steps are apart, where two seeds are 1 apart."""
        near = (latents(sampler, 8, 1) - latents(sampler, 16, 1)).std()
        return float(near / (latents(sampler, 8, 1) - latents(sampler, 8, 2)).std())

    assert spread("dpmpp_2m_sde") < 0.5 * spread("euler_ancestral")


def test_options_reach_the_sampler(tiny: Pipeline, tmp_path: Path) -> None:
    """DDIM with all of its noise is DDPM, and its receipt says so."""
    call = {"prompt": "a red fox", "seed": 3, "sigmas": [10.0, 3.0, 1.0, 0.0], **SIZE}
    noisy = tiny(sampler="ddim", sampler_options={"eta": 1}, **call)
    assert torch.equal(noisy.latents, tiny(sampler="ddpm", **call).latents)
    assert not torch.equal(noisy.latents, tiny(sampler="ddim", **call).latents)
    assert noisy.receipt["sampler_options"] == {"eta": 1.0}
    (path,) = noisy.save(tmp_path / "noisy.png")
    assert ds.replay(path, model=tiny).identical


@pytest.mark.parametrize(("sampler", "options"), [("unipc", {"variant": "bh1"}), ("lms", {"order": 2})])
def test_options_of_other_kinds(tiny: Pipeline, sampler: str, options: dict[str, str]) -> None:
    call = {"prompt": "a red fox", "seed": 3, "sampler": sampler, "num_inference_steps": 4, **SIZE}
    assert not torch.equal(tiny(sampler_options=options, **call).latents, tiny(**call).latents)


@pytest.mark.parametrize(
    ("sampler", "option", "value"),
    [("ddim", "eta", -1.0), ("lms", "order", 5), ("restart", "times", 1001), ("dpmpp_2m", "solver", "rk4")],
)
def test_an_option_out_of_its_range(tiny: Pipeline, sampler: str, option: str, value: float | str) -> None:
    with refused(f"sampler_options.{option}", value):
        tiny.steps("a red fox", sampler=sampler, sampler_options={option: value}, **SIZE)


def test_the_end_is_a_choice(tiny: Pipeline, tmp_path: Path) -> None:
    """Euler's run ends at zero by itself, and on request at the lowest trained level, by as many steps."""
    call = {"prompt": "a red fox", "seed": 3, "sampler": "euler", "num_inference_steps": 4, **SIZE}
    usual, early = tiny(**call), tiny(final_sigma="sigma_min", **call)
    assert usual.receipt["final_sigma"] is None
    assert usual.receipt["noise_levels"][-1] == 0.0
    assert early.receipt["noise_levels"][-1] == pytest.approx(float(tiny.schedule.sigmas[0]))
    assert len(early.receipt["noise_levels"]) == len(usual.receipt["noise_levels"]) == 5
    assert torch.equal(tiny(final_sigma="zero", **call).latents, usual.latents)
    (path,) = early.save(tmp_path / "early.png")
    assert ds.replay(path, model=tiny).identical


@pytest.mark.parametrize("thresholding", [{"limit": 0.5}, {"ratio": 0.9, "max_value": 1.5}, {"max_value": 1.2}])
def test_thresholds_are_the_last_function_around_the_denoiser(
    tiny: Pipeline, tmp_path: Path, thresholding: dict[str, float]
) -> None:
    call = {"prompt": "a red fox", "seed": 3, "sampler": "ddim", "num_inference_steps": 4, **SIZE}
    result = tiny(thresholding=thresholding, **call)
    assert torch.equal(result.latents, tiny(guidance=lambda d: thresholded(d, **thresholding), **call).latents)
    assert not torch.equal(result.latents, tiny(**call).latents)
    assert result.receipt["thresholding"] == thresholding
    (path,) = result.save(tmp_path / "kept.png")
    assert ds.replay(path, model=tiny).identical


def test_options_and_end_of_the_preset_are_those_of_its_sampler(tiny: Pipeline, tmp_path: Path) -> None:
    preset = replace(tiny.config.preset, sampler="unipc", sampler_options={"order": 3}, final_sigma="sigma_min")
    pipe = Pipeline(replace(tiny.components, config=replace(tiny.config, preset=preset)))
    call = {"prompt": "a red fox", "seed": 3, "num_inference_steps": 4, **SIZE}
    usual = pipe(**call)
    assert usual.receipt["sampler_options"] == {"order": 3}
    assert usual.receipt["noise_levels"][-1] > 0
    same = tiny(sampler="unipc", sampler_options={"order": 3}, final_sigma="sigma_min", **call)
    assert torch.equal(usual.latents, same.latents)
    added = pipe(sampler_options={"variant": "bh1"}, **call)
    assert added.receipt["sampler_options"] == {"order": 3, "variant": "bh1"}
    other = pipe(sampler="euler", **call)
    assert other.receipt["sampler_options"] == {}
    assert torch.equal(other.latents, tiny(sampler="euler", **call).latents)
    assert pipe(sigmas=[5.0, 1.0, 0.0], prompt="a", seed=3, **SIZE).receipt["noise_levels"] == [5.0, 1.0, 0.0]
    for layout in ("own", "diffusers"):
        again = ds.load(pipe.save(tmp_path / layout, layout=layout), device="cpu")
        assert again.config.preset == preset
        torch.testing.assert_close(again(**call).latents, usual.latents, rtol=1e-4, atol=1e-4)  # docs: numerics
    (path,) = usual.save(tmp_path / "fox.png")
    assert ds.replay(path, model=pipe).identical


def half_euler(denoise, x, sigmas, *, noise=None, share=0.5) -> Iterator[Step]:
    """Euler's method that goes only a share of the way to the clean estimate."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        step = Step(i, sigma_next, x + (x0 - x) * share * (1 - sigma_next / sigma), x0)
        yield step
        x = step.x


@pytest.mark.usefixtures("registry")
def test_a_function_is_a_sampler(tiny: Pipeline, tmp_path: Path) -> None:
    call = {"prompt": "a red fox", "seed": 3, "num_inference_steps": 4, **SIZE}
    result = tiny(sampler=half_euler, sampler_options={"share": 1.0}, **call)
    euler = tiny(sampler="euler", **call)
    torch.testing.assert_close(result.latents, euler.latents, rtol=1e-4, atol=1e-4)
    assert result.receipt["noise_levels"] == euler.receipt["noise_levels"]
    assert result.receipt["sampler"] == "half_euler"
    assert result.receipt["sampler_options"] == {"share": 1.0}
    assert not torch.equal(tiny(sampler=half_euler, **call).latents, result.latents)
    (path,) = result.save(tmp_path / "fox.png")
    with refused("sampler", "half_euler") as caught:
        ds.replay(path, model=tiny)
    assert "samplers.register(half_euler)" in caught.value.hint
    samplers.register(half_euler)
    assert ds.replay(path, model=tiny).identical


@pytest.mark.usefixtures("registry")
def test_a_registered_sampler_is_found_by_its_names(tiny: Pipeline) -> None:
    row = SamplerInfo(half_euler, label="Half Euler", aliases=("k_half",), noise="brownian", timesteps="drop_last")
    for _ in range(2):  # as when a notebook's cell runs again
        assert samplers.register(row) is row
    call = {"prompt": "a red fox", "seed": 3, "num_inference_steps": 4, **SIZE}
    wanted = tiny(sampler=half_euler, **call)
    assert wanted.receipt["noise_levels"] == tiny(sampler="dpmpp_2m", **call).receipt["noise_levels"]
    for name in ("half_euler", "Half Euler", "K-HALF", "Half Euler Karras"):
        assert tiny(sampler=name, **call).receipt["sampler"] == "half_euler"
    assert torch.equal(tiny(sampler="half_euler", **call).latents, wanted.latents)
    assert ds.samplers()["half_euler"] is row
    samplers.register(half_euler)
    with refused("sampler", "k_half"):
        tiny("a red fox", sampler="k_half")


def euler(denoise, x, sigmas, *, noise=None) -> Iterator[Step]:
    yield from half_euler(denoise, x, sigmas)


def test_names_of_ours_are_not_given_away(tiny: Pipeline) -> None:
    with refused("sampler", "euler"):
        tiny("a red fox", sampler=euler, **SIZE)
    with refused("sampler", "euler"):
        samplers.register(euler)
    with refused("sampler", "half_euler"):
        samplers.register(SamplerInfo(half_euler, label="DPM++ 2M"))
    assert "half_euler" not in TABLE
    assert tiny("a red fox", seed=1, sampler=SAMPLERS["euler"], **SIZE).receipt["sampler"] == "euler"


def without_noise(denoise, x, sigmas) -> Iterator[Step]:
    yield from half_euler(denoise, x, sigmas)


@pytest.mark.parametrize("function", [without_noise, print, lambda *args, **options: iter((args, options)), str])
def test_functions_that_are_no_samplers(tiny: Pipeline, function) -> None:
    with refused("sampler"):
        tiny("a red fox", sampler=function, **SIZE)


def test_an_unknown_name_is_not_among_those_that_are_offered(tiny: Pipeline) -> None:
    with refused("sampler", "half_euler") as caught:
        tiny("a red fox", sampler="half_euler", **SIZE)
    assert "half_euler" not in caught.value.want
