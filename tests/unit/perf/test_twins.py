"""The fast twins agree with the plain networks, and notice every change of the weights."""

import gc
import hashlib
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import diffuscope as ds
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.perf import graphs, ops
from diffuscope.perf.engine import Approximation, Engine
from diffuscope.perf.unet import FastUNet
from diffuscope.pipeline import Pipeline
from narrow import made
from refusals import refused

TOLERANCE = 1e-5
"""Of the largest value, in float32: the twins add the same numbers in another order."""


@pytest.fixture
def model() -> Pipeline:
    return made("sd15")


def close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


def inputs(unet: UNet, height: int = 9, width: int = 12) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor] | None]:
    """Two latents twice, a time, texts and what else the network reads."""
    config, generator = unet.config, torch.Generator().manual_seed(0)
    x = torch.randn(2, config.in_channels, height, width, generator=generator)
    extra = {}
    if "pooled" in unet.reads:
        assert unet.add_embed is not None
        pooled = unet.add_embed.linear_1.in_features - 6 * unet.config.size_dim
        extra |= {"pooled": torch.randn(4, pooled, generator=generator), "sizes": torch.full((4, 6), 64.0)}
    if "guidance" in unet.reads:
        extra["guidance"] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    context = torch.randn(4, 7, config.context_dim, generator=generator)
    return torch.cat([x, x]), torch.tensor(501.5), context, extra or None


@pytest.mark.parametrize("family", ["sd15", "sd21-v", "sdxl", "sd15-lcm", "sd15-inpaint"])
@torch.no_grad()
def test_both_networks_of_every_family(family: str) -> None:
    pipe, engine = made(family), Engine(True)
    for height, width in ((8, 8), (9, 12)):
        x, time, context, extra = inputs(pipe.unet, height, width)
        expected = pipe.unet(x, time, context, extra=extra)
        for pairs in (False, True):
            assert close(engine.predictor(pipe.unet, context, extra, pairs=pairs)(x, time), expected)
    latents = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    assert close(engine.decode(pipe.vae, latents), pipe.vae.decode(latents))
    pixels = torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found, wanted = engine.encode(pipe.vae, pixels), pipe.vae.encode(pixels)
    assert close(found.mean, wanted.mean)
    assert close(found.logvar, wanted.logvar)


@torch.no_grad()
def test_the_networks_themselves_answer_bit_for_bit_as_before_on_a_cpu() -> None:
    pipe, engine = made("sd15"), Engine(True)
    x, time, context, extra = inputs(pipe.unet)
    latents = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))

    def answers() -> tuple[Tensor, Tensor]:
        return pipe.unet(x, time, context, extra=extra), pipe.vae.decode(latents)

    before = answers()
    engine.predictor(pipe.unet, context, extra, pairs=False)(x, time)
    engine.decode(pipe.vae, latents)
    assert all(map(torch.equal, answers(), before))


@torch.no_grad()
def test_rows_that_come_twice_run_once_up_to_the_text(model: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, real = [], ops.product

    def seen(layer: nn.Conv2d, x: Tensor) -> Tensor:
        rows.append(len(x))
        return real(layer, x)

    monkeypatch.setattr(ops, "product", seen)
    x, time, context, _ = inputs(model.unet)
    Engine(True).predictor(model.unet, context, None, pairs=True)(x, time)
    assert rows[:3] == [2, 2, 2]
    assert set(rows[3:]) == {4}


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd15-lcm"])
@torch.no_grad()
def test_rows_of_several_runs_in_one_call(family: str) -> None:
    unet, engine = made(family).unet, Engine(True)
    x, _, context, extra = inputs(unet)
    rows, expected = [], []
    for time in (501.5, 20.0, 999.0):
        given = None if extra is None else {name: value.roll(int(time), 0) for name, value in extra.items()}
        text = context.roll(int(time), 0)
        reading = engine.reading(unet, text, given, (time,))
        timed = reading.timed(reading.now(), torch.tensor(time)).expand(4, -1)
        rows.append([x, timed, *reading.tensors])
        expected.append(unet(x, time, text, extra=given))
    joined = [torch.cat(each) for each in zip(*rows, strict=True)]
    assert close(engine.joined(*reading.now(), joined), torch.cat(expected))
    assert close(engine.joined(*reading.now(), [each[:5] for each in joined]), torch.cat(expected)[:5])


@torch.no_grad()
def test_timesteps_of_a_run_are_embedded_in_one_product(model: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, context, _ = inputs(model.unet)
    asked, real = [], FastUNet.timed

    def seen(self: FastUNet, prompt: object, times: Tensor) -> Tensor:
        asked.append(times.tolist())
        return real(self, prompt, times)  # type: ignore[arg-type]

    monkeypatch.setattr(FastUNet, "timed", seen)
    predict = Engine(True).predictor(model.unet, context, None, pairs=False, times=(999.0, 500.0, 1.0))
    for time in (999.0, 500.0, 750.0, 1.0):
        assert close(predict(x, torch.tensor(time)), model.unet(x, time, context))
    assert asked == [[999.0, 500.0, 1.0], [750.0], [999.0, 500.0, 1.0]]  # a block begins at a fixed place


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@torch.no_grad()
def test_deep_features_are_computed_in_some_calls_only(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unet, engine = made(family).unet, Engine()
    x, _, context, extra = inputs(unet)
    deep, real = [], FastUNet.deep

    def seen(self: FastUNet, *rest: object) -> Tensor:
        deep.append(rest)
        return real(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(FastUNet, "deep", seen)
    weights = [each.stride() for each in unet.parameters()]
    predict = engine.predictor(unet, context, extra, pairs=True, approximation=Approximation(caching=3))
    calls = [predict(x, torch.tensor(time)) for time in (900.0, 700.0, 500.0, 300.0)]
    assert len(deep) == 2
    exact = [unet(x, time, context, extra=extra) for time in (900.0, 700.0, 500.0, 300.0)]
    assert [close(*each) for each in zip(calls, exact, strict=True)] == [True, False, False, True]
    assert weights == [each.stride() for each in unet.parameters()]  # not laid out anew: plain calls keep their bits


def test_step_caching_of_a_call(model: Pipeline) -> None:
    options = {"num_inference_steps": 4, "seed": 5}
    plain = model("a red fox", **options)
    cached = model("a red fox", step_caching=2, **options)
    assert cached.receipt["step_caching"] == 2
    assert not close(cached.latents, plain.latents)
    assert torch.equal(model("a red fox", **options).latents, plain.latents)
    assert torch.equal(model("a red fox", step_caching=2, **options).latents, cached.latents)
    with refused("step_caching", got=2):
        model("a red fox", step_caching=2, tap={"unet.mid.*": lambda value: value})


@pytest.mark.parametrize("side", [8, 40])
@torch.no_grad()
def test_group_norm_in_bfloat16_on_a_cpu(side: int) -> None:
    norm = nn.GroupNorm(4, 32, dtype=torch.bfloat16)
    nn.init.normal_(norm.weight)
    x = ops.channels_last(torch.randn(2, 32, side, side, generator=torch.Generator().manual_seed(0)).bfloat16())
    exact = nn.functional.group_norm(x.float(), 4, norm.weight.float(), norm.bias.float())
    found = ops.group_norm(norm, ops.Map(x), silu=False)
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact).abs().max() <= 2**-7 * exact.abs().max()  # one rounding
    assert found.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_a_convolution_with_its_weight_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.Conv2d(8, 16, 3, padding=1, stride=2), torch.randn(2, 8, 7, 9)
    assert close(ops.product(layer, x), nn.functional.conv2d(x, layer.weight, None, 2, 1))
    assert ops.packed(layer, x) is ops.packed(layer, x)
    layer.weight.mul_(2)
    assert close(ops.product(layer, x), nn.functional.conv2d(x, layer.weight, None, 2, 1))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layer.weight.mul_(2)
    assert ops.packed(layer, x) is None
    assert close(ops.product(layer, x), nn.functional.conv2d(x, layer.weight, None, 2, 1))


def test_a_processor_that_orders_no_weights_in_bfloat16() -> None:
    """oneDNN itself takes this one for an older one."""
    code = """
import torch
from torch import nn
from diffuscope.perf import ops
layer, x = nn.Conv2d(8, 16, 3).bfloat16().requires_grad_(False), torch.ones(2, 8, 7, 9, dtype=torch.bfloat16)
assert ops.packed(layer, x) is None
assert torch.equal(ops.product(layer, x), nn.functional.conv2d(x, layer.weight))
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}, check=True)


@torch.no_grad()
def test_no_weight_is_stored_twice(model: Pipeline) -> None:
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    twin = FastUNet(model.unet)
    after = model.unet.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    own = {each.untyped_storage().data_ptr() for each in model.unet.parameters()}
    for joined in (twin.time, *twin.qkv.values(), *twin.kv.values()):
        assert joined.weight.untyped_storage().data_ptr() in own


@pytest.mark.parametrize("change", ["in place", "data", "parameter", "module"])
@torch.no_grad()
def test_a_change_of_the_weights_is_noticed(model: Pipeline, change: str) -> None:
    unet, engine = model.unet, Engine(True)
    x, time, context, _ = inputs(unet)
    engine.predictor(unet, context, None, pairs=False)(x, time)
    query = unet.mid.attn[0].block[0].self_attn.query  # type: ignore[union-attr,index]
    other = torch.randn(query.weight.shape, generator=torch.Generator().manual_seed(1))
    if change == "in place":
        query.weight.mul_(0).add_(other)
    elif change == "data":
        query.weight.data = other
    elif change == "parameter":
        query.weight = nn.Parameter(other, requires_grad=False)
    else:
        unet.conv_out = nn.Conv2d(unet.conv_out.in_channels, unet.conv_out.out_channels, 3, padding=1)
    expected = unet(x, time, context)
    assert close(engine.predictor(unet, context, None, pairs=False)(x, time), expected)


@torch.no_grad()
def test_a_change_between_two_steps_is_noticed(model: Pipeline) -> None:
    x, time, context, _ = inputs(model.unet)
    predict = Engine(True).predictor(model.unet, context, None, pairs=False)
    predict(x, time)
    model.unet.conv_in.weight.data = model.unet.conv_in.weight.data * 2
    assert close(predict(x, time), model.unet(x, time, context))


def test_a_whole_call_and_its_files(model: Pipeline, tmp_path: Path) -> None:
    options = {"num_inference_steps": 3, "seed": 5}
    plain, weights = model("a red fox", **options), dict(model.weights)
    model.engine.wanted = True
    fast = model("a red fox", **options)
    assert close(fast.latents, plain.latents)
    assert not torch.equal(fast.latents, plain.latents)
    again = ds.load(model.save(tmp_path / "saved", layout="own"), device="cpu", dtype="float32", fast=False)
    assert again.weights == weights
    assert again.engine.wanted is False
    assert torch.equal(again("a red fox", **options).latents, plain.latents)


def test_taps_and_exact_gradients_run_the_plain_networks(model: Pipeline) -> None:
    calls: list[dict[str, object]] = [
        {"tap": {"unet.mid.*": lambda value: value}},
        {"guidance_options": {"colour": (0.1, 0.2, 0.9), "exact": True}},
    ]
    for options in calls:
        model.engine.wanted = False
        plain = model("a fox", num_inference_steps=2, seed=1, **options)
        model.engine.wanted = True
        fast = model("a fox", num_inference_steps=2, seed=1, **options)
        assert close(fast.latents, plain.latents)
        if "tap" in options:
            assert torch.equal(fast.latents, plain.latents)


def test_a_fast_decoder_that_overflows_leaves_the_plain_one_in_float32(model: Pipeline) -> None:
    expected = model("a fox", num_inference_steps=1, seed=1)
    model.vae.to(torch.bfloat16)
    model.engine = _Overflowing(True)
    found = model("a fox", num_inference_steps=1, seed=1)
    assert [note for note in found.receipt["notes"] if "ran again in float32" in note]
    pixels = [torch.tensor(list(image.tobytes())).float() for image in (expected.images[0], found.images[0])]
    assert (pixels[0] - pixels[1]).abs().mean() < 3  # weights were rounded to bfloat16


class _Overflowing(Engine):
    def decode(self, vae: VAE, latents: Tensor) -> Tensor:
        return super().decode(vae, latents) * float("nan")


def test_without_a_wish_the_device_decides(model: Pipeline) -> None:
    assert not Engine().runs(model.unet, None)
    assert Engine().runs(model.unet.to("meta"), None) is False
    assert Engine(True).runs(model.unet, None)
    assert not Engine(True).runs(model.unet, _Wanting())


class _Wanting:
    def wants(self, name: str) -> bool:  # noqa: ARG002
        return True

    def __call__(self, name: str, value: Tensor) -> Tensor:  # noqa: ARG002
        return value


def test_a_kernel_that_fails_leaves_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "broken", None)

    def function() -> Tensor:
        if ops.broken is None:
            raise RuntimeError("no compiler\nand more")
        return torch.ones(1)

    assert graphs.proven(function).item() == 1
    assert ops.broken == "RuntimeError: no compiler"
    with pytest.raises(ZeroDivisionError):
        graphs.proven(lambda: torch.ones(1) / (1 // 0))


def test_memory_is_free_at_once_when_a_model_is_dropped() -> None:
    pipe = made("sd15")
    pipe.engine.wanted = True
    pipe("a fox", num_inference_steps=1)
    dropped = weakref.ref(pipe.unet)
    gc.disable()  # a circle of references would keep a GPU's memory until the collector runs
    try:
        del pipe
        assert dropped() is None
    finally:
        gc.enable()


def test_the_plain_default_on_a_cpu_is_the_same_to_the_bit(model: Pipeline) -> None:
    wished = Pipeline(replace(model.components), fast=False)
    pictures = [pipe("a fox", num_inference_steps=2, seed=3).latents for pipe in (model, wished)]
    first, second = (hashlib.sha256(each.numpy().tobytes()).hexdigest() for each in pictures)
    assert first == second
