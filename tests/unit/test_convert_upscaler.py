"""The converter reads back a network that is written here as ncnn writes it."""

import runpy
from pathlib import Path

import pytest
import torch

from diffuscope.models.upscaler import Upscaler

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "convert_upscaler.py"))
TAG = (0x01306B47).to_bytes(4, "little")


def write_ncnn(network: Upscaler, folder: Path) -> tuple[Path, Path]:
    lines, data = ["7767517", "0 0", "Input input 0 1 data"], b""
    for i, layer in enumerate([*network.layers, network.out]):
        weight = layer.weight.detach()
        lines.append(f"Convolution Conv_{i} 1 1 a b 0={weight.shape[0]} 1=3 4=1 5=1 6={weight.numel()}")
        values = weight.half().numpy().tobytes()
        data += TAG + values + bytes(-len(values) % 4) + layer.bias.detach().numpy().tobytes()
        if i < len(network.slopes):
            lines.append(f"PReLU PRelu_{i} 1 1 b c 0={weight.shape[0]}")
            data += network.slopes[i].weight.detach().numpy().tobytes()
    param, weights = folder / "net.param", folder / "net.bin"
    param.write_text("\n".join([*lines, "PixelShuffle Shuffle 1 1 c d 0=4"]) + "\n")
    weights.write_bytes(data)
    return param, weights


def test_every_tensor_comes_back(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Upscaler(width=5, layers=2)  # 135 halves in the first weight: an odd number, so that padding matters
    tensors = TOOL["read"](*write_ncnn(network, tmp_path))
    expected = network.state_dict()
    assert tensors.keys() == expected.keys()
    for name, value in tensors.items():
        wanted = expected[name].half() if value.dtype == torch.float16 else expected[name]
        assert torch.equal(value, wanted), name


def test_bytes_left_over_and_foreign_tags_are_refused(tmp_path: Path) -> None:
    param, weights = write_ncnn(Upscaler(width=4, layers=1), tmp_path)
    data = weights.read_bytes()
    weights.write_bytes(data + b"\x00" * 4)
    with pytest.raises(SystemExit, match="4 bytes"):
        TOOL["read"](param, weights)
    weights.write_bytes(b"\x00" * 4 + data[4:])
    with pytest.raises(SystemExit, match="tag 0x0"):
        TOOL["read"](param, weights)
