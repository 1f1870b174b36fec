"""What the fast twins need beside the reading of a model's weights: kernels are compiled, libraries loaded."""

from collections.abc import Callable, Sequence
from functools import partial
from threading import Thread

import torch
import torch.nn.functional as F
from torch import nn

from diffuscope.perf import ops, tokens
from diffuscope.perf.ops import Map

_warming: list[Thread] = []


def warm(device: torch.device, dtype: torch.dtype) -> None:
    """Begin to load libraries and kernels, and to compile what no process has compiled before; ``wait`` ends it."""
    if device.type != "cuda" or _warming:
        return

    def run(sample: Callable[[], object], *, is_kernel: bool) -> None:
        try:
            with torch.no_grad():
                sample()
        except Exception as error:
            if is_kernel:
                ops.disable(error)

    def run_kernels() -> None:
        """The first alone: threads that import Triton's modules at the same time would wait for each other."""
        first, *others = kernel_samples(device, dtype)
        run(first, is_kernel=True)
        _run_all([partial(run, sample, is_kernel=True) for sample in others])

    found: list[Callable[[], None]] = [run_kernels] if ops.broken is None else []
    found += [partial(run, sample, is_kernel=False) for sample in library_samples(device, dtype)]
    _warming.extend(Thread(target=each) for each in found)  # an exit waits: a compiler may not be cut
    for thread in _warming:
        thread.start()


def _run_all(functions: Sequence[Callable[[], None]]) -> None:
    threads = [Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def library_samples(device: torch.device, dtype: torch.dtype) -> list[Callable[[], object]]:
    """Calls of operations whose libraries are loaded by the first. No product: cuBLAS keeps memory for each thread."""
    x = ops.channels_last(torch.zeros(2, 320, 16, 16, device=device, dtype=dtype))
    layer = nn.Conv2d(320, 320, 3, padding=1, device=device, dtype=dtype)
    layer.weight.data = ops.channels_last(layer.weight.data)
    heads = torch.zeros(2, 8, 256, 40, device=device, dtype=dtype)
    return [
        lambda: F.conv2d(x, layer.weight, None, 1, 1),
        lambda: F.scaled_dot_product_attention(heads, heads, heads),
    ]


def kernel_samples(device: torch.device, dtype: torch.dtype) -> list[Callable[[], object]]:
    """One call of each kernel in each of the variants that are compiled: a short one, then those that take longest."""
    x, y = (torch.zeros(1, channels, 8, 8, device=device, dtype=dtype) for channels in (320, 1280))
    norm, wide = (nn.GroupNorm(32, each.shape[1], device=device, dtype=dtype) for each in (x, y))
    layer = nn.Linear(320, 2560, device=device, dtype=dtype)
    double = nn.Conv2d(320, 320, 3, padding=1, device=device, dtype=dtype)
    deep = nn.Conv2d(1280, 1280, 3, padding=1, device=device, dtype=dtype)
    deep.weight.data = ops.channels_last(deep.weight.data)
    heads = [torch.zeros(1, 8, 77, width, device=device, dtype=dtype) for width in (40, 80, 160)]
    norms = [nn.LayerNorm(width, device=device, dtype=dtype) for width in (320, 640, 1280)]
    sums = [ops.parts(each, each.shape[1])[1].zero_() for each in (x, y)]
    terms = ops.Terms(torch.zeros(1, 64, 1280, device=device), y)
    return [
        lambda: ops.upsample(x, (16, 16)),
        *(partial(tokens.attention, each[:, :8], each, each) for each in heads),
        lambda: tokens.geglu(layer, x[:, :, 0, 0].expand(tokens.MANY, -1)),
        lambda: ops.product(deep, y.repeat(2, 1, 1, 1)),
        lambda: ops.add(terms, None, y[0, :, 0, 0]),
        lambda: ops.upsampled(double, x),
        *(partial(tokens.layer_norm, each, each.weight[None], each.bias) for each in norms),
        lambda: ops.group_norm(norm, Map(x, sums[0]), silu=True),
        lambda: ops.group_norm(wide, Map(y, sums[1]), silu=True),
        lambda: ops.group_norm(norm, Map(x), silu=True),
        lambda: ops.add(x, x, x[0, :, 0, 0]),
        lambda: ops.add(x[:, :4], None, x[0, :4, 0, 0]),
        lambda: ops.join(x, y),
        lambda: tokens.gate(x[:, :, 0, 0]),
        lambda: ops.softmax(x.float(), 1.0, dtype),
    ]


def wait() -> None:
    """Until ``warm`` has done its work."""
    for thread in _warming:
        thread.join()
