import torch
from torch import nn

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
