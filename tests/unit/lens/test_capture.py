"""Capture: what is stored is what ran, reduced exactly, counted before it starts, and nothing is changed by it."""

import pytest
import torch
from torch import Tensor

from diffuscope.config import PRESETS
from diffuscope.lens.capture import Capture
from diffuscope.lens.run_tap import compose
from diffuscope.lens.shapes import shapes
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.nn.taps import tap_points
from diffuscope.pipeline import Pipeline
from refusals import refused

WEIGHTS = "unet.*.cross_attn.weights"
TOLERANCE = 1e-5
"""Of attention written out against the fused kernel, float32."""


class Everything:
    """Keeps each value of each call, as it is: the slow twin of every reduction."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: list[Tensor] = []

    def wants(self, name: str) -> bool:
        return name == self.name

    def __call__(self, name: str, value: Tensor) -> Tensor:  # noqa: ARG002
        self.values.append(value.clone())
        return value


@pytest.mark.parametrize("reduce", ["mean", "sum", "last", "all"])
@pytest.mark.parametrize("heads", ["mean", "each"])
def test_reductions_on_the_fly_are_those_of_all_values(tiny: Pipeline, reduce: str, heads: str) -> None:
    name = "unet.down.0.attn.0.block.0.cross_attn.weights"
    capture, every = Capture(name, reduce=reduce, heads=heads), Everything(name)
    tiny("a red fox", seed=1, tap=compose(capture, every))
    values = torch.stack(every.values)
    assert len(values) == capture.calls == 4
    if heads == "mean":
        values = values.mean(2)
    expected = {"mean": values.mean(0), "sum": values.sum(0), "last": values[-1], "all": values}[reduce]
    torch.testing.assert_close(capture[name], expected, rtol=1e-6, atol=1e-7)


def test_capturing_changes_no_bit_but_for_weights_within_the_twins_tolerance(tiny: Pipeline) -> None:
    plain = tiny("a red fox", seed=1).latents
    assert torch.equal(
        tiny("a red fox", seed=1, tap=Capture(["unet.conv_out", "text_encoder.*.hidden"])).latents, plain
    )
    capture = Capture(WEIGHTS)
    watched = tiny("a red fox", seed=1, tap=capture).latents
    assert (watched - plain).abs().max() < TOLERANCE * plain.abs().max()
    assert all(torch.allclose(capture[name].sum(-1), torch.tensor(1.0), atol=1e-5) for name in capture.keys())  # noqa: SIM118


def test_a_run_forgets_the_one_before(tiny: Pipeline) -> None:
    capture = Capture("unet.conv_out", reduce="all")
    tiny("a red fox", seed=1, tap=capture)
    tiny("a red fox", seed=1, tap=capture, num_inference_steps=2)
    assert capture["unet.conv_out"].shape == (2, 2, 4, 16, 16)
    assert capture.keys() == ["unet.conv_out"]
    assert len(capture) == 1


@pytest.mark.parametrize("sampler", ["ddim", "heun", "lms", "dpmpp_2m", "euler_ancestral"])
def test_calls_are_counted_before_they_are_made(tiny: Pipeline, sampler: str) -> None:
    capture = Capture("unet.conv_out", reduce="all")
    tiny("a fox", seed=1, sampler=sampler, tap=capture)
    assert capture.calls == len(capture["unet.conv_out"]) == capture.call + 1


def test_shapes_are_those_of_the_run_and_draw_no_random_number(tiny: Pipeline) -> None:
    found: dict[str, torch.Size] = {}

    def look(name: str, value: Tensor) -> None:
        found[name] = value.shape

    tiny(["a fox", "a cat"], seed=1, num_inference_steps=1, height=24, width=40, tap=look)
    seen: list[dict[str, torch.Size]] = []

    class Ask(Everything):
        def prepare(self, components, request) -> None:
            seen.append(dict(shapes(components, request)))

    state = torch.get_rng_state()
    tiny.steps(["a fox", "a cat"], seed=1, num_inference_steps=1, height=24, width=40, tap=Ask("unet.conv_out"))
    assert torch.equal(state, torch.get_rng_state())
    assert {name: seen[0][name] for name in found} == found


def test_the_estimate_is_what_is_stored(tiny: Pipeline) -> None:
    for reduce, heads in (("all", "each"), ("mean", "mean")):
        asked: list[int] = []

        capture = Capture([WEIGHTS, "unet.conv_out", "unet.*.weights"], reduce=reduce, heads=heads)

        class Ask(Everything):
            def prepare(self, components, request) -> None:
                asked.append(capture.estimate(components, request))  # noqa: B023

        tiny("a fox", seed=1, tap=compose(capture, Ask("unet.conv_out")))
        assert asked == [sum(capture[name].numel() * 4 for name in capture.keys())]  # noqa: SIM118


def test_what_cannot_be_is_refused_before_the_first_call(tiny: Pipeline) -> None:
    called: list[str] = []
    with refused("tap", "unet.mid.attn.0.block.0.cross_attn.weight") as caught:
        tiny("a fox", tap=compose(Capture("unet.mid.attn.0.block.0.cross_attn.weight"), Everything("unet.x")))
    assert "unet.mid.attn.0.block.0.cross_attn.weights" in caught.value.hint
    with refused("budget", "1,000 bytes"):
        tiny("a fox", tap=Capture(WEIGHTS, budget=1000))
    with refused("names", ()):
        Capture([])
    with refused("reduce", "median"):
        Capture("unet.conv_out", reduce="median")
    with refused("heads", "none"):
        Capture("unet.conv_out", heads="none")
    with refused("budget", 0):
        Capture("unet.conv_out", budget=0)
    with refused("name", "unet.conv_out"):
        Capture("unet.conv_out")["unet.conv_out"]
    assert called == []


def test_calls_of_one_part_alone_are_captured_too(tiny: Pipeline) -> None:
    capture = Capture("text_encoder.layer.*", reduce="last")
    tiny.encode_prompt("a fox", tap=Capture("text_encoder.last_hidden_state"))
    tiny.encode_prompt(["a fox", "a cat"], tap=capture)
    assert capture["text_encoder.layer.0"].shape == (2, 77, 32)


@pytest.mark.parametrize("name", ["tiny-sdxl", "tiny-sdxl-refiner", "tiny-sd15-lcm", "tiny-sd15-inpaint"])
def test_shapes_of_families_that_read_more_have_every_name(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        parts: list[torch.nn.Module] = [UNet(config.unet), TextEncoder(config.text_encoder)]
        if config.text_encoder_2 is not None:
            parts.append(TextEncoder(config.text_encoder_2, component="text_encoder_2"))
    assert set(shapes(parts, None)) == {point for part in parts for point in tap_points(part)}
