"""The map of a model's modules: all of them, with the shapes of a run, and the source of our own classes alone."""

import inspect as python

import pytest
import torch

from diffuscope.lens.capture import Capture
from diffuscope.lens.modules import histogram, modules, source
from diffuscope.nn.blocks import Transformer
from diffuscope.pipeline import Pipeline
from refusals import refused


def test_every_module_is_there_with_its_numbers(tiny: Pipeline) -> None:
    found = {info.name: info for info in modules(tiny)}
    for network in tiny.components.networks.values():
        assert found[str(network.component)].parameters == sum(value.numel() for value in network.parameters())
    assert found["unet.conv_in"].weights["weight"] == tuple(tiny.unet.conv_in.weight.shape)
    assert not found["unet.conv_in"].has_source
    assert found["unet.down.0.attn.0"].kind == "Transformer"


def test_shapes_are_those_of_a_run(tiny: Pipeline) -> None:
    """Of 8x8 latents."""
    name = "unet.mid.attn.0.block.0.cross_attn.weights"
    info = next(info for info in modules(tiny) if info.name == name.removesuffix(".weights"))
    capture = Capture(name, reduce="last")
    side = 8 * tiny.config.vae.factor
    tiny("a fox", seed=1, num_inference_steps=1, height=side, width=side, upscale=1, tap=capture)
    assert info.outputs[name] == tuple(capture[name].shape[1:])


def test_a_histogram_counts_every_number(tiny: Pipeline) -> None:
    found = histogram(tiny, "unet.conv_in.weight")
    weight = tiny.unet.conv_in.weight
    assert sum(found["counts"]) == weight.numel()
    assert found["mean"] == pytest.approx(float(weight.mean()))
    assert (found["low"], found["high"]) == (float(weight.min()), float(weight.max()))
    assert torch.Size(found["shape"]) == weight.shape
    with refused("name", "unet.conv_im.weight"):
        histogram(tiny, "unet.conv_im.weight")


def test_source_is_that_of_the_class_and_of_nothing_else(tiny: Pipeline) -> None:
    found = source(tiny, "unet.down.0.attn.0")
    lines, line = python.getsourcelines(Transformer)
    assert found == {"kind": "Transformer", "file": "nn/blocks.py", "line": line, "text": "".join(lines)}
    for name in ("unet.conv_in", "unet.../../etc/passwd", "os"):
        with refused("name", name):
            source(tiny, name)
