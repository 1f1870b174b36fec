"""The student as factors: exact where the rank suffices, the best approximation where it does not."""

import copy

import pytest
import torch
from torch import nn

from diffuscope.distill.low_rank import DOWN, UP, attach, factorise, read_factors, restore


class Network(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(8, 12, 3)
        self.linear = nn.Linear(16, 20)

    def forward(self, x):
        return self.linear(self.conv(x).flatten(1)[:, :16])


@pytest.fixture
def base():
    return Network(0)


@pytest.fixture
def student():
    return Network(1)


def difference(student, base):
    return {name: value - base.state_dict()[name] for name, value in student.state_dict().items()}


def test_a_difference_of_that_rank_comes_back(base, student):
    before = base.state_dict()
    low = {name: torch.zeros_like(value) for name, value in before.items()}
    low["conv.weight"] = (torch.randn(12, 3) @ torch.randn(3, 72)).view(12, 8, 3, 3)
    low["linear.bias"] = torch.randn(20)
    factors = factorise(low, 3)
    assert factors["conv.weight" + UP].shape == (12, 3)
    assert factors["conv.weight" + DOWN].shape == (3, 72)
    back = restore(before, factors)
    for name, value in before.items():
        torch.testing.assert_close(back[name], value + low[name], rtol=1e-4, atol=1e-5)


def test_more_rank_is_nearer_and_the_error_is_that_of_the_values_left_out(base, student):
    whole = difference(student, base)
    values = torch.linalg.svdvals(whole["linear.weight"])
    for rank in (1, 4):
        factors = factorise(whole, rank)
        missing = factors["linear.weight" + UP] @ factors["linear.weight" + DOWN] - whole["linear.weight"]
        torch.testing.assert_close(missing.norm(), values[rank:].norm())


def test_what_two_factors_would_not_shorten_stays_whole(base, student):
    whole = difference(student, base)
    factors = factorise(whole, 10)
    assert torch.equal(factors["linear.weight"], whole["linear.weight"])
    assert torch.equal(factors["conv.bias"], whole["conv.bias"])


def test_an_attached_network_is_the_student_and_learns_factors_alone(base, student):
    before = {name: value.clone() for name, value in base.state_dict().items()}
    factors = factorise(difference(student, base), 4)
    wanted = Network(2)
    wanted.load_state_dict(restore(before, factors))
    x = torch.randn(2, 8, 5, 5)
    network = copy.deepcopy(student)
    attach(network, before, factors)
    torch.testing.assert_close(network(x), wanted(x))
    copied = copy.deepcopy(network)
    learned = {name for name, value in network.named_parameters() if value.requires_grad}
    assert {name.rpartition(".")[2] for name in learned} == {"up", "down", "bias"}
    network(x).square().mean().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    now = read_factors(network, before)
    assert now.keys() == factors.keys()
    assert not torch.equal(now["conv.weight" + UP], factors["conv.weight" + UP])
    wanted.load_state_dict(restore(before, now))
    torch.testing.assert_close(network(x), wanted(x))
    assert not torch.equal(copied(x), network(x))
    torch.testing.assert_close(restore(before, read_factors(copied, before))["linear.bias"], student.linear.bias)
