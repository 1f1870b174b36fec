"""The denoising network of latent diffusion: down through the resolutions, through the middle, and up again.

Names: ``down.i`` and ``up.i`` are stages in the order of running, so ``up.0`` is the coarsest. In a stage ``res.j`` is
followed by ``enter.j``, ``depth`` transformer blocks ``block.(j * depth + k)`` and ``leave.j``.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.config import SIZE_WIDTH, UNetConfig
from diffuscope.errors import InputError
from diffuscope.nn.blocks import Grow, ResidualBlock, Shrink, TransformerBlock, image, tokens
from diffuscope.nn.embeddings import Embedding, scale_waves, sinusoids
from diffuscope.nn.taps import within
from diffuscope.types import Tap, tapped


class Enter(nn.Module):
    """Pixels to tokens: a group norm and a linear map."""

    taps = ("",)

    def __init__(self, width: int, groups: int, *, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.project = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,H*W,C] from [B,C,H,W]."""
        x = self.norm(x)
        return tapped(tap, "", self.project(tokens(x)) if self.linear else tokens(self.project(x)))


class Leave(nn.Module):
    """Tokens to pixels: a linear map, whose answer the stage adds to what entered."""

    taps = ("",)

    def __init__(self, width: int, *, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.project = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, like: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,C,H,W] from ``x`` [B,H*W,C], with the size of ``like``."""
        return tapped(tap, "", image(self.project(x), like) if self.linear else self.project(image(x, like)))


class Stage(nn.Module):
    """Residual blocks of one resolution, the first ``attended`` of them each followed by ``depth`` transformers."""

    def __init__(
        self, config: UNetConfig, inputs: Sequence[int], width: int, heads: int, depth: int, attended: int
    ) -> None:
        super().__init__()
        groups, linear = config.norm_groups, config.linear_projection
        self.depth = depth
        self.attended = attended if depth else 0
        self.res = nn.ModuleList(ResidualBlock(i, width, groups, time_width=config.time_dim) for i in inputs)
        self.enter = nn.ModuleList(Enter(width, groups, linear=linear) for _ in range(self.attended))
        self.block = nn.ModuleList(
            TransformerBlock(width, heads, config.context_dim) for _ in range(self.attended * depth)
        )
        self.leave = nn.ModuleList(Leave(width, linear=linear) for _ in range(self.attended))

    def forward(self, j: int, x: Tensor, time: Tensor, context: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,width,H,W] from residual block ``j`` and the transformers behind it."""
        x = self.res[j](x, time, within(tap, "res", j))
        if j >= self.attended:
            return x
        h = self.enter[j](x, within(tap, "enter", j))
        for k in range(j * self.depth, (j + 1) * self.depth):
            h = self.block[k](h, context, within(tap, "block", k))
        return x + self.leave[j](h, x, within(tap, "leave", j))


class UNet(nn.Module):
    """The U-Net of latent diffusion (Rombach et al. 2022, section 3.2; Ronneberger et al. 2015)."""

    component = "unet"

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, blocks = config.channels, config.blocks
        self.stem = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time = Embedding(widths[0], config.time_dim)
        self.guidance = None if config.guidance_dim is None else nn.Linear(config.guidance_dim, widths[0], bias=False)
        self.extra = None if config.extra_dim is None else Embedding(config.extra_dim, config.time_dim)

        self.down = nn.ModuleList()
        skips = [widths[0]]  # channels of what the way up will read, the last first
        for i, (width, heads, depth) in enumerate(zip(widths, config.heads, config.depth, strict=True)):
            skips += [widths[i - 1]] if i else []
            inputs = [skips[-1], *[width] * (blocks - 1)]
            self.down.append(Stage(config, inputs, width, heads, depth, blocks))
            skips += [width] * blocks
        self.shrink = nn.ModuleList(Shrink(width) for width in widths[:-1])
        self.mid = Stage(config, [widths[-1]] * 2, widths[-1], config.heads[-1], config.mid_depth, 1)
        self.up = nn.ModuleList()
        below = widths[-1]
        for width, heads, depth in zip(widths[::-1], config.heads[::-1], config.depth[::-1], strict=True):
            inputs = [x + skips.pop() for x in (below, *[width] * blocks)]
            self.up.append(Stage(config, inputs, width, heads, depth, blocks + 1))
            below = width
        self.grow = nn.ModuleList(Grow(width) for width in widths[:0:-1])
        self.norm = nn.GroupNorm(config.norm_groups, widths[0])
        self.out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        up_skips = (f"up.{i}.skip.{j}" for i in range(len(widths)) for j in range(blocks + 1))
        self.taps = ("x", "context", "stem", *up_skips, "out")

    @property
    def reads(self) -> frozenset[str]:
        """The keys that ``extra`` must have."""
        pooled = () if self.extra is None else ("pooled", "sizes")
        return frozenset(pooled if self.guidance is None else (*pooled, "guidance"))

    def forward(
        self,
        x: Tensor,
        time: Tensor | float,
        context: Tensor,
        *,
        extra: Mapping[str, Tensor] | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        """[B,out_channels,H,W] prediction; of what (noise, v, clean image) the training decides.

        Args:
            x: [B,in_channels,H,W] latents, scaled to the variance that the network was trained with.
            time: the network's clock, in training steps, fractions allowed; one number, or [B].
            context: [B,T,D] text states.
            extra: what this network reads beside the text. With ``extra_dim``, ``pooled`` [B,P] text and ``sizes``
                [B,6]: original height and width, top and left of the crop, target height and width, in pixels
                (Podell et al. 2023, section 2.2); SDXL's refiner reads [B,5], a score of beauty in the place of the
                target. With ``guidance_dim``, ``guidance`` [B]: the guidance scale that is distilled into it
                (Meng et al. 2023, section 3.1).
            tap: looks at inner values, or replaces them.

        Raises:
            InputError: ``extra`` lacks what the network reads, or has what it does not.
        """
        tap = within(tap, self.component)
        x = tapped(tap, "x", x)
        context = tapped(tap, "context", context)
        clock = F.silu(self._clock(x, time, extra, tap))
        x = tapped(tap, "stem", self.stem(x))
        x, skips = self._descend(x, clock, context, tap)
        for j in range(2):
            x = self.mid(j, x, clock, context, within(tap, "mid"))
        x = self._ascend(x, skips, clock, context, tap)
        return tapped(tap, "out", self.out(F.silu(self.norm(x))))

    def _clock(self, x: Tensor, time: Tensor | float, extra: Mapping[str, Tensor] | None, tap: Tap | None) -> Tensor:
        extra = {} if extra is None else extra
        if extra.keys() != self.reads:
            wanted, given = (", ".join(sorted(names)) or "nothing" for names in (self.reads, extra.keys()))
            raise InputError(f"extra holds {given}; beside the text this U-Net reads {wanted}")
        times = torch.as_tensor(time, device=x.device).expand(len(x))
        waves = sinusoids(times, self.config.channels[0]).to(x.dtype)
        if self.guidance is not None:
            waves = waves + self.guidance(scale_waves(extra["guidance"], self.guidance.in_features).to(x.dtype))
        clock = self.time(waves, within(tap, "time"))
        if self.extra is None:
            return clock
        sizes = sinusoids(extra["sizes"].flatten(), SIZE_WIDTH).unflatten(0, extra["sizes"].shape).flatten(1)
        features = torch.cat([extra["pooled"], sizes.to(extra["pooled"].dtype)], dim=-1)
        return clock + self.extra(features.to(x.dtype), within(tap, "extra"))

    def _descend(self, x: Tensor, clock: Tensor, context: Tensor, tap: Tap | None) -> tuple[Tensor, list[Tensor]]:
        skips = [x]
        for i, stage in enumerate(self.down):
            if i:
                x = self.shrink[i - 1](x, within(tap, "shrink", i - 1))
                skips.append(x)
            for j in range(self.config.blocks):
                x = stage(j, x, clock, context, within(tap, "down", i))
                skips.append(x)
        return x, skips

    def _ascend(self, x: Tensor, skips: list[Tensor], clock: Tensor, context: Tensor, tap: Tap | None) -> Tensor:
        for i, stage in enumerate(self.up):
            if i:
                size = (skips[-1].shape[2], skips[-1].shape[3])
                x = self.grow[i - 1](x, size, within(tap, "grow", i - 1))
            for j in range(self.config.blocks + 1):
                skip = tapped(tap, f"up.{i}.skip.{j}", skips.pop())
                x = stage(j, torch.cat([x, skip], dim=1), clock, context, within(tap, "up", i))
        return x
