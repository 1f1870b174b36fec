"""Triton kernels for feature maps in channels-last order: [B,P,C], where P counts the pixels of an image.

An image has less than 2^31 numbers. Each kernel reads its input once and computes in float32. ``ops`` launches them and
has the same functions in plain torch. Flags are run-time numbers, and sizes are not specialised on, so that few
variants have to be compiled.
"""

import triton
import triton.language as tl

COLS = tl.constexpr(64)
"""Channels of one program."""
ROWS = tl.constexpr(32)
"""Pixels that one program reads at once."""
LANES = tl.constexpr(2048)
"""Partial sums that one program reads at once."""


@triton.jit
def _sums(total, squares, sums, part, parts, image, channels, column):
    sums += (image * parts + part) * 2 * channels + column
    tl.store(sums, tl.sum(total, 0), column < channels)
    tl.store(sums + channels, tl.sum(squares, 0), column < channels)


@triton.jit(do_not_specialize=["pixels", "chunk"])
def channel_sums(x, sums, pixels, channels, chunk):
    """``sums`` [B,parts,2,C]: the sum of each channel and of its square, over ``chunk`` pixels of ``x`` [B,P,C]."""
    part, image, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * COLS + tl.arange(0, COLS)
    end = tl.minimum(part * chunk + chunk, pixels)
    total = tl.zeros([ROWS, COLS], tl.float32)
    squares = tl.zeros([ROWS, COLS], tl.float32)
    x += image.to(tl.int64) * pixels * channels
    for start in range(part * chunk, end, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & (column < channels)[None, :]
        value = tl.load(x + row[:, None] * channels + column[None, :], mask, 0.0).to(tl.float32)
        total += value
        squares += value * value
    _sums(total, squares, sums, part, tl.num_programs(0), image, channels, column)


@triton.jit(do_not_specialize=["pixels", "chunk", "has_residual", "has_bias", "count"])
def added(
    x, terms, residual, bias, sums, pixels, channels, chunk, has_residual, has_bias, count, MOST: tl.constexpr
):  # fmt: skip
    """``x += residual + bias`` for [B,P,C] and ``bias`` [C], either of which may be missing; and its ``sums``.

    With MOST ``x`` is not read but the sum of the ``terms`` [count,B,P,C], float32, at most MOST.
    """
    part, image, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * COLS + tl.arange(0, COLS)
    inside = column < channels
    end = tl.minimum(part * chunk + chunk, pixels)
    start_of_image = image.to(tl.int64) * pixels * channels
    x += start_of_image
    residual += start_of_image
    terms += start_of_image
    stride = tl.num_programs(1).to(tl.int64) * pixels * channels
    total = tl.zeros([ROWS, COLS], tl.float32)
    squares = tl.zeros([ROWS, COLS], tl.float32)
    constant = tl.load(bias + column, column < channels * has_bias, 0.0).to(tl.float32)
    for start in range(part * chunk, end, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & inside[None, :]
        at = row[:, None] * channels + column[None, :]
        value = tl.zeros([ROWS, COLS], tl.float32) + constant[None, :]
        if MOST == 0:
            value += tl.load(x + at, mask, 0.0).to(tl.float32)
        for term in tl.static_range(MOST):
            known = (row < end * (term < count))[:, None] & inside[None, :]
            value += tl.load(terms + term * stride + at, known, 0.0)
        value += tl.load(residual + at, (row < end * has_residual)[:, None] & inside[None, :], 0.0).to(tl.float32)
        value = tl.where(mask, value, 0.0).to(x.dtype.element_ty)
        tl.store(x + at, value, mask)
        value = value.to(tl.float32)
        total += value
        squares += value * value
    _sums(total, squares, sums, part, tl.num_programs(0), image, channels, column)


@triton.jit(do_not_specialize=["pixels", "chunk"])
def joined(x, other, y, sums, pixels, first, channels, chunk):
    """``y`` [B,P,channels]: ``x`` [B,P,first] and ``other`` side by side; and its ``sums``."""
    part, image, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * COLS + tl.arange(0, COLS)
    inside = column < channels
    is_first = column < first
    end = tl.minimum(part * chunk + chunk, pixels)
    pixel = image.to(tl.int64) * pixels
    x += pixel * first
    other += pixel * (channels - first)
    y += pixel * channels
    total = tl.zeros([ROWS, COLS], tl.float32)
    squares = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(part * chunk, end, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & inside[None, :]
        row = row[:, None]
        value = tl.load(x + row * first + column[None, :], mask & is_first[None, :], 0.0)
        rest = tl.load(other + row * (channels - first) + (column - first)[None, :], mask & ~is_first[None, :], 0.0)
        value = tl.where(is_first[None, :], value, rest)
        tl.store(y + row * channels + column[None, :], value, mask)
        value = value.to(tl.float32)
        total += value
        squares += value * value
    _sums(total, squares, sums, part, tl.num_programs(0), image, channels, column)


@triton.jit(do_not_specialize=["pixels", "width", "parts", "time_stride", "shifted"])
def group_factors(
    sums, weight, bias, shift, time, factors, pixels, channels, width, parts, time_stride, eps, shifted,
    GROUP: tl.constexpr,
):  # fmt: skip
    """``factors`` [B,2,C]: normalising ``x + shift + time`` in groups of ``width`` channels is ``x * f[0] + f[1]``.

    ``shift`` is [C] and ``time`` [B,C], with a stride of its own; both count only if ``shifted``.
    """
    image, group = tl.program_id(0), tl.program_id(1)
    rows: tl.constexpr = LANES // GROUP
    lane = tl.arange(0, GROUP)
    inside = lane < width
    column = group * width + lane
    total = tl.zeros([rows, GROUP], tl.float32)
    squares = tl.zeros([rows, GROUP], tl.float32)
    for start in range(0, parts, rows):
        part = start + tl.arange(0, rows)
        mask = (part < parts)[:, None] & inside[None, :]
        at = sums + (image * parts + part)[:, None] * 2 * channels + column[None, :]
        total += tl.load(at, mask, 0.0)
        squares += tl.load(at + channels, mask, 0.0)
    sum1 = tl.sum(total, 0)
    sum2 = tl.sum(squares, 0)
    added = tl.load(shift + column, lane < width * shifted, 0.0).to(tl.float32)
    added += tl.load(time + image * time_stride + column, lane < width * shifted, 0.0).to(tl.float32)
    sum2 += 2 * added * sum1 + pixels * added * added
    sum1 += pixels * added
    count = pixels * width
    mean = tl.sum(sum1, 0) / count
    variance = tl.maximum(tl.sum(sum2, 0) / count - mean * mean, 0.0)
    factor = tl.load(weight + column, inside, 0.0).to(tl.float32) * tl.rsqrt(variance + eps)
    offset = tl.load(bias + column, inside, 0.0).to(tl.float32) + (added - mean) * factor
    factors += image * 2 * channels + column
    tl.store(factors, factor, inside)
    tl.store(factors + channels, offset, inside)


@triton.jit(do_not_specialize=["pixels", "silu"])
def scaled(x, factors, y, pixels, channels, silu):
    """``y = x * factors[0] + factors[1]`` for [B,P,C], then SiLU or not."""
    image, block = tl.program_id(1), tl.program_id(2)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = block * COLS + tl.arange(0, COLS)
    inside = column < channels
    mask = (row < pixels)[:, None] & inside[None, :]
    factors += image * 2 * channels + column
    factor = tl.load(factors, inside, 0.0)
    offset = tl.load(factors + channels, inside, 0.0)
    start_of_image = image.to(tl.int64) * pixels * channels
    x += start_of_image
    y += start_of_image
    at = row[:, None] * channels + column[None, :]
    value = tl.load(x + at, mask, 0.0).to(tl.float32) * factor[None, :] + offset[None, :]
    if silu != 0:
        value = value / (1 + tl.exp(-value))
    tl.store(y + at, value.to(y.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["rows"])
def layer_norm(x, shift, weight, bias, y, rows, channels, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """``y``, the layer norm of ``x + shift`` for ``x`` [rows,channels] and ``shift`` [channels]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = column < channels
    mask = (row < rows)[:, None] & inside[None, :]
    at = row[:, None].to(tl.int64) * channels + column[None, :]
    value = tl.load(x + at, mask, 0.0).to(tl.float32)
    value += tl.load(shift + column, inside, 0.0).to(tl.float32)[None, :]
    mean = tl.sum(value, 1) / channels
    centred = tl.where(inside[None, :], value - mean[:, None], 0.0)
    factor = tl.rsqrt(tl.sum(centred * centred, 1) / channels + eps)
    value = centred * factor[:, None] * tl.load(weight + column, inside, 0.0).to(tl.float32)[None, :]
    value += tl.load(bias + column, inside, 0.0).to(tl.float32)[None, :]
    tl.store(y + at, value.to(y.dtype.element_ty), mask)


@triton.jit
def _gelu(x):
    return x * 0.5 * (1 + tl.erf(x * 0.7071067811865476))


@triton.jit(do_not_specialize=["rows"])
def gated(x, y, rows, width, ROWS: tl.constexpr, COLS: tl.constexpr):
    """``y`` [R,width]: the first half of ``x`` [R,2*width] times the GELU of the second (the exact one, with erf)."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(1) * COLS + tl.arange(0, COLS))[None, :]
    mask = (row < rows) & (column < width)
    row = row.to(tl.int64)
    hidden = tl.load(x + row * 2 * width + column, mask, 0.0).to(tl.float32)
    gate = tl.load(x + row * 2 * width + width + column, mask, 0.0).to(tl.float32)
    tl.store(y + row * width + column, (hidden * _gelu(gate)).to(y.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["rows"])
def gated_product(
    x, weight, bias, y, rows, width, depth, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr
):  # fmt: skip
    """``gated`` of ``x @ weight.T + bias``, in tiles that the descriptors ``x`` and ``weight`` bring.

    ``x`` is [R,depth], ``weight`` [2*width,depth] and ``bias`` [2*width]; ``width`` is a multiple of COLS.
    """
    row, column = tl.program_id(1) * ROWS, tl.program_id(0) * COLS
    hidden = tl.zeros([ROWS, COLS], tl.float32)
    gate = tl.zeros([ROWS, COLS], tl.float32)
    for along in range(0, depth, DEPTH):
        value = x.load([row, along])
        hidden = tl.dot(value, weight.load([column, along]).T, hidden)
        gate = tl.dot(value, weight.load([width + column, along]).T, gate)
    row += tl.arange(0, ROWS)
    column += tl.arange(0, COLS)
    hidden += tl.load(bias + column).to(tl.float32)[None, :]
    gate += tl.load(bias + width + column).to(tl.float32)[None, :]
    y += row[:, None].to(tl.int64) * width + column[None, :]
    tl.store(y, (hidden * _gelu(gate)).to(y.dtype.element_ty), (row < rows)[:, None])


@triton.jit(do_not_specialize=["rows", "height", "width", "chunk"])
def split_convolution(
    x, weight, y, rows, height, width, depth, outputs, chunk, ROWS: tl.constexpr, COLS: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """``y`` [S,rows,outputs], float32: terms of the 3x3 convolution of ``x`` [B,height,width,depth] (split-K).

    Each sums ``chunk`` pieces, of DEPTH channels at one of nine places. The descriptor ``weight`` brings tiles of
    [outputs,9*depth]; ``outputs`` is a multiple of COLS and ``depth`` of DEPTH.
    """
    column, term = tl.program_id(0) * COLS, tl.program_id(1)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    vertical, horizontal = row // width % height, row % width
    lane = tl.arange(0, DEPTH)[None, :]
    pieces = depth // DEPTH
    total = tl.zeros([ROWS, COLS], tl.float32)
    for piece in range(term * chunk, tl.minimum(term * chunk + chunk, 9 * pieces)):
        place = piece // pieces
        down, right = place // 3 - 1, place % 3 - 1
        inside = (row < rows) & (vertical + down >= 0) & (vertical + down < height)
        inside &= (horizontal + right >= 0) & (horizontal + right < width)
        at = (row + down * width + right)[:, None] * depth + piece % pieces * DEPTH + lane
        value = tl.load(x + at, inside[:, None], 0.0)
        total = tl.dot(value, weight.load([column, piece * DEPTH]).T, total)
    column += tl.arange(0, COLS)
    y += (term * rows + row)[:, None].to(tl.int64) * outputs + column[None, :]
    tl.store(y, total, (row < rows)[:, None])


STRIDES = ["q_row", "q_head", "q_token", "k_row", "k_head", "k_token", "v_row", "v_head", "v_token"]


@triton.jit(do_not_specialize=["tokens", "keys", "heads", "width", *STRIDES])
def short_attention(
    q, k, v, y, tokens, keys, heads, width, q_row, q_head, q_token, k_row, k_head, k_token, v_row, v_head, v_token,
    scale, ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """``y`` [N,tokens,heads,8*width]: attention of ``q`` [N,heads,tokens,8*width] to at most KEYS keys, in one piece.

    Strides are in units of eight numbers too, so that all are known to lie in order. The exponentials are those of two,
    whose factor ``scale`` has.
    """
    head = tl.program_id(1) % heads
    image = (tl.program_id(1) // heads).to(tl.int64)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    key = tl.arange(0, KEYS)[:, None]
    inside = column < width * 8
    q += (image * q_row + head * q_head) * 8 + row * (q_token * 8) + column
    k += (image * k_row + head * k_head) * 8 + key * (k_token * 8) + column
    v += (image * v_row + head * v_head) * 8 + key * (v_token * 8) + column
    asked, known = (row < tokens) & inside, (key < keys) & inside
    scores = tl.dot(tl.load(q, asked, 0.0), tl.trans(tl.load(k, known, 0.0))) * scale
    scores = tl.where(tl.arange(0, KEYS)[None, :] < keys, scores, float("-inf"))
    shares = tl.exp2(scores - tl.max(scores, 1)[:, None])
    values = tl.load(v, known, 0.0)
    found = tl.dot(shares.to(values.dtype), values) / tl.sum(shares, 1)[:, None]
    y += ((image * tokens + row) * heads + head) * (width * 8) + column
    tl.store(y, found.to(y.dtype.element_ty), asked)


@triton.jit(do_not_specialize=["rows", "width"])
def doubled(x, y, rows, width, channels):
    """``y`` [rows,2,width,2,C]: each pixel of ``x`` [rows,width,C] four times."""
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLS + tl.arange(0, COLS)
    mask = (pixel < rows * width)[:, None] & (column < channels)[None, :]
    value = tl.load(x + pixel[:, None].to(tl.int64) * channels + column[None, :], mask, 0.0)
    corner = ((pixel // width) * 4 * width + (pixel % width) * 2)[:, None].to(tl.int64)
    y += corner * channels + column[None, :]
    tl.store(y, value, mask)
    tl.store(y + channels, value, mask)
    tl.store(y + 2 * width * channels, value, mask)
    tl.store(y + (2 * width + 1) * channels, value, mask)


@triton.jit(do_not_specialize=["pixels", "width", "chunk"])
def interleaved(x, bias, y, sums, pixels, width, channels, chunk):
    """``y`` [B,2H,2W,C] of four kinds of pixels in ``x`` [B,H+1,W+1,2,2,C], plus ``bias`` [C]; and its ``sums``.

    Row r takes the kind r % 2 from row (r + 1) // 2, and columns likewise. ``width`` is 2W, and ``pixels`` 2H * 2W.
    """
    part, image, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * COLS + tl.arange(0, COLS)
    inside = column < channels
    end = tl.minimum(part * chunk + chunk, pixels)
    across = width // 2 + 1
    x += image.to(tl.int64) * (pixels // width // 2 + 1) * across * 4 * channels
    y += image.to(tl.int64) * pixels * channels
    total = tl.zeros([ROWS, COLS], tl.float32)
    squares = tl.zeros([ROWS, COLS], tl.float32)
    constant = tl.load(bias + column, inside, 0.0).to(tl.float32)
    for start in range(part * chunk, end, ROWS):
        pixel = start + tl.arange(0, ROWS)
        mask = (pixel < end)[:, None] & inside[None, :]
        row, col = pixel // width, pixel % width
        at = (((row + 1) // 2 * across + (col + 1) // 2) * 2 + row % 2) * 2 + col % 2
        value = tl.load(x + at[:, None] * channels + column[None, :], mask, 0.0).to(tl.float32) + constant[None, :]
        value = tl.where(mask, value, 0.0).to(y.dtype.element_ty)
        tl.store(y + pixel[:, None] * channels + column[None, :], value, mask)
        value = value.to(tl.float32)
        total += value
        squares += value * value
    _sums(total, squares, sums, part, tl.num_programs(0), image, channels, column)


@triton.jit(do_not_specialize=["columns"])
def softmax(x, y, columns, scale, BLOCK: tl.constexpr):
    """``y`` [R,S]: the softmax of each row of ``x * scale``."""
    row = tl.program_id(0).to(tl.int64) * columns
    column = tl.arange(0, BLOCK)
    value = tl.load(x + row + column, column < columns, float("-inf")) * scale
    value = tl.exp(value - tl.max(value, 0))
    tl.store(y + row + column, (value / tl.sum(value, 0)).to(y.dtype.element_ty), column < columns)
