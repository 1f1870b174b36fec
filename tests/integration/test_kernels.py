"""Each Triton kernel compiles for GPUs that are not here, in every variant that is prepared beside reading weights."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton has no build for this system")

LIMITS = {80: 163, 90: 227}
"""Compute capability -> KiB of shared memory that a program can have."""

COMPILE = """
import sys
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from diffuscope.perf import ops, tokens, warming

target, dtype = GPUTarget("cuda", int(sys.argv[1]), 32), getattr(torch, sys.argv[2])
KINDS = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", int: "i32", float: "fp32"}

def kind(value):
    if isinstance(value, Tensor):
        return f"*{KINDS[value.dtype]}"
    if isinstance(value, (int, float)):
        return KINDS[type(value)]
    return f"tensordesc<{KINDS[value.base.dtype]}{value.block_shape}>"

def compiled(kernel, grid, *values, **constants):
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages") if name in constants}
    names = [name for name in kernel.arg_names if name not in constants]
    signature = {name: kind(value) for name, value in zip(names, values, strict=True)}
    signature |= dict.fromkeys(constants, "constexpr")
    made = triton.compile(ASTSource(kernel, signature, constants), target=target, options=options)
    print(kernel.__name__, made.metadata.shared, len(made.asm["cubin"]))

ops.launch = tokens.launch = compiled
ops.fuses = lambda _: True
ops.describes = lambda _: target.arch >= 90
with torch.no_grad():
    for sample in warming.kernel_samples(torch.device("cpu"), dtype):
        sample()
"""


@pytest.mark.parametrize(("capability", "dtype"), [(80, "float16"), (90, "float16"), (90, "bfloat16")])
def test_each_kernel_compiles(capability, dtype):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-c", COMPILE, str(capability), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    names = {name for name, _, _ in rows}
    assert names >= {"added", "channel_sums", "doubled", "gated", "group_factors", "joined", "layer_norm", "scaled"}
    assert "short_attention" in names
    assert names.issuperset({"gated_product", "split_convolution"}) is (capability >= 90)
    assert names.isdisjoint({"gated_product", "split_convolution"}) is (capability < 90)
    for name, shared, size in rows:
        assert int(size) > 0, name
        assert int(shared) <= LIMITS[capability] * 1024, name
