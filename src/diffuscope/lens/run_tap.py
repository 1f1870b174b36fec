"""What the lens's taps share: names checked before the first network call, and which call of the U-Net it is."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor, nn

from diffuscope.config import SDXL_SIZES, SIZE_WIDTH, TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.diffusion import samplers
from diffuscope.diffusion.samplers import SAMPLERS
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.pipeline.request import Request
from diffuscope.pipeline.taps import matching
from diffuscope.types import Tap
from diffuscope.weights.store.assign import blank, load_into

Config = TextEncoderConfig | UNetConfig | VAEConfig

CALL = "unet.x"
"""The first value of every U-Net call: a tap that wants it can count the calls."""


class RunTap:
    """A Tap that knows the run: give it as ``tap=`` to a Pipeline, which tells it before any network runs.

    Attributes:
        names: the inner values that it wants.
        call: which call of the U-Net it is, from 0; -1 before the first.
        calls: how many there will be; 1 where no request is known.
        images: how many pictures are made. In a guided run the U-Net's last ``images`` rows are the conditional ones.
    """

    def __init__(self, *patterns: str) -> None:
        """Want the values of these names or globs, such as ``"unet.*.cross.weights"``."""
        self.patterns = patterns
        self.names: frozenset[str] = frozenset()
        self.call = -1
        self.calls = 1
        self.images = 1

    def prepare(self, components: Sequence[nn.Module], request: Request | None) -> None:
        """Find the names and take note of the run; what an earlier run left is forgotten.

        Raises:
            InputError: a pattern that means no value; the message has the nearest names.
        """
        self.names = frozenset(name for pattern in self.patterns for name in matching(pattern, components))
        self.call = -1
        self.calls = 1 if request is None else network_calls(request)
        self.images = 1 if request is None else request.images

    def wants(self, name: str) -> bool:
        """Whether the patterns mean this value; the U-Net's input too, to count its calls."""
        return name in self.names or name == CALL

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """What ``change`` makes of a value that was asked for."""
        if name == CALL:
            self.call += 1
        return self.change(name, value) if name in self.names else value

    def change(self, name: str, value: Tensor) -> Tensor:  # noqa: ARG002
        """The value, or what takes its place; the value itself unless a kind of tap says otherwise."""
        return value

    def conditional(self, value: Tensor) -> Tensor:
        """The rows [images,...] of ``value`` that were told the prompts: a view."""
        return value[-self.images :]


def network_calls(request: Request) -> int:
    """How often a run calls the U-Net."""
    steps = len(request.levels.sigmas) - 1  # of those planned: a run may hand over to another model
    return sum(samplers.network_calls(SAMPLERS[request.sampler], request.planned, **request.sampler_options)[:steps])


def shapes(
    components: Sequence[nn.Module], request: Request | None, parts: Collection[str] | None = None
) -> Mapping[str, torch.Size]:
    """Name -> shape of every inner value that a run of ``request`` would make, found without computing any.

    A twin of each network, or of ``parts`` ("unet", "vae" ...) each of these, runs once on no images at all: it has
    no numbers to compute. Torch's meta device knows shapes too, but loads torch's compiler first, for a second or two.
    Without a request it is one picture of 8x8 latents.
    """
    found: dict[str, torch.Size] = {}
    vae = next((part for part in components if isinstance(part, VAE)), None)
    factor = 8 if vae is None else vae.config.factor
    images = 1 if request is None else request.images
    height, width = (8 * factor, 8 * factor) if request is None else (request.height, request.width)
    texts = 1 if request is None else len({*request.prompt, *(request.negative_prompt if request.guided else ())})
    calls = images * (2 if request is not None and request.guided else 1)
    for part in components:
        if not isinstance(part, TextEncoder | UNet | VAE) or (parts is not None and str(part.component) not in parts):
            continue
        rows, size = (texts if isinstance(part, TextEncoder) else images), (height, width)
        if isinstance(part, UNet):
            rows, size = calls, (height // factor, width // factor)
        for name, row in _row_shapes(part.config, str(part.component), size).items():
            found[name] = torch.Size([rows, *row])
    return found


@lru_cache(maxsize=16)
def _row_shapes(config: Config, component: str, size: tuple[int, int]) -> Mapping[str, tuple[int, ...]]:
    """Name -> shape of one row of every inner value. A config is for ever, so each is asked once."""
    rows: dict[str, tuple[int, ...]] = {}

    class Shapes:
        def wants(self, name: str) -> bool:  # noqa: ARG002
            return True

        def __call__(self, name: str, value: Tensor) -> Tensor:
            rows[name] = tuple(value.shape[1:])
            return value

    twin = _hollow(config, component)
    with torch.no_grad():
        if isinstance(twin, TextEncoder):
            twin(torch.zeros(0, twin.config.positions, dtype=torch.int64), Shapes())
        elif isinstance(twin, UNet):
            _call(twin, 0, size, Shapes())
        else:
            twin(torch.zeros(0, twin.config.image_channels, *size), Shapes())
    return MappingProxyType(rows)


def _hollow(config: Config, component: str) -> TextEncoder | UNet | VAE:
    """A network of this config that takes no memory: each parameter is a single zero, seen at every place."""
    twin: TextEncoder | UNet | VAE
    with blank():
        if isinstance(config, TextEncoderConfig):
            twin = TextEncoder(config, component=component)
        else:
            twin = UNet(config) if isinstance(config, UNetConfig) else VAE(config)
    load_into(twin, {name: torch.zeros(()).expand(value.shape) for name, value in twin.state_dict().items()})
    return twin


def call_twin(unet: UNet, rows: int, size: tuple[int, int], tap: Tap | None = None) -> Tensor:
    """One call, of numbers that do not matter, of a network made anew with ``unet``'s config, in float32.

    On torch's default device, which "meta" or a fake mode make one that knows shapes alone. There is a gradient by
    the input and by no parameter.
    """
    return _call(UNet(unet.config).requires_grad_(False), rows, size, tap)


def _call(unet: UNet, rows: int, size: tuple[int, int], tap: Tap | None) -> Tensor:
    config = unet.config
    width = config.extra_dim or 0  # how it splits into pooled text and sizes does not matter, only that it is filled
    sizes = min(SDXL_SIZES, width // SIZE_WIDTH)
    features = {"pooled": (rows, width - sizes * SIZE_WIDTH), "sizes": (rows, sizes), "guidance": (rows,)}
    extra = {name: torch.zeros(features[name]) for name in unet.reads} or None
    x = torch.zeros(rows, config.in_channels, *size, requires_grad=True)
    context = torch.zeros(rows, 77, config.context_dim)
    return unet(x, torch.zeros(()), context, extra=extra, tap=tap)
