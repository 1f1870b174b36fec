"""The steps of a transformer that the fast twins fuse, on tokens [B,T,C]; kernels and plain twins as in ``ops``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.perf import ops
from diffuscope.perf.ops import launch, power

LOG2E = 1.4426950408889634

SHORT, FEW = 128, 1 << 17
"""Most keys that a kernel of ours reads in one piece, those of a text or of the smallest maps; and most queries of all
heads: with more, torch's kernel is faster."""

ATTENTION = {16: (64, 4), 32: (64, 4), 64: (64, 4), 128: (64, 4), 256: (32, 8)}
"""Width of a head, as a power of two -> queries of a program, and its warps."""

NORM_BLOCK = 512
"""Fewest channels for which the layer norm is compiled."""

GATED_ROWS, GATED_COLS, GATED_DEPTH = 128, 64, 64
"""A tile of the product with a GELU's gate."""

MANY = 2048
"""Rows from which that product pays, if they are also three times its depth; with fewer, cuBLAS does as well."""


def layer_norm(norm: nn.LayerNorm, x: Tensor, shift: Tensor) -> Tensor:
    """Layer norm of ``x + shift`` for tokens [B,T,C] and ``shift`` [C]."""
    width = x.shape[-1]
    if not ops.fuses(x) or width > 8192:
        return F.layer_norm(x + shift, (width,), norm.weight, norm.bias, norm.eps)
    from diffuscope.perf import kernels

    x = x.contiguous()
    y, block, rows = torch.empty_like(x), max(NORM_BLOCK, power(width)), x.numel() // width
    launch(
        kernels.layer_norm, (-(-rows // 2),), x, shift, norm.weight, norm.bias, y, rows, width, norm.eps, ROWS=2,
        BLOCK=block, num_warps=2 if block <= 1024 else 4,
    )  # fmt: skip
    return y


def geglu(layer: nn.Linear, x: Tensor) -> Tensor:
    """[...,W]: the first half of what ``layer`` makes of ``x``, [...,2W], times the GELU of the second."""
    rows, depth, width = x.numel() // x.shape[-1], x.shape[-1], layer.out_features // 2
    is_whole = width % GATED_COLS == 0 and depth % GATED_DEPTH == 0 and layer.bias is not None
    pays = rows >= max(MANY, 3 * depth) and x.dtype != torch.float32
    if not (is_whole and pays and ops.fuses(x) and ops.describes(x.device)) or layer.weight.data_ptr() % 16:
        return gate(F.linear(x, layer.weight, layer.bias))
    from triton.tools.tensor_descriptor import TensorDescriptor

    from diffuscope.perf import kernels

    x, y = x.contiguous(), x.new_empty(*x.shape[:-1], width)
    tiles = TensorDescriptor.from_tensor(x.view(rows, depth), [GATED_ROWS, GATED_DEPTH])
    others = TensorDescriptor.from_tensor(layer.weight.detach(), [GATED_COLS, GATED_DEPTH])
    launch(
        kernels.gated_product, (width // GATED_COLS, -(-rows // GATED_ROWS)), tiles, others, layer.bias, y, rows, width,
        depth, ROWS=GATED_ROWS, COLS=GATED_COLS, DEPTH=GATED_DEPTH, num_warps=4, num_stages=3,
    )  # fmt: skip
    return y


def gate(x: Tensor) -> Tensor:
    """[...,W]: the first half of ``x`` [...,2W] times the GELU of the second."""
    if not ops.fuses(x):
        hidden, gate = x.chunk(2, dim=-1)
        return hidden * F.gelu(gate)
    from diffuscope.perf import kernels

    x = x.contiguous()
    width = x.shape[-1] // 2
    y = x.new_empty(*x.shape[:-1], width)
    rows = y.numel() // width
    launch(kernels.gated, (-(-rows // 4), -(-width // 256)), x, y, rows, width, ROWS=4, COLS=256)
    return y


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[N,T,heads*H] from queries [N,heads,T,H], and keys and values [N,heads,S,H]."""
    rows, heads, tokens, width, keys = *q.shape, k.shape[2]
    strides = [stride for each in (q, k, v) for stride in each.stride()[:3]]
    is_aligned = all(each.stride(3) == 1 for each in (q, k, v)) and not any(size % 8 for size in (width, *strides))
    is_large = keys > SHORT or rows * heads * tokens > FEW or width > 256
    if is_large or not is_aligned or q.dtype == torch.float32 or not ops.fuses(q):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    from diffuscope.perf import kernels

    y, block = q.new_empty(rows, tokens, heads * width), max(16, power(width))
    some, warps = ATTENTION[block]
    launch(
        kernels.short_attention, (-(-tokens // some), rows * heads), q, k, v, y, tokens, keys, heads, width // 8,
        *(size // 8 for size in strides), width**-0.5 * LOG2E, ROWS=some, KEYS=SHORT, WIDTH=block,
        num_warps=warps,
    )  # fmt: skip
    return y
