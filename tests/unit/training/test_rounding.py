"""Training with weights as the file will store them."""

import pytest
import torch
from torch import nn

from diffuscope.training.rounding import Rounding, round_weights
from diffuscope.weights.store import difference


@pytest.fixture
def base():
    return {"0.weight": torch.randn(64, 64), "0.bias": torch.randn(64)}


@pytest.fixture
def network(base):
    network = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))
    with torch.no_grad():
        network[0].weight.copy_(base["0.weight"] + 0.01 * torch.randn(64, 64))
    return network


def stored(network, base):
    return difference.restore(*difference.pack(network.state_dict(), base), base)


def test_rounded_weights_are_those_of_the_file(network, base):
    file = stored(network, base)
    round_weights(network, base)
    torch.testing.assert_close(network[0].weight.detach(), file["0.weight"], rtol=0, atol=1e-6)
    assert not torch.equal(network[0].weight, base["0.weight"])


def test_what_is_rounded_stays_as_it_is(network, base):
    once = stored(network, base)
    again = difference.restore(*difference.pack(once, base), base)
    torch.testing.assert_close(again["0.weight"], once["0.weight"], rtol=0, atol=2e-6)


def test_forward_and_gradient_are_of_the_rounded_weights_and_the_exact_ones_return(network, base):
    x, exact = torch.randn(5, 64), {name: value.clone() for name, value in network.state_dict().items()}
    round_weights(network, base)
    expected = network(x)
    expected.square().sum().backward()
    grads = [p.grad.clone() for p in network.parameters()]
    network.load_state_dict(exact)
    network.zero_grad()

    rounding = Rounding(network, base)
    rounding.round()
    output = network(x)
    assert torch.equal(output, expected)
    output.square().sum().backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(network.parameters(), grads, strict=True))
    assert all(torch.equal(value, exact[name]) for name, value in network.state_dict().items())


def test_without_a_call_nothing_is_rounded(network, base):
    before = network[0].weight.clone()
    Rounding(network, base)
    network(torch.randn(5, 64)).sum().backward()
    assert torch.equal(network[0].weight, before)


def test_a_backward_pass_without_a_call_keeps_what_was_learned_since(network, base):
    rounding, x = Rounding(network, base), torch.randn(5, 64)
    rounding.round()
    network(x).sum().backward()
    with torch.no_grad():
        network[0].weight.add_(1.0)
    learned = network[0].weight.clone()
    network(x).sum().backward()
    assert torch.equal(network[0].weight, learned)


def test_a_network_trained_rounded_loses_less_when_it_is_stored(base):
    """Inputs in 16 of 64 directions: errors of rounding can cancel, if training sees them."""
    torch.manual_seed(0)
    x = torch.randn(512, 16) @ torch.randn(16, 64) / 4
    target = nn.functional.linear(x, base["0.weight"] + 0.3 * torch.randn(64, 64))

    def loss_of_file(rounds):
        network = nn.Sequential(nn.Linear(64, 64))
        with torch.no_grad():
            network[0].weight.copy_(base["0.weight"])
            network[0].bias.zero_()
        rounding = Rounding(network, base)
        optimiser = torch.optim.Adam(network.parameters(), 0.01)
        for step in range(400):
            optimiser.param_groups[0]["lr"] = 0.01 * (1 - step / 400)
            if rounds and step >= 100:
                rounding.round()
            optimiser.zero_grad()
            (network(x) - target).square().mean().backward()
            optimiser.step()
        round_weights(network, base)
        return (network(x) - target).square().mean().item()

    assert loss_of_file(rounds=True) < 0.7 * loss_of_file(rounds=False)
