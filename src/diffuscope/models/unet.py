"""The denoising network of latent diffusion: down through the resolutions, through the middle, and up again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.config import UNetConfig
from diffuscope.errors import InputError, Unquoted
from diffuscope.nn.blocks import Downsample, ResidualBlock, Transformer, Upsample
from diffuscope.nn.embeddings import TimestepEmbedding, guidance_scale_embedding, sinusoidal_embedding
from diffuscope.nn.taps import within
from diffuscope.types import Tap, tapped


class Stage(nn.Module):
    """One resolution: residual blocks, the first of them each followed by a transformer, if it has any."""

    def __init__(
        self,
        config: UNetConfig,
        inputs: Sequence[int],
        width: int,
        heads: int,
        depths: Sequence[int],
        *,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        groups, linear, context = config.norm_groups, config.linear_projection, config.context_dim
        self.resnet = nn.ModuleList(ResidualBlock(i, width, groups, time_width=config.time_dim) for i in inputs)
        self.attn = nn.ModuleList(
            Transformer(width, heads, context, depth, groups, linear=linear) for depth in depths if depth
        )
        self.downsample = Downsample(width) if downsample else None
        self.upsample = Upsample(width) if upsample else None

    def forward(self, j: int, x: Tensor, time: Tensor, context: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,width,H,W] from residual block ``j`` and the transformer after it."""
        x = self.resnet[j](x, time, within(tap, "resnet", j))
        return self.attn[j](x, context, within(tap, "attn", j)) if j < len(self.attn) else x


class UNet(nn.Module):
    """The U-Net of latent diffusion (Rombach et al. 2022, section 3.2; Ronneberger et al. 2015).

    ``down.i`` and ``up.i`` are numbered in running order, so ``up.0`` is the coarsest.
    """

    component = "unet"

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, blocks, last = config.channels, config.blocks, len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embed = TimestepEmbedding(widths[0], config.time_dim)
        guidance_dim, step_dim, extra_dim = config.guidance_dim, config.step_dim, config.extra_dim
        self.guidance_embed = None if guidance_dim is None else nn.Linear(guidance_dim, widths[0], bias=False)
        self.step_embed = None if step_dim is None else nn.Linear(step_dim, widths[0], bias=False)
        self.add_embed = None if extra_dim is None else TimestepEmbedding(extra_dim, config.time_dim)

        self.down = nn.ModuleList()
        skips = [widths[0]]  # channels of the skip connections, in the order in which they are made
        for i, (width, heads, depths) in enumerate(zip(widths, config.heads, config.down_depths, strict=True)):
            inputs = [skips[-1], *[width] * (blocks - 1)]
            self.down.append(Stage(config, inputs, width, heads, depths, downsample=i < last))
            skips += [width] * (blocks + (i < last))
        mid_depths = [config.mid_depth] if config.mid_resnets == 2 else []
        self.mid = Stage(config, [widths[-1]] * config.mid_resnets, widths[-1], config.heads[-1], mid_depths)
        self.up = nn.ModuleList()
        below = widths[-1]
        levels = zip(widths[::-1], config.heads[::-1], config.up_depths, strict=True)
        for i, (width, heads, depths) in enumerate(levels):
            inputs = [x + skips.pop() for x in (below, *[width] * blocks)]
            self.up.append(Stage(config, inputs, width, heads, depths, upsample=i < last))
            below = width
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        up_skips = (f"up.{i}.skip.{j}" for i in range(len(widths)) for j in range(blocks + 1))
        self.taps = ("x", "context", "conv_in", *up_skips, "conv_out")

    @property
    def reads(self) -> frozenset[str]:
        """The keys that ``extra`` must have."""
        embeddings = {
            "pooled": self.add_embed,
            "sizes": self.add_embed,
            "guidance": self.guidance_embed,
            "step_size": self.step_embed,
        }
        return frozenset(name for name, embedding in embeddings.items() if embedding is not None)

    def forward(
        self,
        x: Tensor,
        time: Tensor | float,
        context: Tensor,
        *,
        extra: Mapping[str, Tensor] | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        """[B,out_channels,H,W] prediction: noise, v or the clean latents, as the network was trained.

        Args:
            x: [B,in_channels,H,W] latents, scaled to the variance that the network was trained with.
            time: training time step, fractions allowed; one number, or [B].
            context: [B,T,D] text states.
            extra: further conditioning. With ``extra_dim``, ``pooled`` [B,P] text and ``sizes`` [B,6]: original
                height and width, top and left of the crop, target height and width, in pixels (Podell et al. 2023,
                section 2.2); SDXL's refiner has [B,5], with an aesthetic score instead of the target size. With
                ``guidance_dim``, ``guidance`` [B]: the guidance scale of a distilled network (Meng et al. 2023,
                section 3.1). With ``step_dim``, ``step_size`` [B]: the training time steps that one sampling step
                spans (Frans et al. 2024, section 3), such as 250 of 1000 for four steps.
            tap: reads or replaces activations.

        Raises:
            InputError: ``extra`` has other keys than ``reads``.
        """
        tap = within(tap, self.component)
        x = tapped(tap, "x", x)
        context = tapped(tap, "context", context)
        embedding = F.silu(self._time_embedding(x, time, extra, tap))
        x = tapped(tap, "conv_in", self.conv_in(x))
        x, skips = self._descend(x, embedding, context, tap)
        for j in range(self.config.mid_resnets):
            x = self.mid(j, x, embedding, context, within(tap, "mid"))
        x = self._ascend(x, skips, embedding, context, tap)
        return tapped(tap, "conv_out", self.conv_out(F.silu(self.norm_out(x))))

    def _time_embedding(
        self, x: Tensor, time: Tensor | float, extra: Mapping[str, Tensor] | None, tap: Tap | None
    ) -> Tensor:
        """[B,time_dim]: the time step, and whatever else is added to its embedding."""
        parts, added = self.conditioning(extra, x.dtype, tap)
        times = torch.as_tensor(time, device=x.device).expand(len(x))
        features = sinusoidal_embedding(times, self.config.channels[0]).to(x.dtype)
        for part in parts:
            features = features + part
        embedding = self.time_embed(features, within(tap, "time_embed"))
        return embedding if added is None else embedding + added

    def conditioning(
        self, extra: Mapping[str, Tensor] | None, dtype: torch.dtype, tap: Tap | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        """What ``extra`` adds to the timestep's features, [B,channels[0]] each, and to its embedding, [B,time_dim].

        Raises:
            InputError: ``extra`` has other keys than ``reads``.
        """
        extra = {} if extra is None else extra
        if extra.keys() != self.reads:
            got, wanted = (", ".join(sorted(keys)) or "nothing" for keys in (extra.keys(), self.reads))
            raise InputError("extra", Unquoted(got), wanted, "The U-Net's config decides what it reads")
        parts = []
        if self.guidance_embed is not None:
            scales = guidance_scale_embedding(extra["guidance"], self.guidance_embed.in_features)
            parts.append(self.guidance_embed(scales.to(dtype)))
        if self.step_embed is not None:
            sizes = sinusoidal_embedding(extra["step_size"], self.step_embed.in_features)
            parts.append(self.step_embed(sizes.to(dtype)))
        if self.add_embed is None:
            return parts, None
        numbers = extra["sizes"]
        sizes = sinusoidal_embedding(numbers.flatten(), self.config.size_dim).unflatten(0, numbers.shape).flatten(1)
        features = torch.cat([extra["pooled"], sizes.to(extra["pooled"].dtype)], dim=-1)
        return parts, self.add_embed(features.to(dtype), within(tap, "add_embed"))

    @torch.no_grad()
    def fixed(self, *, guidance: float, step_size: float) -> "UNet":
        """The network at one guidance scale and one step size, which it then no longer reads.

        Both only add a vector before the first linear layer of the time embedding, so its bias takes them up: the
        result is a U-Net that every program runs.
        """
        vector = torch.zeros_like(self.time_embed.linear_1.weight[0])
        numbers = torch.tensor([guidance, step_size], device=vector.device)
        if self.guidance_embed is not None:
            features = guidance_scale_embedding(numbers[:1], self.guidance_embed.in_features)
            vector += self.guidance_embed(features.to(vector.dtype))[0]
        if self.step_embed is not None:
            features = sinusoidal_embedding(numbers[1:], self.step_embed.in_features)
            vector += self.step_embed(features.to(vector.dtype))[0]
        with torch.device(vector.device):
            plain = UNet(replace(self.config, guidance_dim=None, step_dim=None)).to(vector.dtype)
        plain.load_state_dict({name: value for name, value in self.state_dict().items() if name in plain.state_dict()})
        plain.time_embed.linear_1.bias.add_(self.time_embed.linear_1.weight @ vector)
        return plain.eval().requires_grad_(False)

    def _descend(self, x: Tensor, embedding: Tensor, context: Tensor, tap: Tap | None) -> tuple[Tensor, list[Tensor]]:
        skips = [x]
        for i, stage in enumerate(self.down):
            assert isinstance(stage, Stage)
            for j in range(self.config.blocks):
                x = stage(j, x, embedding, context, within(tap, "down", i))
                skips.append(x)
            if stage.downsample is not None:
                x = stage.downsample(x, within(tap, "down", i, "downsample"))
                skips.append(x)
        return x, skips

    def _ascend(self, x: Tensor, skips: list[Tensor], embedding: Tensor, context: Tensor, tap: Tap | None) -> Tensor:
        for i, stage in enumerate(self.up):
            assert isinstance(stage, Stage)
            for j in range(self.config.blocks + 1):
                skip = tapped(tap, f"up.{i}.skip.{j}", skips.pop())
                x = stage(j, torch.cat([x, skip], dim=1), embedding, context, within(tap, "up", i))
            if stage.upsample is not None:
                size = (skips[-1].shape[2], skips[-1].shape[3])
                x = stage.upsample(x, size, within(tap, "up", i, "upsample"))
        return x
