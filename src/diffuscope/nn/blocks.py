"""The blocks that U-Net and autoencoder are built from. Images are [B,C,H,W]; either memory format works."""

import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.nn.attention import Attention
from diffuscope.nn.taps import within
from diffuscope.types import Tap, tapped


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut (He et al. 2016); time, where there is one, shifts between."""

    def __init__(
        self, channels_in: int, channels: int, groups: int, *, time_width: int | None = None, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.taps = ("",) if time_width is None else ("time", "")
        self.norm_in = nn.GroupNorm(groups, channels_in, eps)
        self.conv_in = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.time = None if time_width is None else nn.Linear(time_width, channels)
        self.norm_out = nn.GroupNorm(groups, channels, eps)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = None if channels_in == channels else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor, time: Tensor | None = None, tap: Tap | None = None) -> Tensor:
        """[B,channels,H,W] from ``x`` [B,channels_in,H,W] and ``time`` [B,time_width], already through its SiLU."""
        h = self.conv_in(F.silu(self.norm_in(x)))
        if self.time is not None:
            h = h + tapped(tap, "time", self.time(time))[:, :, None, None]
        h = self.conv_out(F.silu(self.norm_out(h)))
        return tapped(tap, "", h + (x if self.shortcut is None else self.shortcut(x)))


class GatedFeedForward(nn.Module):
    """Two linear layers; half of the first one's output gates the other half (GEGLU, Shazeer 2020, equation 6)."""

    taps = ("hidden", "")

    def __init__(self, width: int, factor: int = 4) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 2 * factor * width)
        self.out = nn.Linear(factor * width, width)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,T,width] from [B,T,width], each token by itself."""
        hidden, gate = self.expand(x).chunk(2, dim=-1)
        return tapped(tap, "", self.out(tapped(tap, "hidden", hidden * F.gelu(gate))))


class TransformerBlock(nn.Module):
    """Tokens look at each other, then at the text, then each is worked on by itself; all three add to the stream."""

    taps = ("",)

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.self = Attention(width, heads)
        self.norm_cross = nn.LayerNorm(width)
        self.cross = Attention(width, heads, context_width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = GatedFeedForward(width)

    def forward(self, x: Tensor, context: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,T,width] from ``x`` [B,T,width] and ``context`` [B,S,context_width]."""
        x = x + self.self(self.norm_self(x), tap=within(tap, "self"))
        x = x + self.cross(self.norm_cross(x), context, tap=within(tap, "cross"))
        return tapped(tap, "", x + self.feed(self.norm_feed(x), tap=within(tap, "feed")))


class Shrink(nn.Module):
    """Half the height and width, by a strided 3x3 convolution.

    ``corner`` pads below and to the right only, as the autoencoder was trained; torch's own padding is symmetric.
    """

    taps = ("",)

    def __init__(self, channels: int, *, corner: bool = False) -> None:
        super().__init__()
        self.corner = corner
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if corner else 1)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,C,H/2,W/2]; odd sizes round up, with ``corner`` down."""
        return tapped(tap, "", self.conv(F.pad(x, (0, 1, 0, 1)) if self.corner else x))


class Grow(nn.Module):
    """Twice the height and width: every value four times, then a 3x3 convolution."""

    taps = ("",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None, tap: Tap | None = None) -> Tensor:
        """[B,C,2H,2W], or of ``size`` where what is shrunk had odd sides."""
        height, width = (2 * x.shape[2], 2 * x.shape[3]) if size is None else size
        return tapped(tap, "", self.conv(F.interpolate(x, size=(height, width), mode="nearest")))


def tokens(x: Tensor) -> Tensor:
    """[B,H*W,C] pixels as tokens, row by row, from [B,C,H,W]. A view."""
    return x.flatten(2).transpose(1, 2)


def image(x: Tensor, like: Tensor) -> Tensor:
    """[B,C,H,W] the inverse of ``tokens``, with the height and width of ``like``. A view."""
    return x.transpose(1, 2).unflatten(2, like.shape[2:])
