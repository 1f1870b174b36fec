"""The steps that the fast twins fuse, each by a Triton kernel on a CUDA device, or else in plain torch.

Feature maps are [B,C,H,W] in channels-last memory, so that their pixels are tokens [B,H*W,C] without a copy.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PARTS, PROGRAMS = 512, 512
"""Most partial sums of an image; and about as many programs as fill a large GPU."""

SMALL = 1024
"""Pixels up to which torch normalises bfloat16 on a CPU more slowly than float32: by a factor of 8 at 16x16."""

SPLIT_PIXELS = 128
"""Pixels of all images up to which a 3x3 convolution is split, since what takes its time is to read its weights."""

SPLIT_ROWS, SPLIT_COLS, SPLIT_DEPTH, SPLIT_WARPS, SPLIT_STAGES = 64, 128, 64, 4, 3
"""A tile of it: pixels, outputs and inputs; its warps, and the tiles that are on their way."""

SPLIT_PROGRAMS, MOST_TERMS = 264, 16
"""Programs that fill a large GPU, two a processor; and the most that share a tile."""

SCORES_BLOCK = 4096
"""Fewest scores for which the softmax is compiled: one kernel for images of up to 512 by 512 pixels."""

_packed: WeakKeyDictionary[nn.Conv2d, tuple[object, Tensor | None]] = WeakKeyDictionary()

broken: str | None = None if find_spec("triton") else "it is not installed"
"""Why no kernel runs any more."""


class Map(NamedTuple):
    """A feature map, and what is known of it already."""

    x: Tensor
    """[B,C,H,W], channels-last."""
    sums: Tensor | None = None
    """[B,parts,2,C] sums over pixels of each channel and of its square."""


class Terms(NamedTuple):
    """The terms of a feature map, and its memory."""

    terms: Tensor
    """[S,B*H*W,C] float32, whose sum it is."""
    x: Tensor
    """[B,C,H,W], channels-last, not written yet."""


def disable(error: Exception) -> bool:
    """Use plain torch from now on, because of this error; False if it was plain torch already."""
    global broken
    if broken is not None:
        return False
    broken = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return True


def tracing() -> bool:
    """Whether a converter follows the operations; it knows no memory format and no operation in place."""
    return bool(torch._C._get_tracing_state())


def fuses(x: Tensor) -> bool:
    """Whether kernels run for this tensor."""
    return x.is_cuda and broken is None


@cache
def describes(device: torch.device) -> bool:
    """Whether a device brings tiles by itself (TMA), as from Hopper on, and this Triton knows it."""
    knows = find_spec("triton.tools.tensor_descriptor") is not None
    return knows and (device.type == "cpu" or torch.cuda.get_device_capability(device) >= (9, 0))


def channels_last(x: Tensor) -> Tensor:
    """``x`` [B,C,H,W] in channels-last memory; itself if it is so already."""
    if tracing():
        return x
    return x.contiguous(memory_format=torch.channels_last)


def tokens(x: Tensor) -> Tensor:
    """[B,H*W,C] of a channels-last [B,C,H,W]. A view."""
    if tracing():
        return x.flatten(2).transpose(1, 2)
    return x.permute(0, 2, 3, 1).contiguous().flatten(1, 2)


def image(x: Tensor, like: Tensor) -> Tensor:
    """[B,C,H,W] in channels-last memory, the inverse of ``tokens``. A view."""
    return x.reshape(len(x), like.shape[2], like.shape[3], x.shape[2]).permute(0, 3, 1, 2)


def product(layer: nn.Conv2d, x: Tensor) -> Tensor | Terms:
    """The convolution without its bias."""
    return _terms(layer, x) if _splits(layer, x) else _product(layer, x)


def _product(layer: nn.Conv2d, x: Tensor) -> Tensor:
    if not x.is_cuda and not tracing() and (weight := packed(layer, x)) is not None:
        operation = torch.ops.mkldnn._convolution_pointwise
        return operation(x, weight, None, layer.padding, layer.stride, layer.dilation, layer.groups, "none", [], "")
    return F.conv2d(x, layer.weight, None, layer.stride, layer.padding)


def packed(layer: nn.Conv2d, x: Tensor) -> Tensor | None:
    """The layer's weight in the order in which oneDNN reads it on this CPU; None where it has no such order.

    Made once for a weight: torch's own convolution makes it in every call, which takes most of the time of small maps.
    """
    key = (layer.weight.data_ptr(), layer.weight._version, layer.weight.dtype)
    known = _packed.get(layer)
    if known is None or known[0] != key:
        known = _packed[layer] = key, _pack(layer, x)
    return known[1]


def _pack(layer: nn.Conv2d, x: Tensor) -> Tensor | None:
    reorder = getattr(torch.ops.mkldnn, "_reorder_convolution_weight", None)
    usual = not isinstance(layer.padding, str) and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    if reorder is None or not usual or not torch.backends.mkldnn.is_available():
        return None
    if x.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    arguments = (layer.padding, layer.stride, layer.dilation, layer.groups, tuple(x.shape))
    return reorder(layer.weight.detach(), *arguments)


def _splits(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether a kernel of ours reads this convolution's weights, more than it has pixels to use them for."""
    usual = layer.kernel_size == (3, 3) and layer.stride == (1, 1) and layer.padding == (1, 1)
    is_whole = layer.in_channels % SPLIT_DEPTH == 0 and layer.out_channels % SPLIT_COLS == 0
    is_small = len(x) * _pixels(x) <= SPLIT_PIXELS and x.dtype != torch.float32
    aligned = layer.weight.data_ptr() % 16 == 0 and layer.weight.is_contiguous(memory_format=torch.channels_last)
    return usual and is_whole and is_small and aligned and fuses(x) and describes(x.device)


def _terms(layer: nn.Conv2d, x: Tensor) -> Terms:
    from triton.tools.tensor_descriptor import TensorDescriptor

    from diffuscope.perf import kernels

    x, depth, outputs = channels_last(x), layer.in_channels, layer.out_channels
    size, rows = (len(x), outputs, *x.shape[2:]), len(x) * _pixels(x)
    columns, parts, pieces = outputs // SPLIT_COLS, -(-rows // SPLIT_ROWS), 9 * depth // SPLIT_DEPTH
    chunk = -(-pieces // min(MOST_TERMS, max(1, SPLIT_PROGRAMS // (columns * parts))))
    count = -(-pieces // chunk)
    terms = torch.empty(count, rows, outputs, device=x.device)
    weight = layer.weight.detach().permute(0, 2, 3, 1).flatten(1)
    tiles = TensorDescriptor.from_tensor(weight, [SPLIT_COLS, SPLIT_DEPTH])
    launch(
        kernels.split_convolution, (columns, count, parts), x, tiles, terms, rows, *x.shape[2:], depth, outputs, chunk,
        ROWS=SPLIT_ROWS, COLS=SPLIT_COLS, DEPTH=SPLIT_DEPTH, num_warps=SPLIT_WARPS, num_stages=SPLIT_STAGES,
    )  # fmt: skip
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return Terms(terms, y)


def conv(layer: nn.Conv2d, x: Tensor) -> Map:
    """The convolution."""
    return add(product(layer, x), None, layer.bias)


def unbiased(layer: nn.Conv2d, x: Tensor) -> Map:
    """The convolution without its bias, as a map."""
    found = product(layer, x)
    return Map(found) if isinstance(found, Tensor) else add(found, None, None)


def pointwise(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """A 1x1 convolution, or a linear layer, of tokens [B,T,C]."""
    return F.linear(x, layer.weight.flatten(1), layer.bias)


def add(x: Tensor | Terms, residual: Tensor | None, bias: Tensor | None) -> Map:
    """``x + bias + residual`` in the memory of ``x``, for maps [B,C,H,W] and ``bias`` [C]; either may be missing."""
    terms, x = (None, x) if isinstance(x, Tensor) else x
    if tracing():
        x = x if bias is None else x + bias[:, None, None]
        return Map(x if residual is None else x + residual)
    if not fuses(x):
        x = x if bias is None else x.add_(bias[:, None, None])
        return Map(x if residual is None else x.add_(residual))
    from diffuscope.perf import kernels

    x, residual = channels_last(x), None if residual is None else channels_last(residual)
    grid, sums, chunk = parts(x, x.shape[1])
    launch(
        kernels.added, grid, x, x if terms is None else terms, x if residual is None else residual,
        x if bias is None else bias, sums, _pixels(x), x.shape[1], chunk, int(residual is not None),
        int(bias is not None), 0 if terms is None else len(terms), MOST=0 if terms is None else MOST_TERMS,
    )  # fmt: skip
    return Map(x, sums)


def join(x: Tensor, other: Tensor) -> Map:
    """The channels of both."""
    if not fuses(x):
        return Map(torch.cat([x, other], dim=1))
    from diffuscope.perf import kernels

    x, other = channels_last(x), channels_last(other)
    channels = x.shape[1] + other.shape[1]
    y = torch.empty(len(x), channels, *x.shape[2:], dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    grid, sums, chunk = parts(x, channels)
    launch(kernels.joined, grid, x, other, y, sums, _pixels(x), x.shape[1], channels, chunk)
    return Map(y, sums)


def group_norm(
    norm: nn.GroupNorm,
    known: Map,
    *,
    silu: bool,
    shift: Tensor | None = None,
    time: Tensor | None = None,
    last: bool = False,
) -> Tensor:
    """Group norm of a map plus ``shift`` [C] and ``time`` [B,C] or [1,C], then SiLU or not.

    With ``last`` nothing reads the map afterwards, and its memory may be used again.
    """
    x = known.x
    batch, channels, pixels, width = len(x), x.shape[1], _pixels(x), x.shape[1] // norm.num_groups
    if not fuses(x) or width > 128:
        if shift is not None:
            x = x + shift[:, None, None]
        if time is not None:
            x = x + time[:, :, None, None]
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and pixels <= SMALL:
            weight, bias = norm.weight.float(), norm.bias.float()
            x = F.group_norm(x.float(), norm.num_groups, weight, bias, norm.eps).to(x.dtype)
        else:
            x = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return F.silu(x, inplace=True) if silu else x
    from diffuscope.perf import kernels

    x = channels_last(x)
    y, shifted = x if last else torch.empty_like(x), shift is not None
    if shifted and time is None:
        time = x.new_zeros(1, channels)
    stride = time.stride(0) if time is not None and len(time) > 1 else 0
    added = (shift, time) if shifted else (x, x)
    grid, sums, chunk = parts(x, channels, known.sums)
    if known.sums is None:
        launch(kernels.channel_sums, grid, x, sums, pixels, channels, chunk)
    factors = torch.empty(batch, 2, channels, device=x.device)
    launch(
        kernels.group_factors, (batch, norm.num_groups), sums, norm.weight, norm.bias, *added, factors, pixels,
        channels, width, grid[0], stride, norm.eps, int(shifted), GROUP=16 if width <= 16 else 128,
    )  # fmt: skip
    rows = (-(-pixels // kernels.ROWS.value), *grid[1:])
    launch(kernels.scaled, rows, x, factors, y, pixels, channels, int(silu))
    return y


@cache
def _folds(device: torch.device, dtype: torch.dtype) -> Tensor:
    """[16,9] which weights of a 3x3 kernel fall on the same pixel, for the four places in a pixel and 2x2 pixels."""
    each = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # place, pixel, row or column of the kernel
    return torch.einsum("pkr,qls->pqklrs", each, each).reshape(16, 9).to(device, dtype)


def upsampled(layer: nn.Conv2d, x: Tensor) -> Map:
    """The 3x3 convolution of a map upsampled to twice its size.

    Of an upsampled pixel the four places see 2x2 pixels each, with sums of the kernel's weights. So one convolution
    of the map itself, of four times as many outputs, needs 4/9 of the products.
    """
    (batch, _, height, width), outputs = x.shape, layer.out_channels
    if layer.bias is None or not fuses(x):
        return conv(layer, upsample(x, (2 * height, 2 * width)))
    from diffuscope.perf import kernels

    taps = channels_last(layer.weight.detach()).permute(0, 2, 3, 1).flatten(1, 2)  # [O,9,C]
    weight = (_folds(x.device, x.dtype) @ taps).unflatten(1, (4, 2, 2)).transpose(0, 1).flatten(0, 1)  # [4*O,2,2,C]
    each = channels_last(F.conv2d(channels_last(x), weight.permute(0, 3, 1, 2), padding=1))
    size = batch, outputs, 2 * height, 2 * width
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    grid, sums, chunk = parts(y, outputs)
    launch(kernels.interleaved, grid, each, layer.bias, y, sums, _pixels(y), 2 * width, outputs, chunk)
    return Map(y, sums)


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour upsampling of a map to height and width, about twice as large."""
    batch, channels, height, width = x.shape
    if not fuses(x) or size != (2 * height, 2 * width):
        return F.interpolate(x, size=size, mode="nearest")
    from diffuscope.perf import kernels

    x = channels_last(x)
    y = torch.empty(batch, channels, *size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pixels, rows, cols = batch * height * width, kernels.ROWS.value, kernels.COLS.value
    launch(kernels.doubled, (-(-pixels // rows), -(-channels // cols)), x, y, batch * height, width, channels)
    return y


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B,T,C] attention of one head from queries [B,T,C] to keys and values [B,S,C], through float32 scores."""
    if not fuses(q) or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
    return softmax(torch.bmm(q, k.transpose(1, 2), out_dtype=torch.float32), q.shape[-1] ** -0.5, q.dtype) @ v


def softmax(x: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """The softmax of each row of ``x * scale`` [...,S], float32 on a CUDA device, in another dtype."""
    from diffuscope.perf import kernels

    y, columns = torch.empty_like(x, dtype=dtype), x.shape[-1]
    block, rows = max(SCORES_BLOCK, power(columns)), (x.numel() // columns,)
    launch(kernels.softmax, rows, x, y, columns, scale, BLOCK=block, num_warps=8)
    return y


def launch(kernel: Any, grid: tuple[int, ...], x: Any, *values: Any, **constants: Any) -> None:
    """Run a kernel on the device of ``x``, a tensor or its descriptor; Triton takes the current one, whatever it is."""
    device = (x if isinstance(x, Tensor) else x.base).device
    with torch.cuda.device(device if device.type == "cuda" else -1):
        kernel[grid](x, *values, **constants)


def power(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()


def _pixels(x: Tensor) -> int:
    return x.shape[2] * x.shape[3]


def parts(x: Tensor, channels: int, sums: Tensor | None = None) -> tuple[tuple[int, int, int], Tensor, int]:
    """The grid of programs over parts of the pixels, images and channels; room for their sums; pixels of a part."""
    from diffuscope.perf import kernels

    rows, blocks, pixels = kernels.ROWS.value, -(-channels // kernels.COLS.value), _pixels(x)
    parts = max(1, min(PARTS, PROGRAMS // (len(x) * blocks), pixels // rows))
    chunk = -(-pixels // parts // rows) * rows
    parts = -(-pixels // chunk)
    if sums is None:
        sums = torch.empty(len(x), parts, 2, channels, device=x.device)
    return (parts, len(x), blocks), sums, chunk
