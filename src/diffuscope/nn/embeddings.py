"""How a number enters a network: waves of many lengths, then two linear layers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.types import Tap, tapped


def sinusoids(numbers: Tensor, width: int) -> Tensor:
    """[B,width] float32 cosines, then sines, of ``numbers`` [B] at ``width / 2`` frequencies from 1 down to 1/10000.

    Ho et al. 2020, appendix B, after Vaswani et al. 2017, section 3.5; the cosines first, as latent diffusion has it.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=numbers.device) / half)
    angles = numbers.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Embedding(nn.Module):
    """Two linear layers around a SiLU: raw features to a vector that every residual block reads."""

    taps = ("",)

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, width)
        self.second = nn.Linear(width, width)

    def forward(self, features: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,width] from [B,features]."""
        return tapped(tap, "", self.second(F.silu(self.first(features))))
