"""Time one training step of the emoji U-Net stage, part by part, for several ways of running it.

    python benchmarks/train_step.py [--batch 512] [--layouts channels_last contiguous] [--modes default]
    torchrun --nproc-per-node 2 benchmarks/train_step.py --modes reduce-overhead --layouts channels_last

Random examples, real networks and optimiser. Prints a JSON line for each way: images a second of all processes,
milliseconds of the whole step and of the optimiser, how many operations of torch the optimiser's step is that are no
views (on a GPU, one launch of a kernel or a few), seconds of compiling; then the ten slowest kernels of the last way.
With `--is-tiny` the networks are tiny.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from diffuscope.config import TINY
from diffuscope.diffusion.schedules import Schedule
from diffuscope.loading import choose_device
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.recipes import emoji, stages
from diffuscope.training import distributed, unet
from diffuscope.training.examples import Examples
from diffuscope.training.loop import StepContext
from diffuscope.training.muon import MuonAdamW
from diffuscope.training.text import Clip
from diffuscope.training.unet import UNetTask, UNetTraining


def examples(device: torch.device, count: int = 4096) -> Examples:
    """Random latents, texts and features of the real shapes."""
    ids = torch.full((count, 2, 77), 49407, dtype=torch.int32)
    ids[:, :, 0] = 49406
    ids[:, :, 1:8] = torch.randint(300, 40000, (count, 2, 7), dtype=torch.int32)
    return Examples(torch.randn(count, 4, 16, 16).bfloat16(), ids, torch.rand(count, 1280).half()).to(device)


def seconds_of(work: Callable[[], None], times: int, device: torch.device) -> float:
    """Mean seconds of a call, the device waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / times


class Operations(TorchDispatchMode):
    """Counts the operations within that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Count and do one."""
        free = func.is_view or func is torch.ops.aten._unsafe_view.default
        self.count += func.namespace == "aten" and not free
        return func(*args, **(kwargs or {}))


def new_task(
    layout: str, mode: str, batch: int, device: torch.device, *, count: int = 4096, is_tiny: bool = False
) -> UNetTask:
    """The stage's task, new, on ``count`` random examples."""
    recipe = emoji.unet()
    if is_tiny:
        encoder = replace(TINY.text_encoder, projection=16)
        recipe = replace(recipe, model=replace(TINY, text_encoder=encoder))
    model = stages.new_model(recipe, Clip(TextEncoder(recipe.model.text_encoder), 1280)).to(device)
    if layout == "channels_last":
        model = stages.to_device(model, device)
    data = examples(device, count)
    task = UNetTask(
        model, data, data[:256], Schedule(recipe.model.schedule), data.ids[0, 0].long(), UNetTraining(batch_size=batch)
    )
    if mode != "eager":
        task.predict = torch.compile(unet._predict, mode=mode)
    return task


def measure(
    layout: str, mode: str, batch: int, times: int, device: torch.device, *, is_tiny: bool = False
) -> Callable[[], None]:
    """Print the timings of one way, and return its step."""
    task = new_task(layout, mode, batch, device, is_tiny=is_tiny)
    model = task.network
    optimiser = MuonAdamW(model, 1e-3, adamw_prefixes=task.adamw_prefixes)
    generator = torch.Generator(device)
    parameters = list(model.parameters())
    processes = distributed.world_size()
    context = StepContext(generator, 0, 0, 0.5, rank=distributed.rank(), processes=processes)
    kept = torch.ones((), dtype=torch.bool, device=device)

    def backward() -> None:
        loss, _ = task.loss(context)
        loss.backward()
        distributed.all_reduce_mean([p.grad for p in parameters if p.grad is not None])

    def step() -> None:
        backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step(1.0, kept)

    compiling = seconds_of(step, 1, device)
    seconds_of(step, 3, device)
    whole = seconds_of(step, times, device)
    backward()
    grads = [copy.copy(p.grad) for p in parameters]

    def update() -> None:
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        optimiser.step(1.0, kept)

    with Operations() as operations:
        update()
    row = {
        "layout": layout,
        "mode": mode,
        "batch": batch,
        "processes": processes,
        "images_per_second": round(processes * batch / whole, 1),
        "step_ms": round(1e3 * whole, 2),
        "optimiser_ms": round(1e3 * seconds_of(update, times, device), 2),
        "optimiser_operations": operations.count,
        "compile_s": round(compiling, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    if distributed.rank() == 0:
        print(json.dumps(row), flush=True)
    return step


def main() -> None:
    """Read the arguments and measure every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--layouts", nargs="+", default=["channels_last", "contiguous"])
    parser.add_argument("--modes", nargs="+", default=["default"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--is-tiny", action="store_true")
    arguments = parser.parse_args()
    stages.prefer_speed()
    with distributed.process_group(choose_device(arguments.device)) as device:
        for layout in arguments.layouts:
            for mode in arguments.modes:
                step = measure(layout, mode, arguments.batch, arguments.times, device, is_tiny=arguments.is_tiny)
        if device.type == "cuda" and distributed.world_size() == 1:
            with profile(activities=[ProfilerActivity.CUDA]) as seen:
                step()
                torch.cuda.synchronize()
            print(seen.key_averages().table(sort_by="cuda_time_total", row_limit=10, max_name_column_width=70))


if __name__ == "__main__":
    main()
