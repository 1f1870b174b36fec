"""Each Triton kernel, by Triton's interpreter on the CPU, agrees with the same function in plain torch."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffuscope.config import EMOJI, SD15, ModelConfig
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.perf import ops, tokens, warming
from diffuscope.perf.ops import Map
from diffuscope.perf.unet import FastUNet
from diffuscope.perf.vae import FastVAE

pytest.importorskip("triton", reason="Triton has no build for this system")


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Asserts that a function gives the same with kernels and without."""

    def check(function: Callable[[], Tensor | tuple[Tensor | None, ...]], tolerance: float = 1e-5) -> None:
        results = []
        for kernels in (False, True):
            monkeypatch.setattr(ops, "fuses", lambda _, kernels=kernels: kernels)
            found = function()
            results.append((found,) if isinstance(found, Tensor) else found)
        for plain, fast in zip(*results, strict=True):
            if plain is not None:
                torch.testing.assert_close(fast, plain, rtol=tolerance, atol=tolerance)

    return check


def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are launched from now on."""
    names: list[str] = []

    def launch(kernel: Any, *values: Any, **constants: Any) -> None:
        names.append(kernel.__name__)
        plain(kernel, *values, **constants)

    plain = ops.launch
    for module in (ops, tokens):
        monkeypatch.setattr(module, "launch", launch)
    return names


def map_of(channels: int, side: int) -> Tensor:
    x = torch.randn(2, channels, side, side + 1, generator=torch.Generator().manual_seed(channels))
    return ops.channels_last(2 * x + 3)


@pytest.mark.parametrize(("channels", "groups", "side"), [(24, 8, 9), (80, 2, 3), (130, 1, 2)])
def test_group_norm(fused: Callable[..., None], channels: int, groups: int, side: int) -> None:
    x, norm = map_of(channels, side), nn.GroupNorm(groups, channels)
    nn.init.normal_(norm.weight)
    shift, time = torch.randn(channels), torch.randn(2, channels + 3)[:, 3:]
    for silu in (False, True):
        fused(lambda silu=silu: ops.group_norm(norm, Map(x), silu=silu))
    fused(lambda: ops.group_norm(norm, Map(x), silu=True, shift=shift))
    fused(lambda: ops.group_norm(norm, Map(x), silu=True, shift=shift, time=time))
    fused(lambda: ops.group_norm(norm, Map(x), silu=True, shift=shift, time=time[:1]))


def test_sums_and_joins_know_their_sums(fused: Callable[..., None]) -> None:
    x, other, bias = map_of(24, 9), map_of(72, 9), torch.randn(24)
    norm, wide = nn.GroupNorm(8, 24), nn.GroupNorm(8, 96)
    for other_map, added in ((x.flip(0), bias), (None, bias), (x.flip(0), None)):
        fused(lambda r=other_map, a=added: ops.add(x.clone(), r, a).x)
        fused(lambda r=other_map, a=added: ops.group_norm(norm, ops.add(x.clone(), r, a), silu=False, last=True))
    fused(lambda: ops.join(x, other).x)
    fused(lambda: ops.group_norm(wide, ops.join(x, other), silu=False))


@torch.no_grad()
@pytest.mark.parametrize("size", [(9, 10), (1, 1), (16, 3)])
def test_upsampling_within_the_convolution_after_it(fused: Callable[..., None], size: tuple[int, int]) -> None:
    layer, norm = nn.Conv2d(24, 72, 3, padding=1), nn.GroupNorm(8, 72)
    x = ops.channels_last(torch.randn(2, 24, *size))
    fused(lambda: ops.upsampled(layer, x).x)
    fused(lambda: ops.group_norm(norm, ops.upsampled(layer, x), silu=False))


@torch.no_grad()
@pytest.mark.parametrize(("count", "height", "width"), [(2, 5, 7), (3, 1, 2)])
def test_a_convolution_of_few_pixels_is_split(
    fused: Callable[..., None], monkeypatch: pytest.MonkeyPatch, count: int, height: int, width: int
) -> None:
    """Among several programs, of which the last has fewer terms; with and without bias, residual and sums."""
    generator = torch.Generator().manual_seed(0)
    layer, norm = nn.Conv2d(192, 128, 3, padding=1).half(), nn.GroupNorm(8, 128).half()
    layer.weight.data = ops.channels_last(layer.weight.data)
    x = ops.channels_last(torch.randn(count, 192, height, width, generator=generator).half())
    other = ops.channels_last(torch.randn(count, 128, height, width, generator=generator).half())
    launched = launches(monkeypatch)
    fused(lambda: ops.conv(layer, x).x, tolerance=2e-3)
    fused(lambda: ops.unbiased(layer, x).x, tolerance=2e-3)
    fused(lambda: ops.group_norm(norm, ops.add(ops.product(layer, x), other, layer.bias), silu=True), tolerance=4e-3)
    assert launched.count("split_convolution") == 3
    fused(lambda: ops.conv(layer, x.repeat(1, 1, 12, 12)).x, tolerance=2e-3)  # too many
    assert launched.count("split_convolution") == 3


def test_layer_norm(fused: Callable[..., None]) -> None:
    norm, x = nn.LayerNorm(80), torch.randn(2, 3, 80)
    nn.init.normal_(norm.weight)
    fused(lambda: tokens.layer_norm(norm, x, torch.linspace(-1, 1, 80)))


def test_geglu_and_upsampling(fused: Callable[..., None]) -> None:
    layer = nn.Linear(24, 600)
    fused(lambda: tokens.geglu(layer, torch.linspace(-4, 4, 2 * 3 * 24).reshape(2, 3, 24)))
    x = map_of(72, 3)
    fused(lambda: ops.upsample(x, (6, 8)))
    fused(lambda: ops.upsample(x, (5, 7)))


@torch.no_grad()
def test_a_gate_in_one_kernel_with_its_product(fused: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than fill the last tile, and as little rounding as that of a product in half precision."""
    monkeypatch.setattr(tokens, "MANY", 1)
    layer = nn.Linear(2 * tokens.GATED_DEPTH, 4 * tokens.GATED_COLS).half()
    x = torch.randn(2, 2 * tokens.GATED_ROWS - 10, layer.in_features, generator=torch.Generator().manual_seed(0)).half()
    launched = launches(monkeypatch)
    fused(lambda: tokens.geglu(layer, x), tolerance=2e-3)
    tokens.geglu(layer, x[:, :50])  # too few
    assert launched == ["gated_product", "gated"]


@pytest.mark.parametrize(("heads", "count", "keys", "width"), [(3, 130, 77, 40), (2, 20, 5, 8), (1, 70, 128, 160)])
def test_attention_to_few_keys(
    fused: Callable[..., None], monkeypatch: pytest.MonkeyPatch, heads: int, count: int, keys: int, width: int
) -> None:
    """Of heads that lie side by side, as products leave them."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, count, heads, width, generator=generator).half().transpose(1, 2)
    k, v = torch.randn(2, keys, 2, heads, width, generator=generator).half().permute(2, 0, 3, 1, 4).unbind()
    launched = launches(monkeypatch)
    fused(lambda: tokens.attention(q, k, v), tolerance=2e-3)
    assert launched == ["short_attention"]
    for odd in (
        (q.float(), k.float(), v.float()),
        (q, k.mT.contiguous().mT, v),
        (q, *torch.zeros(2, 2, heads, 200, width).half()),
    ):
        tokens.attention(*odd)  # as torch has it
    assert launched == ["short_attention"]


def test_softmax() -> None:
    x, y = torch.randn(3, 70), torch.empty(3, 70)
    from diffuscope.perf import kernels

    kernels.softmax[3,](x, y, 70, 0.25, BLOCK=128)
    torch.testing.assert_close(y, (x * 0.25).softmax(-1))


def test_the_first_kernel_is_loaded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that import parts of Triton at once wait for each other, and then no kernel runs at all."""
    order: list[int] = []
    together = threading.Barrier(3, timeout=20)

    def sample(k: int) -> None:
        order.append(k)
        if k == 0:
            time.sleep(0.2)
            assert order == [0]
        else:
            together.wait()

    monkeypatch.setattr(ops, "broken", None)
    monkeypatch.setattr(warming, "_warming", [])
    monkeypatch.setattr(warming, "kernel_samples", lambda *_: [partial(sample, k) for k in range(4)])
    monkeypatch.setattr(warming, "library_samples", lambda *_: [])
    warming.warm(torch.device("cuda"), torch.float16)
    warming.wait()
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2, 3]
    assert ops.broken is None  # nothing failed in a thread


def test_what_is_loaded_ahead_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, beside the reading of the weights; here one after the other."""
    monkeypatch.setattr(ops, "fuses", lambda _: True)
    monkeypatch.setattr(tokens, "MANY", 64)  # rows that choose a kernel in half precision alone: here only more work
    with torch.no_grad():
        for sample in warming.kernel_samples(torch.device("cpu"), torch.float32):
            sample()
        for sample in warming.library_samples(torch.device("cpu"), torch.float32):
            sample()
    assert not warming._warming
    warming.warm(torch.device("cpu"), torch.float32)
    assert not warming._warming  # nothing to load
    assert ops.broken is None


@pytest.mark.parametrize("config", [SD15, EMOJI], ids=lambda config: config.name)
def test_each_variant_that_a_model_needs_is_loaded_ahead(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds of values, what Triton specialises on, constants: nothing is compiled in a first step."""
    variants: set[object] = set()

    def kind(value: Any, specialised: bool) -> object:
        if isinstance(value, Tensor):
            return value.dtype, value.storage_offset() * value.element_size() % 16
        if isinstance(value, int):
            return specialised and (value == 1, value % 16 == 0)
        return tuple(value.block_shape) if hasattr(value, "block_shape") else type(value)

    def launch(kernel: Any, grid: tuple[int, ...], *values: Any, **constants: Any) -> None:
        names = [name for name in kernel.arg_names if name not in constants]
        fixed = kernel.kwargs["do_not_specialize"] or ()
        kinds = (kind(value, name not in fixed) for name, value in zip(names, values, strict=True))
        variants.add((kernel.__name__, *kinds, *sorted(constants.items())))

    for module in (ops, tokens):
        monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(ops, "fuses", lambda _: True)
    monkeypatch.setattr(ops, "describes", lambda _: True)
    dtype, side = torch.float16, config.preset.height // config.vae.factor
    with torch.no_grad():
        for sample in warming.kernel_samples(torch.device("cpu"), dtype):
            sample()
        ahead = set(variants)
        with torch.device("meta"):
            twin = FastUNet(UNet(config.unet).to(dtype))
            decoder = FastVAE(VAE(config.vae).to(dtype))
            x = torch.empty(1, config.unet.in_channels, side, side, dtype=dtype)
            prompt = twin.read(torch.empty(2, 77, config.unet.context_dim, dtype=dtype), None)
            twin(x, twin.timed(prompt, torch.empty(1))[0], prompt)
            decoder.decode(x)
    assert len(variants) > 8
    assert variants == ahead
