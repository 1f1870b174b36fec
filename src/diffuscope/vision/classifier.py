"""A small residual network that classifies images by their concept, independent of the feature network."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.nn.blocks import Downsample, ResidualBlock

GROUPS = 8


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Architecture of the classifier. The default has 2.3 million parameters for 250 classes."""

    classes: int = 250
    channels: tuple[int, ...] = (32, 64, 128, 192)  # one per resolution, outside in; the first is at half the pixels
    blocks: int = 2  # residual blocks per resolution

    def __post_init__(self) -> None:
        if self.classes < 2 or self.blocks < 1 or not self.channels:
            raise ValueError(f"{self} is no classifier: two classes, one block and one resolution are the least")
        for channels in self.channels:
            if channels % GROUPS:
                raise ValueError(f"{channels} channels do not split into {GROUPS} norm groups")


class Classifier(nn.Module):
    """A residual network (He et al. 2016) with group norms, so that images of a batch do not affect each other."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        self.conv_in = nn.Conv2d(3, widths[0], 5, stride=2, padding=2)
        self.down = nn.ModuleList()
        self.downsample = nn.ModuleList(Downsample(width) for width in widths[:-1])
        for before, width in zip((widths[0], *widths[:-1]), widths, strict=True):
            rest = [ResidualBlock(width, width, GROUPS) for _ in range(config.blocks - 1)]
            self.down.append(nn.Sequential(ResidualBlock(before, width, GROUPS), *rest))
        self.norm_out = nn.GroupNorm(GROUPS, widths[-1])
        self.fc = nn.Linear(widths[-1], config.classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B,classes] of pixels [B,3,H,W] in [-1,1]; H and W of at least 16, ideally those of training."""
        x = self.conv_in(pixels)
        for i, stage in enumerate(self.down):
            x = stage(x if i == 0 else self.downsample[i - 1](x))
        return self.fc(F.silu(self.norm_out(x)).mean((2, 3)))
