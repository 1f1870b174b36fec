"""Token merging: the fast form against one token after the other; exact at 0; each row for itself."""

import pytest
import torch
from torch import Tensor

from diffuscope.perf.engine import Approximation, Engine
from diffuscope.perf.merging import Merge, places
from diffuscope.perf.unet import FastUNet
from diffuscope.pipeline import Pipeline
from narrow import made
from refusals import refused


@pytest.fixture(scope="module")
def model() -> Pipeline:
    return made("sd15")


def slow(x: Tensor, height: int, width: int, share: float) -> tuple[list[list[int]], int]:
    """For one row: the tokens that are one after merging, in a list for each; and how many are merged."""
    stay, rest = (each.tolist() for each in places(height, width))
    similarity = {
        (a, b): float(torch.nn.functional.cosine_similarity(x[a], x[b], dim=0, eps=0)) for a in rest for b in stay
    }
    best = {a: max(stay, key=lambda b: similarity[a, b]) for a in rest}
    count = min(int(share * len(x)), len(rest))
    gone = sorted(rest, key=lambda a: -similarity[a, best[a]])[:count]
    return [[b, *(a for a in gone if best[a] == b)] for b in stay] + [[a] for a in rest if a not in gone], count


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.75])
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_against_one_token_after_the_other(size: tuple[int, int], share: float) -> None:
    tokens = size[0] * size[1]
    x = torch.randn(2, tokens, 8, generator=torch.Generator().manual_seed(0))
    y = torch.randn(2, tokens, 3, generator=torch.Generator().manual_seed(1))
    merge = Merge(x, *size, share)
    small = merge.merged(y)
    restored = merge.restored(small)
    for row in range(2):
        groups, count = slow(x[row], *size, share)
        assert small.shape[1] == merge.count == tokens - count == len(groups)
        expected = torch.empty_like(y[row])
        for group in groups:
            expected[group] = y[row, group].mean(0)
        torch.testing.assert_close(restored[row], expected, rtol=1e-5, atol=1e-6)
    alone = Merge(x[1:], *size, share)
    assert torch.equal(alone.restored(alone.merged(y[1:])), restored[1:])


def test_one_token_of_each_whole_cell_stays() -> None:
    stay, rest = places(5, 7)
    assert sorted([*stay.tolist(), *rest.tolist()]) == list(range(35))
    assert sorted((each // 7 // 2, each % 7 // 2) for each in stay.tolist()) == [
        (a, b) for a in range(2) for b in range(3)
    ]
    assert len({(each // 7 % 2, each % 7 % 2) for each in places(32, 32)[0].tolist()}) == 4  # not always one corner


@torch.no_grad()
def test_in_the_u_net(model: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    unet, lengths, real = model.unet, [], torch.nn.functional.scaled_dot_product_attention

    def seen(q: Tensor, k: Tensor, v: Tensor, **more: object) -> Tensor:
        if q.shape[2] == k.shape[2]:
            lengths.append(q.shape[2])
        return real(q, k, v, **more)

    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x, time = torch.cat([x, x]), torch.tensor(501.0)
    context = torch.randn(4, 7, unet.config.context_dim, generator=torch.Generator().manual_seed(1))
    exact = Engine(True).predictor(unet, context, None, pairs=True)(x, time)
    found = {}
    for share in (1e-9, 0.5):
        engine = Engine(True)
        with monkeypatch.context() as patched:
            patched.setattr(torch.nn.functional, "scaled_dot_product_attention", seen)
            found[share] = engine.predictor(
                unet, context, None, pairs=True, approximation=Approximation(merging=share)
            )(x, time)
        if share == 0.5:
            assert 32 in lengths
            assert 64 not in lengths
            assert 16 in lengths  # only the finest maps
        lengths.clear()
    torch.testing.assert_close(found[1e-9], exact, rtol=0, atol=2e-5)  # nothing merged: tokens in another order
    assert (found[0.5] - exact).abs().max() > 1e-3
    predict = engine.predictor(unet, context, None, pairs=True, approximation=Approximation(merging=0.5))
    assert predict(x[:, :, :1], time).isfinite().all()  # a map without cells


def test_a_call(model: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"num_inference_steps": 2, "seed": 5}
    plain = model("a red fox", **options)
    merged = model("a red fox", token_merging=0.5, **options)
    assert merged.receipt["token_merging"] == 0.5
    assert not torch.equal(merged.latents, plain.latents)
    assert torch.equal(model("a red fox", token_merging=0.0, **options).latents, plain.latents)
    both, deep, real = {"token_merging": 0.5, "step_caching": 2}, [], FastUNet.deep
    monkeypatch.setattr(FastUNet, "deep", lambda self, *rest: deep.append(rest[2].merging) or real(self, *rest))
    assert not torch.equal(model("a red fox", **both, **options).latents, merged.latents)
    assert deep == [0.5]
    with refused("token_merging", got=0.5):
        model("a red fox", token_merging=0.5, tap={"unet.mid.*": lambda value: value})
    with refused("token_merging", got=0.9):
        model("a red fox", token_merging=0.9)
