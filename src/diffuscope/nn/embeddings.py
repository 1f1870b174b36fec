"""How a number enters a network: a sinusoidal embedding, then two linear layers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.types import Tap, tapped


def sinusoidal_embedding(numbers: Tensor, width: int) -> Tensor:
    """[B,width] float32 cosines, then sines, of ``numbers`` [B] at ``width / 2`` frequencies from 1 down to 1/10000.

    Ho et al. 2020, appendix B, after Vaswani et al. 2017, section 3.5; cosines first, as in latent diffusion.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=numbers.device) / half)
    angles = numbers.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def guidance_scale_embedding(scales: Tensor, width: int) -> Tensor:
    """[B,width] float32 sines, then cosines, of 1000 times (``scales`` [B] - 1); an odd width ends in a 0.

    Kingma et al. 2021, as latent consistency models use it (Luo et al. 2023, section 4.2): its last frequency is
    1/10000, which ``sinusoidal_embedding`` just misses.
    """
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=scales.device)
    angles = (scales.float()[:, None] - 1) * 1000 * torch.exp(-math.log(10000) / (half - 1) * exponents)
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, width % 2))


class TimestepEmbedding(nn.Module):
    """Two linear layers with a SiLU between: sinusoidal features to the vector that every residual block reads."""

    taps = ("",)

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(features, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,width] from [B,features]."""
        return tapped(tap, "", self.linear_2(F.silu(self.linear_1(features))))
