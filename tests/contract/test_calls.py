"""The network calls of a run are known before it: a tap that keeps every call has room for them."""

import random

import pytest
import torch

from diffuscope.diffusion.noise import PerImageNoise
from diffuscope.diffusion.samplers import SAMPLERS, network_calls
from diffuscope.lens.capture import Capture
from diffuscope.pipeline import Pipeline

OPTIONS = [
    *((name, {}) for name in SAMPLERS),
    *((name, {"s_churn": 8.0, "s_tmin": 0.2, "s_tmax": 50.0}) for name in ("euler", "heun", "kdpm2")),
    *((name, {"eta": 0.0}) for name in ("kdpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "tcd")),
    *(("restart", {"times": times, "low": low, "high": 9.0}) for times, low in ((0, 0.1), (3, 0.5), (2, 5.0))),
    ("unipc", {"order": 3}),
]


def random_sigmas(chance: random.Random, first: float) -> list[float]:
    below = sorted((first * chance.random() ** 3 for _ in range(chance.randint(0, 12))), reverse=True)
    return [first, *below, *([0.0] if not below or chance.random() < 0.7 else [])]


@pytest.mark.parametrize("first", [14.6, 4096.0])
def test_calls_are_counted_as_the_real_sampler_makes_them(first: float) -> None:
    chance = random.Random(5)
    for name, options in OPTIONS:
        for _ in range(4):
            calls: list[float] = []

            def denoise(x: torch.Tensor, sigma: float, calls: list[float] = calls) -> torch.Tensor:
                calls.append(sigma)
                return torch.tanh(x)

            sigmas = random_sigmas(chance, first)
            counted = []
            steps = SAMPLERS[name](denoise, torch.ones(2, 4, 3, 3), sigmas, noise=PerImageNoise([1, 2]), **options)
            for _ in steps:
                counted.append(len(calls) - sum(counted))
            assert network_calls(SAMPLERS[name], sigmas, **options) == counted, (name, options, sigmas)


@pytest.mark.parametrize(
    ("sampler", "options"), [("heun", {}), ("f_pndm", {}), ("restart", {"sampler_options": {"times": 3}})]
)
@pytest.mark.parametrize("end", [None, 0.5])
def test_a_tap_knows_the_calls_before_the_run(tiny: Pipeline, sampler: str, options: dict, end: float | None) -> None:
    capture = Capture("unet.conv_out", reduce="last")
    call = {"seed": 1, "sampler": sampler, "num_inference_steps": 6, "guidance_scale": 1.0, **options}
    run = tiny.steps("a", denoising_end=end, tap=capture, **call)
    known = capture.calls
    assert len(list(run)) == len(run.levels.sigmas) - 1
    assert capture.call + 1 == known
