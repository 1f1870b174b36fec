"""Attention: the fused kernel, its written-out twin, and what a tap sees of them."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffuscope.nn.attention import Attention, attention_weights

TOLERANCE = 1e-5


class Wanting:
    """A tap that wants some names, keeps what it sees, and changes nothing."""

    def __init__(self, *names):
        self.names = names
        self.seen = {}

    def wants(self, name):
        return name in self.names

    def __call__(self, name, value):
        self.seen[name] = value
        return value


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("crossed", [False, True])
def test_weights_twin_equals_fused_kernel(causal, crossed):
    if causal and crossed:
        crossed = None  # a causal network reads itself
    torch.manual_seed(0)
    attention = Attention(32, 4, 24 if crossed else None, bias=True, causal=causal)
    x = torch.randn(2, 9, 32)
    context = torch.randn(2, 5, 24) if crossed else None
    tap = Wanting("weights")
    torch.testing.assert_close(attention(x, context, tap), attention(x, context), rtol=0, atol=TOLERANCE)
    weights = tap.seen["weights"]
    assert weights.shape == (2, 4, 9, 5 if crossed else 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 9))
    if causal:
        assert weights.triu(1).abs().max() == 0


def test_softmax_runs_in_float32():
    q, k = torch.randn(1, 1, 4, 8).bfloat16(), torch.randn(1, 1, 300, 8).bfloat16()
    weights = attention_weights(q, k)
    assert weights.dtype == torch.bfloat16
    exact = (q.double() @ k.double().transpose(-2, -1) * 8**-0.5).softmax(-1)
    assert (weights.double() - exact).abs().max() < 1e-3


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
def test_products_beyond_float16_do_not_overflow(backend):
    """As in SD 2.1, whose attention diffusers upcasts (``upcast_attention``) where it has no fused kernel."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 16, 64, generator=generator).half() for _ in range(3))
    q, k = q * 150, k * 150
    assert not (q @ k.mT).isfinite().all()
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    with sdpa_kernel(backend):
        assert (F.scaled_dot_product_attention(q, k, v) - exact).abs().max() < 0.01
    assert (attention_weights(q, k) @ v - exact).abs().max() < 0.01


def test_head_width_64_takes_the_fused_kernel(monkeypatch):
    shapes = []
    kernel = F.scaled_dot_product_attention

    def spy(q, k, v, **options):
        shapes.append(q.shape)
        return kernel(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    attention = Attention(128, 2)
    x = torch.randn(1, 6, 128)
    attention(x)
    attention(x, tap=Wanting("query"))
    attention(x, tap=Wanting("weights"))
    assert shapes == [(1, 2, 6, 64)] * 2


def test_gradient_flows_through_both_twins():
    for names in ((), ("weights",)):
        attention = Attention(16, 2, bias=True)
        x = torch.randn(1, 3, 16, requires_grad=True)
        attention(x, tap=Wanting(*names)).square().sum().backward()
        assert x.grad.abs().max() > 0
        assert all(p.grad.abs().max() > 0 for name, p in attention.named_parameters() if name != "key.bias")
