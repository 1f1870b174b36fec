"""The folded network is held against one that is written out in the package's own names, with its batch norms."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from diffuscope.errors import ModelNotFoundError, WeightMismatchError, WeightsError
from diffuscope.vision.efficientnet import EfficientNet, SameConv2d
from diffuscope.vision.feature_net import convert, layers, load_efficientnet
from diffuscope.weights.store import packing

# Strides of the 16 blocks, in the package's counting; a block whose shape does not change has a residual.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


@pytest.fixture(scope="module")
def package_state() -> dict[str, Tensor]:
    """Random weights under the package's names, with norms far from the identity."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(shape).uniform_(low, high, generator=generator)

    state: dict[str, Tensor] = {}
    shapes = {name: value.shape for name, value in EfficientNet().state_dict().items()}
    for ours, (conv, norm) in layers().items():
        shape = shapes[f"{ours}.weight"]
        bound = (6 / shape[1:].numel()) ** 0.5
        state[f"{conv}.weight"] = uniform(-bound, bound, *shape)
        state[f"{norm}.weight"] = uniform(0.5, 1.5, shape[0])
        state[f"{norm}.bias"] = uniform(-0.5, 0.5, shape[0])
        state[f"{norm}.running_mean"] = uniform(-0.5, 0.5, shape[0])
        state[f"{norm}.running_var"] = uniform(0.5, 2.0, shape[0])
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    state["_fc.weight"] = uniform(-0.03, 0.03, *shapes["classifier.weight"])
    state["_fc.bias"] = uniform(-0.03, 0.03, *shapes["classifier.bias"])
    return state


def reference(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Slow twin: logits in float64 with every batch norm carried out, padding as TensorFlow defines SAME."""
    state = {name: value.double() for name, value in state.items()}

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1, depthwise: bool = False) -> Tensor:
        weight = state[f"{conv}.weight"]
        for axis in (2, 3):
            size, kernel = x.shape[axis], weight.shape[axis]
            outputs = (size + stride - 1) // stride
            missing = max((outputs - 1) * stride + kernel - size, 0)
            zeros = list(x.shape)
            zeros[axis] = missing // 2
            before = x.new_zeros(zeros)
            zeros[axis] = missing - missing // 2
            x = torch.cat([before, x, x.new_zeros(zeros)], axis)
        x = F.conv2d(x, weight, stride=stride, groups=weight.shape[0] if depthwise else 1)
        stats = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *stats, eps=1e-3)

    mean, std = (torch.tensor(v).double().view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = layer((pixels.double() - mean) / std, "_conv_stem", "_bn0", 2).clamp(0, 6)
    for i, stride in enumerate(STRIDES):
        name, y = f"_blocks.{i}.", x
        if f"{name}_expand_conv.weight" in state:
            y = layer(y, f"{name}_expand_conv", f"{name}_bn0").clamp(0, 6)
        y = layer(y, f"{name}_depthwise_conv", f"{name}_bn1", stride, depthwise=True).clamp(0, 6)
        y = layer(y, f"{name}_project_conv", f"{name}_bn2")
        x = x + y if x.shape == y.shape else y
    pooled = layer(x, "_conv_head", "_bn1").clamp(0, 6).mean((2, 3))
    return pooled @ state["_fc.weight"].T + state["_fc.bias"]


@pytest.mark.parametrize("size", [(32, 32), (37, 50)])
def test_folded_network_equals_the_one_with_batch_norms(
    package_state: dict[str, Tensor], size: tuple[int, int]
) -> None:
    net = EfficientNet()
    net.load_state_dict(convert(package_state))
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    expected = reference(package_state, pixels)
    assert expected.std() > 0.05
    torch.testing.assert_close(net(pixels).double(), expected, rtol=0, atol=1e-4)


def test_feature_maps_have_the_documented_shapes() -> None:
    features = EfficientNet().features(torch.rand(2, 3, 64, 96))
    widths, factors = (16, 24, 40, 80, 112, 192, 320), (2, 4, 8, 16, 16, 32, 32)
    for stage, width, factor in zip(features.stages, widths, factors, strict=True):
        assert stage.shape == (2, width, 64 // factor, 96 // factor)
    assert features.pooled.shape == (2, 1280)
    assert features.pooled.min() >= 0


def test_gradient_reaches_the_pixels_of_a_frozen_network_under_autocast() -> None:
    net = EfficientNet().train().requires_grad_(False)
    pixels = torch.rand(1, 3, 32, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        features = net.features(pixels)
    sum(stage.float().square().mean() for stage in features.stages).backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0


@pytest.mark.parametrize(("kernel", "size"), [(3, 7), (3, 8), (5, 7), (5, 8)])
def test_same_padding_puts_the_odd_zero_at_the_far_end(kernel: int, size: int) -> None:
    conv = SameConv2d(1, 1, kernel, 2, bias=False)
    torch.nn.init.ones_(conv.weight)
    total = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
    padded = F.pad(torch.ones(1, 1, size, size), (total // 2, total - total // 2) * 2)
    expected = padded.unfold(2, kernel, 2).unfold(3, kernel, 2).sum((-1, -2))
    torch.testing.assert_close(conv(torch.ones(1, 1, size, size)), expected)


def test_both_files_load_the_same_frozen_network(package_state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(package_state, tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    first = load_efficientnet(tmp_path / "net.pth")
    save_file({name: value.half() for name, value in first.state_dict().items()}, tmp_path / "net.safetensors")
    second = load_efficientnet(tmp_path / "net.safetensors")
    assert not any(parameter.requires_grad for parameter in first.parameters())
    for name, value in second.state_dict().items():
        torch.testing.assert_close(value, first.state_dict()[name].half().float(), rtol=0, atol=0)


def test_refuses_what_is_not_this_network(package_state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        load_efficientnet(tmp_path / "none.pth")
    with pytest.raises(WeightMismatchError, match=r"_fc\.bias"):
        convert({name: value for name, value in package_state.items() if name != "_fc.bias"})
    with pytest.raises(WeightMismatchError, match="surplus"):
        convert(package_state | {"surplus": torch.zeros(1)})
    save_file({"stem.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightMismatchError, match=r"'classifier\.bias' has shape None"):
        load_efficientnet(tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(WeightsError, match=r"torn\.safetensors is refused"):
        load_efficientnet(tmp_path / "torn.safetensors")
    torch.save({"code": EfficientNet}, tmp_path / "code.pth")  # a pickle that would import a class
    with pytest.raises(WeightsError, match="cannot be read"):
        load_efficientnet(tmp_path / "code.pth")


def test_the_shipped_weights_are_a_whole_network_that_can_be_led_by():
    shipped = load_efficientnet()
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pooled = shipped.features(pixels).pooled
    (gradient,) = torch.autograd.grad(pooled.sum(), pixels)
    assert pooled.shape == (1, 1280)
    assert gradient.abs().sum() > 0
    assert not any(weight.requires_grad for weight in shipped.parameters())


def test_packed_weights_are_read_as_they_were_packed(package_state: dict[str, Tensor], tmp_path: Path):
    packing.write(tmp_path / "packed.safetensors", convert(package_state))
    found, wanted = load_efficientnet(tmp_path / "packed.safetensors"), packing.read(tmp_path / "packed.safetensors")
    for name, value in found.state_dict().items():
        assert torch.equal(value, wanted[name].float()), name
