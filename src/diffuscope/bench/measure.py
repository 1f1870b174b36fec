"""The parts of a measurement: a step, the decoder, whole calls; each beside its plain network and its peers."""

import copy
import gc
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffuscope.bench.peers import Inputs, Peer, decoder_peers, unet_peers
from diffuscope.bench.timing import Call, Report, Timer, operations, peak
from diffuscope.config import ModelConfig
from diffuscope.loading import Components
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.perf.engine import Engine
from diffuscope.pipeline import Pipeline
from diffuscope.request import Request

TIME = 501.0
"""Timestep of a measured step."""


def random_model(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, *, fast: bool | None = None
) -> Pipeline:
    """A pipeline with random weights in the shapes of a family."""
    parts: dict[str, Any] = {"text_encoder": made(TextEncoder, config.text_encoder, device, dtype)}
    parts["tokenizer"] = Tokenizer(pad=config.text_encoder.pad)
    if config.text_encoder_2 is not None:
        parts["text_encoder_2"] = made(
            lambda each: TextEncoder(each, component="text_encoder_2"), config.text_encoder_2, device, dtype
        )
        parts["tokenizer_2"] = Tokenizer(pad=config.text_encoder_2.pad)
    parts |= {"unet": made(UNet, config.unet, device, dtype), "vae": made(VAE, config.vae, device, dtype)}
    return Pipeline(Components(config=config, **parts), fast=fast)


def made(kind: Callable[[Any], nn.Module], config: object, device: torch.device, dtype: torch.dtype) -> Any:
    """A network with random weights, ready to run; the state of torch's random numbers stays."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), device:
        torch.manual_seed(0)
        return kind(config).to(dtype).eval().requires_grad_(False)


@contextmanager
def full_precision() -> Iterator[None]:
    """Within, convolutions of float32 on a GPU are of float32, not of TF32, which errs as much as float16 does."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


@torch.no_grad()
def step(
    unet: UNet,
    config: ModelConfig,
    size: tuple[int, int],
    timer: Timer,
    *,
    images: int = 1,
    peers: bool = True,
    compiled: bool = False,
) -> Report:
    """One U-Net call with guidance for ``images`` of ``size``, height and width in pixels."""
    report: Report = {}
    device, dtype, rows = timer.device, unet.conv_in.weight.dtype, 2 * images
    generator = torch.Generator().manual_seed(0)
    latents = [side // config.vae.factor for side in size]
    x = torch.randn(images, config.unet.in_channels, *latents, generator=generator).to(device)
    x, when = torch.cat([x, x]).to(dtype), torch.tensor(TIME)
    context = torch.randn(rows, 77, config.unet.context_dim, generator=generator).to(device, dtype)
    extra = extra_inputs(unet, config, size, rows, generator, device, dtype)

    there = when.to(device)

    def plain(network: UNet = unet, kind: torch.dtype = dtype) -> Tensor:
        given = extra and {key: value if key == "sizes" else value.to(kind) for key, value in extra.items()}
        return network(x.to(kind), there, context.to(kind), extra=given)

    report["tflop"] = operations(plain)
    report["plain"] = timer.timed(plain)
    expected = None
    if images == 1:
        with full_precision():
            exact = plain() if dtype == torch.float32 else plain(copy.deepcopy(unet).float(), torch.float32)
        expected = exact.double()
        report["plain"]["error"] = relative(plain(), expected)
    fast = Engine(True).predictor(unet, context, extra, pairs=True)
    report["fast_first_s"] = round(timer.once(lambda: fast(x, when)), 3)
    report["fast"] = timer.timed(lambda: fast(x, when))
    if expected is not None:
        report["fast"]["error"] = relative(fast(x, when), expected)
    if peers and unet.reads <= {"pooled", "sizes"}:
        added = {"text_embeds": extra["pooled"], "time_ids": extra["sizes"].to(dtype)} if extra else None
        inputs, weights = Inputs(x, there, context, added), unet.state_dict()
        _peers(report, unet_peers(config.unet, weights, inputs, compiled=compiled), timer, expected)
    return report


def extra_inputs(
    unet: UNet,
    config: ModelConfig,
    size: tuple[int, int],
    rows: int,
    generator: torch.Generator,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor] | None:
    """What else the network reads."""
    found: dict[str, Tensor] = {}
    if "pooled" in unet.reads:
        found["pooled"] = torch.randn(rows, config.pooled_dim, generator=generator).to(device, dtype)
        found["sizes"] = torch.full((rows, config.sizes), float(size[0]), device=device)
    found |= {name: torch.full((rows,), 4.0, device=device) for name in ("guidance", "step_size") if name in unet.reads}
    return found or None


@torch.no_grad()
def decode(vae: VAE, size: tuple[int, int], timer: Timer, *, peers: bool = True, compiled: bool = False) -> Report:
    """The decoder, to one image of ``size``."""
    report: Report = {}
    dtype, engine = vae.quant_conv.weight.dtype, Engine(True)
    shape = (1, vae.config.latent_channels, *(side // vae.config.factor for side in size))
    z = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 5).to(timer.device, dtype)
    report["tflop"] = operations(lambda: vae.decode(z))
    report["plain"] = timer.timed(lambda: vae.decode(z))
    with full_precision():
        expected = (vae if dtype == torch.float32 else copy.deepcopy(vae).float()).decode(z.float()).double()
    report["plain"]["error"] = relative(vae.decode(z), expected)
    report["fast_first_s"] = round(timer.once(lambda: engine.decode(vae, z)), 3)
    report["fast"] = timer.timed(lambda: engine.decode(vae, z))
    report["fast"]["error"] = relative(engine.decode(vae, z), expected)
    if peers:
        _peers(report, decoder_peers(vae.config, vae.state_dict(), z, compiled=compiled), timer, expected)
    return report


def _peers(report: Report, peers: Iterable[Peer], timer: Timer, expected: Tensor | None) -> None:
    """Time the peers; what is ``expected`` in float32 gives the errors of those that return tensors."""
    for name, make in peers:
        found: list[Call] = []

        def first(make: Callable[[], Call] = make, found: list[Call] = found) -> None:
            found.append(make())
            found[0]()

        try:
            seconds = timer.once(first)
            report[name] = timer.timed(found[0]) | {"first_s": round(seconds, 3)}
            if expected is not None and isinstance(result := found[0](), Tensor):
                report[name]["error"] = relative(result, expected)
        except Exception as error:  # whatever another program raises
            report[name] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        found.clear()
        _freed(timer)


def calls(pipe: Pipeline, request: Request, timer: Timer, *, batch: int | None = None) -> Report:
    """Whole calls, prompt to images: one image, then ``batch`` at once, and the peak of memory."""
    report: Report = {}
    with peak(timer.device, report):
        report["one"] = timer.whole(lambda: pipe(request))
    if batch is not None:
        report["batch"] = {"images": batch} | timer.whole(lambda: pipe(request, num_images_per_prompt=batch))
    report["notes"] = pipe(request).receipt["notes"]
    return report


def measured(
    parts: dict[str, Callable[[], Report]],
    timer: Timer,
    tell: Callable[[str], None],
    keep: Callable[[Report], None] = lambda _: None,
) -> Report:
    """The reports of the parts by name; one that fails is told in its place, and the others go on.

    Args:
        parts: what is measured.
        timer: of the device.
        tell: called with the name of each part before it begins.
        keep: called after each part with all that is found so far.
    """
    found: Report = {}
    for name, part in parts.items():
        tell(name)
        try:
            found[name] = part()
        except Exception:  # whatever fails, the others are measured
            found[name] = {"failed": traceback.format_exc(limit=-2)}
        keep(found)
        _freed(timer)
    return found


def relative(found: Tensor, expected: Tensor) -> float:
    """``|found - expected| / |expected|``."""
    return float(f"{((found.double() - expected).norm() / expected.norm()).item():.3g}")


def _freed(timer: Timer) -> None:
    gc.collect()
    if timer.device.type == "cuda":
        torch.cuda.empty_cache()
