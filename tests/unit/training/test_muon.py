from collections import Counter

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from diffuscope.training.muon import MuonAdamW, orthogonalise


def test_orthogonalised_matrices_have_singular_values_near_one_and_the_same_directions():
    matrices = torch.randn(3, 24, 16, generator=torch.Generator().manual_seed(0))
    result = orthogonalise(matrices)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    turned = u.mT @ result @ v.mT
    assert torch.linalg.svdvals(result).sub(1).abs().max() < 0.35
    off_diagonal = turned - torch.diag_embed(torch.diagonal(turned, dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 1e-4
    assert (s > 0).all()


def test_orthogonalised_leaves_its_input_alone():
    matrices = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(1))
    before = matrices.clone()
    orthogonalise(matrices)
    assert torch.equal(matrices, before)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))


def test_matrices_go_to_muon_and_tables_edges_and_vectors_to_adam():
    net = network()
    muon, adam = MuonAdamW(net, 1e-2, adamw_prefixes=("3.",)).parts
    assert [tuple(p.shape) for p in muon.param_groups[0]["params"]] == [(8, 8), (8, 8)]
    assert len(adam.param_groups[0]["params"]) == len(list(net.parameters())) - 2


def test_an_update_has_the_size_of_an_adam_update_whatever_the_gradient():
    for size in (1e-4, 1e4):
        layer = nn.Linear(16, 64, bias=False)
        before = layer.weight.detach().clone()
        optimiser = MuonAdamW(nn.Sequential(layer), 1e-2)
        layer.weight.grad = size * torch.randn(64, 16, generator=torch.Generator().manual_seed(2))
        optimiser.step(1.0)
        moved = (layer.weight.detach() - before).square().mean().sqrt()
        assert 0.5 * 0.2 * 1e-2 < moved < 1.5 * 0.2 * 1e-2


def test_state_round_trip_continues_bit_for_bit():
    def steps(net, optimiser, first, last):
        for i in range(first, last):
            ids = torch.randint(10, (4,), generator=torch.Generator().manual_seed(i))
            net(ids).square().sum().backward()
            optimiser.step(1.0)

    whole, halves = network(), network()
    steps(whole, MuonAdamW(whole, 1e-2), 0, 6)
    first = MuonAdamW(halves, 1e-2)
    steps(halves, first, 0, 3)
    second = MuonAdamW(halves, 1e-2)
    second.load({name: value.clone() for name, value in first.state().items()})
    steps(halves, second, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


def test_restored_buffers_lie_in_memory_as_their_parameters_do():
    layer = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    optimiser = MuonAdamW(layer, 1e-2)
    layer(torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))).sum().backward()
    optimiser.step(1.0)
    other = MuonAdamW(layer, 1e-2)
    other.load({name: value.contiguous() for name, value in optimiser.state().items()})
    for part in other.parts:
        for parameter, slots in part.state.items():
            assert all(value.stride() == parameter.stride() for slot, value in slots.items() if slot != "step")


def test_a_kept_step_is_a_step_and_another_is_none():
    """Bit for bit, with weight decay and momentum, whatever the gradients that are left out hold."""

    def stepped(*kept):
        net = network()
        optimiser = MuonAdamW(net, 1e-2, weight_decay=0.1)
        for i, keep in enumerate(kept):
            ids = torch.randint(10, (4,), generator=torch.Generator().manual_seed(i))
            net(ids).square().sum().backward()
            for p in net.parameters():
                if keep is not None and not keep:
                    p.grad.fill_(torch.nan)
            optimiser.step(1.0, keep)
        return [*net.parameters(), *optimiser.state().values()]

    yes, no = torch.tensor(True), torch.tensor(False)
    plain = stepped(None, None, None)
    assert all(torch.equal(a, b) for a, b in zip(plain, stepped(yes, yes, yes), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(stepped(None, None), stepped(yes, yes, no), strict=True))


def test_vectors_move_as_adamw_moves_them():
    net, twin = network(), network()
    optimiser = MuonAdamW(net, 1e-2, adam_ratio=0.5)
    oracle = torch.optim.AdamW([twin[1].bias], lr=5e-3, betas=(0.9, 0.99), weight_decay=0.0, foreach=False)
    for i in range(5):
        for each in (net, twin):
            each[1].bias.grad = torch.randn(8, generator=torch.Generator().manual_seed(i))
        optimiser.step(1.0)
        oracle.step()
    torch.testing.assert_close(net[1].bias, twin[1].bias, rtol=1e-5, atol=1e-7)


def slow_twin(weights, grads, momenta, lr, momentum, weight_decay):
    """One step of the definition, a matrix at a time, with plain operations."""
    for weight, grad, running in zip(weights, grads, momenta, strict=True):
        running.mul_(momentum).add_(grad, alpha=1 - momentum)
        x = ((1 - momentum) * grad + momentum * running).flatten(1)
        largest = max(x.shape)
        is_tall = x.shape[0] > x.shape[1]
        x = x.T if is_tall else x
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        x = x.T if is_tall else x
        weight.mul_(1 - lr * weight_decay).sub_(x.reshape(weight.shape), alpha=lr * 0.2 * largest**0.5)


def shapes(count: int) -> nn.Sequential:
    """``count`` each of wide, tall and square matrices, and of kernels as channels-last networks have them."""
    torch.manual_seed(3)
    layers = [
        layer
        for _ in range(count)
        for layer in (
            nn.Linear(24, 8),
            nn.Linear(8, 24),
            nn.Linear(16, 16),
            nn.Conv2d(8, 16, 3),
            nn.Conv2d(1, 8, 3),
            nn.Conv2d(16, 16, 1),
        )
    ]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def with_gradients(net, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))


def test_stacked_matrices_move_as_one_at_a_time():
    net = shapes(3)
    optimiser = MuonAdamW(net, 1e-2, weight_decay=0.1)
    matrices = [p for p in net.parameters() if p.ndim >= 2]
    twins = [p.detach().clone().contiguous() for p in matrices]
    momenta = [torch.zeros_like(twin) for twin in twins]
    for i in range(4):
        with_gradients(net, i)
        if i == 2:
            matrices[0].grad = None  # one that has none stays
        grads = [None if p.grad is None else p.grad.clone() for p in matrices]
        optimiser.step(1.0, torch.tensor(True))
        moved = [row for row in zip(twins, grads, momenta, strict=True) if row[1] is not None]
        slow_twin(*zip(*moved, strict=True), 1e-2, 0.95, 0.1)
    for p, twin, momentum in zip(matrices, twins, momenta, strict=True):
        torch.testing.assert_close(p.detach(), twin, rtol=0, atol=2e-6)
        torch.testing.assert_close(optimiser.parts[0].state[p]["momentum"], momentum, rtol=0, atol=1e-6)


class Launches(TorchDispatchMode):
    """Counts what is no view; lists that lie otherwise in memory than each other are worked through one by one."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.counts[str(func)] += 1
        lists = [a for a in args if isinstance(a, list | tuple) and all(isinstance(t, torch.Tensor) for t in a)]
        if "_foreach_" in str(func):
            assert all(len({(t.stride(), t.dtype) for t in row}) == 1 for row in zip(*lists, strict=True)), func
        return func(*args, **(kwargs or {}))


def test_a_step_has_as_many_launches_for_many_matrices_as_for_one_of_each_shape():
    totals = []
    for count in (1, 5):
        net = shapes(count)
        optimiser = MuonAdamW(net, 1e-2, weight_decay=0.1)
        with_gradients(net, 0)
        with Launches() as seen:
            optimiser.step(1.0, torch.tensor(True))
        totals.append(seen.counts.total())
    assert totals[0] == totals[1] < 5 * 25 + 20  # two layers are of one shape
