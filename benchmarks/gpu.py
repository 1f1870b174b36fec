"""Time networks and whole calls on a CUDA device, beside diffusers in the same run; write JSON and tables.

python benchmarks/gpu.py --out benchmarks/results/gpu.json docs/reference/gpu-speed.md
python benchmarks/gpu.py --only "SD 1.5" --compile sd15  # the peer by torch.compile too, which takes minutes

Weights are random, of the real shapes and in float16; ``emoji`` is in bfloat16. A time is the median of groups of calls
between two device events, divided by their number, so that the host may run ahead as it does in a run; first calls are
timed apart. An error is ``|y - y32| / |y32|`` against the plain network in float32. Documents get a table between
``<!-- gpu -->`` and ``<!-- /gpu -->``; a part that fails is named in the JSON, and the others go on.
"""

import argparse
import contextlib
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffuscope.config import EMOJI, FAMILIES, PRESETS, ModelConfig
from diffuscope.loading import Components
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.perf.engine import Engine
from diffuscope.pipeline import Pipeline
from diffuscope.weights.store.documents import write_text

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TRIED = DEVICE.type == "cpu"
"""Without a GPU the script runs narrow models once, to see that it works; its numbers mean nothing."""

Report = dict[str, Any]


class Peer(NamedTuple):
    """A network of diffusers, and whether torch.compile runs it too."""

    made: Callable[[], nn.Module]
    compiled: bool


def wait() -> None:
    if not TRIED:
        torch.cuda.synchronize()


def timed(call: Callable[[], object], *, groups: int = 7, calls: int = 10) -> Report:
    """Milliseconds of one call, of several groups: median, lowest, highest."""
    for _ in range(1 if TRIED else 3):
        call()
    wait()
    found = []
    for _ in range(1 if TRIED else groups):
        start = time.perf_counter()
        if TRIED:
            call()
            found.append((time.perf_counter() - start) * 1e3)
            continue
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / calls)
    return {"ms": round(statistics.median(found), 3), "range": [round(min(found), 3), round(max(found), 3)]}


def seconds(call: Callable[[], object], repeats: int = 5) -> Report:
    """Seconds of whole calls on the host's clock: the first, and the median of the others."""
    found = []
    for _ in range(2 if TRIED else repeats + 1):
        start = time.perf_counter()
        call()
        wait()
        found.append(time.perf_counter() - start)
    rest = found[1:]
    return {
        "first_s": round(found[0], 3),
        "s": round(statistics.median(rest), 4),
        "range": [round(min(rest), 4), round(max(rest), 4)],
    }


def rates() -> Report:
    """What the device does at best, measured here: a matrix product, and a copy (bytes read plus written)."""
    side = 256 if TRIED else 8192
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(1 << (20 if TRIED else 30), device=DEVICE, dtype=torch.uint8)
    target = torch.empty_like(source)
    product, copied = timed(lambda: a @ b)["ms"], timed(lambda: target.copy_(source))["ms"]
    return {"product_tflops": round(2 * side**3 / product / 1e9), "copy_tbs": round(2 * len(source) / copied / 1e9, 2)}


def made(kind: Callable[[Any], nn.Module], config: object) -> Any:
    torch.manual_seed(0)
    with DEVICE:
        return kind(config).eval().requires_grad_(False)


def operations(call: Callable[[], object]) -> float:
    """TFLOP of a call of the plain network."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e12


def relative(found: Tensor, expected: Tensor) -> float:
    return float(f"{((found.double() - expected).norm() / expected.norm()).item():.3g}")


def half() -> torch.dtype:
    return torch.float32 if TRIED else torch.float16


@torch.no_grad()
def step(config: ModelConfig, images: int, latents: int, report: Report, peer: Peer | None = None) -> None:
    """One U-Net call with guidance: the plain network, the fast twin, diffusers."""
    unet, dtype, rows = made(UNet, config.unet), half(), 2 * images
    x = torch.randn(images, config.unet.in_channels, latents, latents, device=DEVICE)
    x, when = torch.cat([x, x]), torch.tensor(501.0, device=DEVICE)
    context, extra = torch.randn(rows, 77, config.unet.context_dim, device=DEVICE), {}
    if unet.add_embed is not None:
        extra = {"pooled": torch.randn(rows, config.pooled_dim, device=DEVICE)}
        extra["sizes"] = torch.full((rows, 6), 8.0 * latents, device=DEVICE)
    expected = unet(x, when, context, extra=extra).double() if images == 1 else None
    report["tflop"] = round(operations(lambda: unet(x, when, context, extra=extra)), 4)
    unet = unet.to(dtype)
    x, context, given = x.to(dtype), context.to(dtype), {key: value.to(dtype) for key, value in extra.items()}
    given = given and {**given, "sizes": extra["sizes"]}
    report["plain"] = timed(lambda: unet(x, when, context, extra=given), groups=3)
    if expected is not None:
        report["plain"]["error"] = relative(unet(x, when, context, extra=given), expected)
    fast = Engine(True).predictor(unet, context, given, pairs=True)
    report["fast_first_s"] = seconds(lambda: fast(x, when), 1)["first_s"]
    report["fast"] = timed(lambda: fast(x, when))
    if expected is not None:
        report["fast"]["error"] = relative(fast(x, when), expected)
    if peer is not None:
        added = {"text_embeds": given["pooled"], "time_ids": given["sizes"].to(dtype)} if given else None
        peer_step(peer, report, (x, when, context), added)


def peer_step(
    peer: Peer, report: Report, inputs: tuple[Tensor, Tensor, Tensor], added: Mapping[str, Tensor] | None
) -> None:
    x, when, context = inputs
    unet = made(lambda _: peer.made(), None).to(x.dtype)

    def call() -> object:
        return unet(x, when, encoder_hidden_states=context, added_cond_kwargs=added, return_dict=False)

    report["diffusers"] = timed(call, groups=3)
    if not peer.compiled:
        return
    unet = unet.to(memory_format=torch.channels_last)
    unet.fuse_qkv_projections()
    x = x.contiguous(memory_format=torch.channels_last)
    unet = torch.compile(unet, mode="reduce-overhead", fullgraph=True)
    start = time.perf_counter()
    call()
    wait()
    report["compiled_first_s"] = round(time.perf_counter() - start, 1)
    report["compiled"] = timed(call)


def peer_of(family: str) -> Peer | None:
    """The U-Net of diffusers for a family, where it is installed."""
    if TRIED:
        return None
    try:
        from diffusers import UNet2DConditionModel
    except ImportError:
        return None
    options: dict[str, dict[str, Any]] = {
        "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
        "sdxl": {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    }
    return Peer(lambda: UNet2DConditionModel(**options[family]), family in ARGUMENTS.compile)


@torch.no_grad()
def decode(config: ModelConfig, latents: int, report: Report) -> None:
    """The decoder: the plain network, the fast twin, diffusers."""
    vae, dtype, engine = made(VAE, config.vae), half(), Engine(True)
    z = torch.randn(1, 4, latents, latents, device=DEVICE) * 5
    expected = vae.decode(z).double()
    report["tflop"] = round(operations(lambda: vae.decode(z)), 4)
    vae, z = vae.to(dtype), z.to(dtype)
    report["plain"] = timed(lambda: vae.decode(z), groups=3) | {"error": relative(vae.decode(z), expected)}
    report["fast_first_s"] = seconds(lambda: engine.decode(vae, z), 1)["first_s"]
    report["fast"] = timed(lambda: engine.decode(vae, z)) | {"error": relative(engine.decode(vae, z), expected)}
    with contextlib.suppress(ImportError):
        from diffusers import AutoencoderKL

        kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        channels = {"block_out_channels": config.vae.channels, "norm_num_groups": config.vae.norm_groups}
        if len(config.vae.channels) == 4:
            peer = made(lambda _: AutoencoderKL(layers_per_block=2, **kinds, **channels), None).to(dtype)
            report["diffusers"] = timed(lambda: peer.decode(z, return_dict=False), groups=3)


def pipeline(config: ModelConfig, dtype: torch.dtype) -> Pipeline:
    networks = {
        "text_encoder": (TextEncoder, config.text_encoder),
        "unet": (UNet, config.unet),
        "vae": (VAE, config.vae),
    }
    parts = {name: made(*each).to(dtype) for name, each in networks.items()}
    return Pipeline(Components(config=config, tokenizer=Tokenizer(), **parts))


def calls(config: ModelConfig, dtype: torch.dtype, report: Report, batch: int, **options: Any) -> None:
    """Whole calls, prompt to images: one image, a batch, and the peak of memory."""
    before = 0 if TRIED else torch.cuda.memory_allocated()
    pipe = pipeline(config, dtype)
    if not TRIED:
        torch.cuda.reset_peak_memory_stats()
    report["one"] = seconds(lambda: pipe("a red fox", seed=32, **options), 3)
    if not TRIED:
        report["peak_gib"] = round((torch.cuda.max_memory_allocated() - before) / 2**30, 2)
    report["batch"] = {"images": batch} | seconds(
        lambda: pipe("a red fox", seed=32, num_images_per_prompt=batch, **options), 2
    )
    report["notes"] = pipe("a red fox", seed=32, **options).receipt["notes"]


def parts() -> dict[str, Callable[[Report], None]]:
    """Name -> what measures it into its report."""
    sd15, sdxl = FAMILIES["sd15"], FAMILIES["sdxl"]
    emoji, large, larger, several = EMOJI, 64, 128, 16
    options: dict[str, Any] = {"num_inference_steps": 50, "sampler": "euler"}
    if TRIED:
        sd15, sdxl = PRESETS["tiny-sd15"], PRESETS["tiny-sdxl"]
        emoji, large, larger, several = replace(sd15, name="tried"), 8, 8, 1
        options = {"num_inference_steps": 1}
    kind = torch.float32 if TRIED else torch.bfloat16
    return {
        "SD 1.5 512, step with guidance": lambda report: step(sd15, 1, large, report, peer_of("sd15")),
        "SD 1.5 512, step with guidance, 16 images": lambda report: step(sd15, several, large, report),
        "SD 1.5 VAE decode 512": lambda report: decode(sd15, large, report),
        "SD 1.5 VAE decode 1024": lambda report: decode(sd15, larger, report),
        "SD 1.5 512, 50 steps": lambda report: calls(sd15, half(), report, several, **options),
        "emoji, 12 steps and upscaling": lambda report: calls(emoji, kind, report, 2 if TRIED else 64),
        "SDXL 1024, step with guidance": lambda report: step(sdxl, 1, larger, report, peer_of("sdxl")),
    }


def measure(names: list[str]) -> Report:
    found: Report = {}
    for name, part in parts().items():
        if names and not any(each in name for each in names):
            continue
        found[name] = {}
        start = time.perf_counter()
        try:
            part(found[name])
        except Exception:
            found[name]["failed"] = traceback.format_exc(limit=-2)
        gc.collect()
        if not TRIED:
            torch.cuda.empty_cache()
        print(f"{name} ({time.perf_counter() - start:.0f} s): {json.dumps(found[name])}", flush=True)
    return found


def table(report: Report) -> str:
    """The tables of a document."""
    peak = max(report["rates"]["product_tflops"], 1)
    titles = {"fast": "fast", "plain": "plain", "diffusers": "diffusers", "compiled": "diffusers, compiled"}
    rows = [f"| ms | {' | '.join(titles.values())} | of the product rate | first call |", "|---" * 7 + "|"]
    whole = ["| s | one image | first call | batch | images a second | peak memory |", "|---" * 6 + "|"]
    for name, each in report["measured"].items():
        if "fast" in each:
            times = [f"{each[kind]['ms']:.2f}" if kind in each else "" for kind in titles]
            share = each["tflop"] / max(each["fast"]["ms"], 1e-3) * 1e3 / peak
            rows.append(f"| {name} | {' | '.join(times)} | {share:.0%} | {each['fast_first_s']:.2f} s |")
        if "one" in each:
            batch, one = each["batch"], each["one"]
            peak_memory = f"{each['peak_gib']} GiB" if "peak_gib" in each else ""
            many = f"{batch['images']}: {batch['s']:.2f} | {batch['images'] / batch['s']:.1f}"
            whole.append(f"| {name} | {one['s']:.3f} | {one['first_s']:.2f} | {many} | {peak_memory} |")
    errors = [
        f"| {name} | {each['fast']['error']:.2e} | {each['plain']['error']:.2e} |"
        for name, each in report["measured"].items()
        if "error" in each.get("fast", {})
    ]
    head = ["| error against float32 | fast | plain |", "|---|---|---|"]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    where = f"`{report['command']}`; {report['device']}, {versions}; a matrix product of 8,192 runs at {peak} TFLOP/s."
    return "\n".join([*rows, "", *whole, "", *head, *errors, "", where]) + "\n"


def installed(*names: str) -> dict[str, str]:
    found = {"torch": torch.__version__}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def main() -> None:
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    report: Report = {
        "command": f"python {' '.join(sys.argv)}",
        "commit": os.environ.get("COMMIT", git),
        "device": "CPU, to try the script" if TRIED else torch.cuda.get_device_name(),
        "versions": installed("triton", "diffusers"),
        "rates": rates(),
    }
    report["measured"] = measure(ARGUMENTS.only)
    if ARGUMENTS.out is not None:
        ARGUMENTS.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(ARGUMENTS.out, json.dumps(report, indent=2) + "\n")
    place = re.compile(r"(?<=<!-- gpu -->\n).*?(?=<!-- /gpu -->)", re.DOTALL)
    for path in ARGUMENTS.documents:
        write_text(path, place.sub(lambda _: table(report), path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time networks and calls on a CUDA device.")
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    parser.add_argument("--only", nargs="*", default=[], help="parts whose names contain one of these")
    parser.add_argument("--compile", nargs="*", default=[], help="families whose peer torch.compile runs too")
    parser.add_argument("documents", nargs="*", type=Path)
    ARGUMENTS = parser.parse_args()
    main()
