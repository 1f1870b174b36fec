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


def scale_waves(scales: Tensor, width: int) -> Tensor:
    """[B,width] float32 sines, then cosines, of 1000 times the guidance ``scales`` [B] less 1; an odd width ends in 0.

    Kingma et al. 2021's embedding, with which latent consistency models tell the scale (Luo et al. 2023, section 4.2):
    its frequencies reach 1/10000, where those of ``sinusoids`` stop one short of it.
    """
    half = width // 2
    places = torch.arange(half, dtype=torch.float32, device=scales.device)
    angles = (scales.float()[:, None] - 1) * 1000 * torch.exp(-math.log(10000) / (half - 1) * places)
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, width % 2))


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
