"""The tap's promises, for all three networks: its names, its price, and what replacing does."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffuscope.config import TINY
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.nn.taps import tap_points
from refusals import refused

IDS = torch.tensor([[49406, 320, 1674, 49407, 49407]])


class Tap:
    """Wants what ``wanted`` says, keeps it in order, and answers with ``change`` of it."""

    def __init__(self, wanted=lambda _: True, change=lambda value: value):
        self.wants = wanted
        self.change = change
        self.names = []

    def __call__(self, name, value):
        self.names.append(name)
        return self.change(value)


class Operators(TorchDispatchMode):
    """Writes down each operator that is dispatched."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def run_text(model, tap):
    return model(IDS, tap).pooled


def run_unet(model, tap):
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 32, generator=generator)
    extra = None
    if model.config.extra_dim is not None:
        extra = {"pooled": torch.ones(2, 8), "sizes": torch.full((2, 6), 64)}
    return model(x, torch.tensor([3.0, 500.0]), context, extra=extra, tap=tap)


def run_vae(model, tap):
    return model(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1, tap)


CASES = {
    "text_encoder": (lambda: TextEncoder(replace(TINY.text_encoder, projection=8)), run_text),
    "unet": (lambda: UNet(TINY.unet), run_unet),
    "unet deep": (lambda: UNet(replace(TINY.unet, depth=(2, 1), extra_dim=8 + 6 * 256)), run_unet),
    "vae": (lambda: VAE(TINY.vae), run_vae),
}


@pytest.fixture(params=CASES)
def case(request):
    torch.manual_seed(0)
    make, run = CASES[request.param]
    return make().eval(), run


@torch.no_grad()
def test_tap_points_are_exactly_what_a_forward_offers(case):
    model, run = case
    tap = Tap()
    run(model, tap)
    points = tap_points(model)
    assert sorted(tap.names) == sorted(points)
    assert len(set(points)) == len(points)
    assert all(name.startswith(model.component + ".") for name in points)


@torch.no_grad()
def test_names_are_the_paths_of_modules(case):
    model, _ = case
    modules = {f"{model.component}.{path}" for path, _ in model.named_modules()}
    values = {"", "x", "context", "embeddings", "last_hidden_state", "pooled", "mean", "logvar", "hidden"}
    values |= {"query", "key", "value", "weights", "head_out"}
    for name in tap_points(model):
        head, _, last = name.rpartition(".")
        is_skip = ".skip." in name
        assert name in modules or is_skip or (last in values and (head in modules or head == model.component)), name


@torch.no_grad()
def test_a_tap_that_wants_nothing_costs_no_operator(case):
    model, run = case
    with Operators() as bare:
        expected = run(model, None)
    with Operators() as tapped:
        found = run(model, Tap(lambda _: False))
    assert bare.names == tapped.names
    assert torch.equal(expected, found)


@torch.no_grad()
def test_reading_everything_but_weights_changes_no_bit(case):
    model, run = case
    tap = Tap(lambda name: not name.endswith(".weights"))
    assert torch.equal(run(model, tap), run(model, None))
    assert len(tap.names) > 5


@torch.no_grad()
def test_reading_weights_stays_within_the_twins_tolerance(case):
    model, run = case
    torch.testing.assert_close(run(model, Tap()), run(model, None), rtol=0, atol=1e-5)


@torch.no_grad()
def test_every_point_can_be_replaced_and_matters(case):
    """Zeroing any one value changes the output: no name stands for something that nobody reads."""
    model, run = case
    expected = run(model, None)
    for point in tap_points(model):
        if point == "vae.logvar":  # the mean alone goes on to the decoder
            continue
        found = run(
            model, Tap(lambda name, point=point: name == point, lambda value: value * 0.5 + 0.1 * value.roll(1, -1))
        )
        assert not torch.equal(found, expected), point


def test_replacement_of_another_shape_is_an_error(case):
    model, run = case
    point = tap_points(model)[0]
    with refused("tap") as caught:
        run(model, Tap(lambda name: name == point, lambda value: value[..., :1]))
    assert f"for '{point}'" in caught.value.got
    with refused("tap", f"NoneType for '{point}'"):
        run(model, Tap(lambda name: name == point, lambda _: None))


def test_gradient_reaches_every_parameter(case):
    model, run = case
    run(model, None).square().sum().backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
    # A key's bias adds the same to all scores of a query, which softmax does not see.
    idle = {name for name in idle if not name.endswith("key.bias")}
    assert idle == set()
