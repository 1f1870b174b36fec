"""EfficientNet-Lite0: an ImageNet classifier whose feature maps measure perceptual distance.

Tan & Le 2019 (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6. Batch norms are folded into the
convolutions when the weights are converted, so there are no running statistics, and ``train()`` and ``eval()`` are
the same.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# (kernel, stride of the first block, expansion, output channels, blocks): Table 1 of the paper at width 1.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class EfficientNetFeatures:
    """The feature maps of an image, from fine to coarse."""

    stages: list[Tensor]
    """Seven maps [B,C,h,w] with 16, 24, 40, 80, 112, 192, 320 channels, at 1/2, 1/4, 1/8, 1/16, 1/16, 1/32, 1/32."""
    pooled: Tensor
    """[B,1280] mean over all pixels of the last layer; never negative."""


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "SAME" padding: ceil(size / stride) outputs, an odd zero goes to the far end."""

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,D,ceil(H / stride),ceil(W / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(x, self.weight, self.bias, padding=kernel // 2, groups=self.groups)
        height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(x, self.weight, self.bias, stride=stride, groups=self.groups)


class Block(nn.Module):
    """Inverted residual (Sandler et al. 2018): 1x1 expansion, depthwise convolution, 1x1 projection."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels * expansion
        self.expand = SameConv2d(channels, width, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(width, width, kernel, stride, groups=width)
        self.project = SameConv2d(width, out_channels, 1)
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,D,H / stride,W / stride]."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNet(nn.Module):
    """EfficientNet-Lite0, 4.63 million parameters, trained on ImageNet at 224 x 224; other sizes are accepted.

    Differentiable in its input; freeze the weights with ``requires_grad_(False)`` if only that is needed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.stem = SameConv2d(3, 32, 3, 2)
        self.stages = nn.ModuleList()
        channels = 32
        for kernel, stride, expansion, width, blocks in STAGES:
            first = Block(channels, width, kernel, stride, expansion)
            rest = [Block(width, width, kernel, 1, expansion) for _ in range(blocks - 1)]
            self.stages.append(nn.Sequential(first, *rest))
            channels = width
        self.head = SameConv2d(channels, 1280, 1)
        self.classifier = nn.Linear(1280, classes)

    def features(self, pixels: Tensor) -> EfficientNetFeatures:
        """Every stage's last feature map, and the pooled features, of pixels [B,3,H,W] in [0,1]. Not modified."""
        x = F.relu6(self.stem((pixels - self.mean) / self.std))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return EfficientNetFeatures(maps, F.relu6(self.head(x)).mean((2, 3)))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B,classes] of pixels [B,3,H,W] in [0,1]."""
        return self.classifier(self.features(pixels).pooled)
