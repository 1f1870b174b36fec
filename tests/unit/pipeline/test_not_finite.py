"""Values that are not finite, in each phase: an error says what to change, and no image comes."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffuscope.errors import NonFiniteError
from diffuscope.models.upscaler import Upscaler
from diffuscope.pipeline import Pipeline
from narrow import made


def in_call(number: int) -> Callable[[Tensor], Tensor]:
    """What a tap makes of a tensor: itself, but no numbers in one call."""
    calls = iter(range(1000))
    return lambda value: value * math.nan if next(calls) == number else value


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("text_encoder.embeddings", 0, "after 4 steps the latents are not finite in float32; lower .* or load"),
        ("unet.conv_out", 2, "after 4 steps the latents are not finite in float32; lower .* or load"),
        ("vae.decoder.conv_out", 0, "the VAE's decoder returned values that are not finite.*check taps"),
    ],
)
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
def test_of_a_tap(tiny: Pipeline, name: str, number: int, message: str, sampler: str) -> None:
    options = {"seed": 1, "num_inference_steps": 4, "sampler": sampler}
    with pytest.raises(NonFiniteError, match=message):
        tiny("a", **options, tap={name: in_call(number)})


def test_on_a_cpu_nothing_is_decoded_of_latents_that_are_not_finite(tiny: Pipeline) -> None:
    seen: list[str] = []
    broken = in_call(2)

    def tap(name: str, value: Tensor) -> Tensor | None:
        seen.append(name)
        return broken(value) if name == "unet.conv_out" else None

    with pytest.raises(NonFiniteError, match="the latents"):
        tiny("a", seed=1, num_inference_steps=4, tap=tap)
    assert seen
    assert not any(name.startswith("vae.") for name in seen)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("network", "weight"),
    [
        ("text_encoder", "final_norm.weight"),
        ("unet", "mid.resnet.0.conv1.weight"),
        ("vae", "decoder.conv_in.weight"),
    ],
)
def test_of_a_weight_on_the_fast_path(network: str, weight: str, bad: float) -> None:
    pipe = made("sd15")
    pipe.engine.wanted = True
    getattr(pipe, network).get_parameter(weight).fill_(bad)
    with pytest.raises(NonFiniteError, match="not finite"):
        pipe("a", seed=1, num_inference_steps=2)


def test_of_the_upscaler(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Upscaler.forward

    def damaged(self: Upscaler, *args: object) -> Tensor:
        found: Tensor = real(self, *args)  # type: ignore[arg-type]
        found[..., 0, 0] = math.nan
        return found

    monkeypatch.setattr(Upscaler, "forward", damaged)
    with pytest.raises(NonFiniteError, match="upscale=1"):
        tiny("a", seed=1, upscale=4)
    monkeypatch.undo()
    assert len(set(tiny("a", seed=1, upscale=4).images[0].tobytes())) > 16
    assert torch.isfinite(tiny("a", seed=1).latents).all()
