"""The blocks of the U-Net and the autoencoder. Feature maps are [B,C,H,W], in either memory format."""

import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.nn.attention import Attention
from diffuscope.nn.taps import within
from diffuscope.types import Tap, tapped


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions and a shortcut (He et al. 2016); the time embedding is added between them."""

    def __init__(
        self, channels_in: int, channels: int, groups: int, *, time_width: int | None = None, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.taps = ("",) if time_width is None else ("time_emb_proj", "")
        self.norm1 = nn.GroupNorm(groups, channels_in, eps)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.time_emb_proj = None if time_width is None else nn.Linear(time_width, channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_shortcut = None if channels_in == channels else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor, time_embedding: Tensor | None = None, tap: Tap | None = None) -> Tensor:
        """[B,channels,H,W] from ``x`` [B,channels_in,H,W] and ``time_embedding`` [B,time_width], SiLU applied."""
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            h = h + tapped(tap, "time_emb_proj", self.time_emb_proj(time_embedding))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return tapped(tap, "", h + (x if self.conv_shortcut is None else self.conv_shortcut(x)))


class GatedFeedForward(nn.Module):
    """Two linear layers; half of the first one's output gates the other half (GEGLU, Shazeer 2020, equation 6)."""

    taps = ("hidden", "")

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 8 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,T,width] from [B,T,width], token by token."""
        hidden, gate = self.fc1(x).chunk(2, dim=-1)
        return tapped(tap, "", self.fc2(tapped(tap, "hidden", hidden * F.gelu(gate))))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text and a feed-forward network, each normalised first and added."""

    taps = ("",)

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attn = Attention(width, heads, context_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = GatedFeedForward(width)

    def forward(self, x: Tensor, context: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,T,width] from ``x`` [B,T,width] and ``context`` [B,S,context_width]."""
        x = x + self.self_attn(self.norm1(x), tap=within(tap, "self_attn"))
        x = x + self.cross_attn(self.norm2(x), context, tap=within(tap, "cross_attn"))
        return tapped(tap, "", x + self.ff(self.norm3(x), tap=within(tap, "ff")))


class Transformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, between two projections; the input is added to the result.

    Rombach et al. 2022, section 3.3. ``linear`` projections are linear layers (SD 2, SDXL), others 1x1 convolutions.
    """

    taps = ("proj_in", "proj_out")

    def __init__(self, width: int, heads: int, context_width: int, depth: int, groups: int, *, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)
        self.block = nn.ModuleList(TransformerBlock(width, heads, context_width) for _ in range(depth))
        self.proj_out = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,width,H,W] from ``x`` [B,width,H,W] and ``context`` [B,S,context_width]."""
        h = self.norm(x)
        h = tapped(tap, "proj_in", self.proj_in(tokens(h)) if self.linear else tokens(self.proj_in(h)))
        for k, block in enumerate(self.block):
            h = block(h, context, within(tap, "block", k))
        return x + tapped(tap, "proj_out", image(self.proj_out(h), x) if self.linear else self.proj_out(image(h, x)))


class Downsample(nn.Module):
    """A 3x3 convolution with stride 2.

    ``corner`` pads only below and on the right, as the autoencoder was trained; the U-Net pads all sides.
    """

    taps = ("",)

    def __init__(self, channels: int, *, corner: bool = False) -> None:
        super().__init__()
        self.corner = corner
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if corner else 1)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,C,H/2,W/2]; odd sizes are rounded up, with ``corner`` down."""
        return tapped(tap, "", self.conv(F.pad(x, (0, 1, 0, 1)) if self.corner else x))


class Upsample(nn.Module):
    """2x nearest-neighbour upsampling, then a 3x3 convolution."""

    taps = ("",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None, tap: Tap | None = None) -> Tensor:
        """[B,C,2H,2W], or [B,C,*size] to match a skip connection of odd height or width."""
        height, width = (2 * x.shape[2], 2 * x.shape[3]) if size is None else size
        return tapped(tap, "", self.conv(F.interpolate(x, size=(height, width), mode="nearest")))


def tokens(x: Tensor) -> Tensor:
    """[B,H*W,C] pixels as tokens, row by row, from [B,C,H,W]. A view."""
    return x.flatten(2).transpose(1, 2)


def image(x: Tensor, like: Tensor) -> Tensor:
    """[B,C,H,W] the inverse of ``tokens``, with the height and width of ``like``. A view."""
    return x.transpose(1, 2).unflatten(2, like.shape[2:])
