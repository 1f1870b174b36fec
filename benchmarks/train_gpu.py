"""Training on a GPU: images a second, memory, several processes, and whether bfloat16 learns as float32 does.

    python benchmarks/train_gpu.py --part speed --out speed.json

* speed: one step of a U-Net of the size of Stable Diffusion 1.5 on cached latents and text states, under bfloat16
  autocast, with AdamW and without an average of the weights; ours and that of diffusers' training script, each eager
  and compiled.
* memory: the peak of a LoRA, a new word and an Imagic of Stable Diffusion 1.5 at 512 pixels, and of a LoRA of SDXL at
  1,024 with checkpoints, all of one picture a step; with the model, and beside it what the training says that it needs.
* loader: what a step waits for its batch: (step with the loader - step with one batch that stays) / step, medians of
  200 steps of the loop itself, 20 of one kind and 20 of the other in turns. For `emoji`'s U-Net on 800,000 examples,
  and for a LoRA of Stable Diffusion 1.5 on 64 pictures of one's own, whose latents are kept.
* processes: the step of `emoji` in 1, 2 and 4 processes, 512 images in each (`train_step.py` under torchrun).
* precision: 200 steps of the model of Fashion-MNIST in float32 and under bfloat16 autocast, of the same seed.

A row that fails says why, the others go on, and the exit code is 1. Weights are random but in the last part. With
`--is-tiny` the networks are tiny, and the numbers mean nothing.
"""

import copy
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Literal

import torch
import tyro
from torch import Tensor, nn

from diffuscope.bench import measure, report
from diffuscope.bench.timing import Report, Timer, operations, peak
from diffuscope.config import FAMILIES, PRESETS, ModelConfig
from diffuscope.data.digits import DEBIAN, load_fashion
from diffuscope.diffusion.schedules import Schedule
from diffuscope.errors import TrainingError
from diffuscope.finetune import train_imagic, train_lora, train_word
from diffuscope.finetune.lora import LoraTask
from diffuscope.finetune.options import LoraTraining
from diffuscope.loading import choose_device
from diffuscope.models.class_unet import ClassUNet
from diffuscope.models.unet import UNet
from diffuscope.recipes import emoji, stages
from diffuscope.recipes.digits import fashion, of_length
from diffuscope.training.denoising import DenoisingLoss, stratified
from diffuscope.training.initialisation import zero_init
from diffuscope.training.loop import LoopConfig, StepContext, Task, train
from diffuscope.training.muon import MuonAdamW
from diffuscope.training.pixels import PixelLatents, PixelTask, PixelTraining
from diffuscope.training.run_folder import LOG, read_log
from diffuscope.types import Tap
from diffuscope.weights.layout.network_config import unet_to_json
from diffuscope.weights.store import documents
from subjects import mug
from train_step import new_task

Part = Literal["speed", "memory", "loader", "processes", "precision"]
Parts = dict[str, Callable[[], Report]]
Loss = Callable[[StepContext], tuple[Tensor, dict[str, Tensor]]]
RATE = 1e-5


def main(
    *, part: Part, out: Path, folder: Path = DEBIAN, batch: int = 32, device: str = "auto", is_tiny: bool = False
) -> None:
    """Measure one part.

    Args:
        part: what is measured.
        out: JSON file.
        folder: of Fashion-MNIST's four files, for `precision`.
        batch: images in a step of `speed`, if it is not tiny.
        device: auto, cpu, cuda.
        is_tiny: tiny networks, few steps.
    """
    place = choose_device(device)
    document = report.head(place, torch.bfloat16, report.this_command())
    timer = Timer(place, 0.01 if is_tiny else 4.0)
    parts: dict[Part, Callable[[], Parts]] = {
        "speed": lambda: speed(timer, 2 if is_tiny else batch, is_tiny=is_tiny),
        "memory": lambda: memory(place, is_tiny=is_tiny),
        "loader": lambda: loader(place, is_tiny=is_tiny),
        "processes": lambda: processes(place, is_tiny=is_tiny),
        "precision": lambda: precision(place, folder, is_tiny=is_tiny),
    }

    def keep(found: Report) -> None:
        documents.write_text(out, json.dumps(document | {"measured": found}, indent=1) + "\n")

    keep({})
    if part == "speed":
        document["rates"] = {} if is_tiny else timer.rates(torch.bfloat16)
    if part in ("speed", "loader"):
        stages.prefer_speed()
    measured = measure.measured(parts[part](), timer, lambda name: print(name, flush=True), keep)
    print(json.dumps(measured, indent=1))
    if failed := [name for name, row in measured.items() if "failed" in row]:
        sys.exit(f"failed: {', '.join(failed)}")


def speed(timer: Timer, batch: int, *, is_tiny: bool) -> Parts:
    """The ways to make one step."""
    config, side = (PRESETS["tiny-sd15"], 8) if is_tiny else (FAMILIES["sd15"], 64)
    device, count, dtype = timer.device, 8 * batch, torch.float32 if is_tiny else torch.bfloat16
    with device:
        generator = torch.Generator(device).manual_seed(0)
        latents = torch.randn(count, 4, side, side, generator=generator).to(dtype)
        states = torch.randn(count, 77, config.unet.context_dim, generator=generator).to(dtype)

    def examples() -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.randint(count, (batch,), device=device, generator=generator)
        x0 = latents[rows].float()
        return x0, states[rows], torch.randn(x0.shape, device=device, generator=generator)

    def ours(compiled: bool) -> Callable[[], None]:
        unet: UNet = measure.made(UNet, config.unet, device, torch.float32).train().requires_grad_(True)
        unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        loss = DenoisingLoss(Schedule(config.schedule), device, 5.0)
        optimiser = MuonAdamW(unet, RATE, adam_ratio=1.0, adamw_prefixes=("",))
        forward = torch.compile(unet) if compiled else unet

        def step() -> None:
            x0, texts, noise = examples()
            x, time, sigma = loss.noised(x0, stratified(batch, generator), noise)
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                output = forward(x.contiguous(memory_format=torch.channels_last), time, texts)
            loss.error(output, x0, noise, sigma).mean().backward()
            nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimiser.step(1.0)

        return step

    def diffusers(compiled: bool) -> Callable[[], None]:
        """The loop of examples/text_to_image/train_text_to_image.py, with its defaults."""
        from diffusers import DDPMScheduler, UNet2DConditionModel

        known = {key: value for key, value in unet_to_json(config.unet).items() if not key.startswith("_")}
        with device:
            unet = UNet2DConditionModel.from_config(known).train()
        scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        optimiser = torch.optim.AdamW(unet.parameters(), lr=RATE, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        forward = torch.compile(unet) if compiled else unet

        def step() -> None:
            x0, texts, noise = examples()
            time = torch.randint(1000, (batch,), device=device, generator=generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                output = forward(scheduler.add_noise(x0, noise, time), time, texts, return_dict=False)[0]
            nn.functional.mse_loss(output.float(), noise).backward()
            nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()

        return step

    def way(make: Callable[[bool], Callable[[], None]], compiled: bool) -> Report:
        step, row = make(compiled), {"batch": batch}
        row["first_s"] = round(timer.once(step), 2)
        with peak(device, row):
            row |= timer.timed(step)
        row["images a second"] = round(batch / row["ms"] * 1e3, 2)
        if not compiled:
            row["tflop"] = operations(step)
        return row

    named = {"ours": ours, "diffusers": diffusers}
    return {
        name + ", compiled" * compiled: lambda make=make, compiled=compiled: way(make, compiled)  # type: ignore[misc]
        for compiled in (False, True)
        for name, make in named.items()
        if not (is_tiny and compiled)
    }


def memory(device: torch.device, *, is_tiny: bool) -> Parts:
    """The trainings whose peak is measured."""
    sd15, sdxl = (PRESETS["tiny"], PRESETS["tiny-sdxl"]) if is_tiny else (FAMILIES["sd15"], FAMILIES["sdxl"])
    side, large = (32, 32) if is_tiny else (512, 1024)
    steps = 2 if is_tiny else 8
    lora = {"rank": 16, "caption": "a zeb cup", "targets": "transformer"}
    imagic = {"prompt": "a red cup", "embedding_steps": steps}

    def one(config: ModelConfig, teach: Callable[..., object], size: int, **options: object) -> Report:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        pipe = measure.random_model(config, device, dtype)
        model = sum(each.nbytes for net in pipe.components.networks.values() for each in net.parameters()) >> 20
        row: Report = {
            "side": size,
            "options": {name: str(value) for name, value in options.items()},
            "model_mib": model,
        }
        before = torch.cuda.memory_allocated() if device.type == "cuda" else 0

        def tell(text: str) -> None:
            if found := re.search(r"needs about ([\d,]+) MiB", text):
                row["planned_mib"] = model + int(found[1].replace(",", ""))
                if device.type == "cuda":  # what the encoding took counts apart
                    row["encoding_mib"] = model + ((torch.cuda.max_memory_allocated() - before) >> 20)
                    torch.cuda.reset_peak_memory_stats()

        with TemporaryDirectory() as place:
            mug().save(Path(place) / "cup.png")
            picture, result = Path(place) / "cup.png", Path(place) / "taught.safetensors"
            with peak(device, row):
                try:
                    teach(pipe, picture, result, size=size, batch_size=1, steps=steps, lr=RATE, tell=tell, **options)
                except TrainingError as error:  # random networks may learn nothing
                    row["ended"] = str(error)
        row["measured_mib"] = model + row.pop("peak_mib")
        row["planned over measured"] = round(row["planned_mib"] / row["measured_mib"], 3)
        return row

    return {
        "SD 1.5 LoRA": lambda: one(sd15, train_lora, side, **lora),
        "SD 1.5 LoRA, checkpoints": lambda: one(sd15, train_lora, side, gradient_checkpointing=True, **lora),
        "SD 1.5 word": lambda: one(sd15, train_word, side, word="<zeb>", like="cup"),
        "SD 1.5 Imagic": lambda: one(sd15, train_imagic, side, **imagic),
        "SDXL LoRA, checkpoints": lambda: one(sdxl, train_lora, large, gradient_checkpointing=True, **lora),
    }


class InTurns:
    """A task whose batch is loaded in some steps and stays in as many after them; it notes when each step begins."""

    def __init__(self, task: Task, resident: Loss, device: torch.device, turn: int) -> None:
        self.network, self.adamw_prefixes = task.network, task.adamw_prefixes
        self.ways, self.device, self.turn = (task.loss, resident), device, turn
        self.begun: list[torch.cuda.Event] = []
        self.clock: list[float] = []

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """That of the way whose turn it is."""
        if self.device.type == "cuda":
            self.begun.append(torch.cuda.Event(enable_timing=True))
            self.begun[-1].record()
        self.clock.append(time.perf_counter() * 1e3)
        return self.ways[context.step // self.turn % 2](context)

    def validate(self, network: nn.Module) -> dict[str, float]:  # noqa: ARG002
        """Nothing."""
        return {}

    def report(self) -> Report:
        """Medians, without the first two turns, and how much they vary from one pair of turns to another."""
        ends = [*pairwise(self.begun)]
        times = [one.elapsed_time(other) for one, other in ends] or [b - a for a, b in pairwise(self.clock)]
        turns = [times[i : i + self.turn] for i in range(2 * self.turn, len(times), self.turn)]
        loaded, resident = (statistics.median(chain(*turns[way::2])) for way in (0, 1))
        pairs = [statistics.median(a) / statistics.median(b) - 1 for a, b in zip(turns[::2], turns[1::2], strict=True)]
        return {
            "steps of each": sum(map(len, turns[::2])),
            "loaded_ms": round(loaded, 3),
            "resident_ms": round(resident, 3),
            "idle": round((loaded - resident) / loaded, 5),
            "idle in a pair of turns": [round(min(pairs), 5), round(max(pairs), 5)],
        }


def loader(device: torch.device, *, is_tiny: bool) -> Parts:
    """The two trainings."""
    turn, pairs = (2, 2) if is_tiny else (20, 10)
    steps = 2 * turn * (pairs + 1) + 1  # the last one has no end

    def one(task: Task, resident: Loss, **options: float) -> Report:
        both = InTurns(task, resident, device, turn)
        never = float("inf")
        config = LoopConfig(steps=steps, validate_every=never, save_every=never, **options)  # type: ignore[arg-type]
        with TemporaryDirectory() as run:
            train(both, config, Path(run))
        return both.report()

    def of_emoji() -> Report:
        count, batch = (64, 4) if is_tiny else (emoji.examples().scenes, 512)
        mode = "eager" if is_tiny else "reduce-overhead"
        task = new_task("channels_last", mode, batch, device, count=count, is_tiny=is_tiny)
        context = StepContext(torch.Generator(device).manual_seed(0), 0, 0, 0.0)
        found = task.examples.batch(batch, context, context.shared)
        other = copy.copy(task)
        other.examples = SimpleNamespace(batch=lambda *_: found)  # type: ignore[assignment]
        return {"batch": batch} | one(task, other.loss)

    def of_lora() -> Report:
        config, side = (PRESETS["tiny-sd15"], 4) if is_tiny else (FAMILIES["sd15"], 64)
        pipe = measure.random_model(config, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
        training = LoraTraining(rank=16)
        latents = torch.randn(64, 4, side, side, device=device)
        captions = [f"a zeb cup, picture {i}" for i in range(len(latents))]
        task = LoraTask(pipe, latents, captions, side * config.vae.factor, training)
        rows = range(training.batch_size)
        x0, states = latents[: len(rows)], task._states(task.network, rows)

        def resident(context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
            places, noise = task.denoising.draws(context, len(rows), x0.shape[1:])
            error = task.denoising.errors(task.unet, x0, states, places, noise).mean()
            return error, {"error": error.detach()}

        return {"batch": len(rows)} | one(task, resident, lr=RATE, adam_ratio=1.0)

    return {"emoji, U-Net": of_emoji, "SD 1.5 LoRA": of_lora}


def processes(device: torch.device, *, is_tiny: bool) -> Parts:
    """The numbers of processes, one a GPU; efficiency is to the first."""
    most = torch.cuda.device_count() if device.type == "cuda" else 2
    settings = ["--batch", "4", "--times", "1", "--modes", "eager"] if is_tiny else ["--modes", "reduce-overhead"]
    settings += ["--is-tiny"] * is_tiny
    rates: dict[int, float] = {}

    def of(count: int) -> Report:
        limit, python = ["timeout", "--kill-after", "10", "240"], [sys.executable, "-m", "torch.distributed.run"]
        launcher = ["--nproc-per-node", str(count), "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
        script = [str(Path(__file__).with_name("train_step.py")), "--layouts", "channels_last", "--device", device.type]
        done = subprocess.run(
            [*limit, *python, *launcher, *script, *settings],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={"OMP_NUM_THREADS": "1"} | os.environ,
        )
        row: Report = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
        rates[count] = row["images_per_second"] / count
        return row | {"of linear": round(rates[count] / rates[1], 4)}

    return {f"{count} processes": lambda count=count: of(count) for count in (1, 2, 4) if count <= most}  # type: ignore[misc]


class Float32UNet(ClassUNet):
    """A U-Net that no autocast changes."""

    def forward(self, x: Tensor, time: Tensor | float, context: Tensor, **more: Tap | None) -> Tensor:
        """That of the class, in the dtype of its weights."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x, time, context, **more)  # type: ignore[arg-type]


def precision(device: torch.device, folder: Path, *, is_tiny: bool) -> Parts:
    """The two trainings, and how much larger the errors of the second one are."""
    images, held_out = (each.to(device) for each in load_fashion(folder))
    recipe = of_length(fashion(), steps=3 if is_tiny else 200)
    recipe = replace(recipe, loop=replace(recipe.loop, log_every=1, warmup_steps=20))
    if is_tiny:
        unet, tiny = replace(recipe.unet, channels=(8, 16)), PixelTraining(batch_size=4, rotation=0.0)
        recipe = replace(recipe, unet=unet, training=tiny)
    std, mean = torch.std_mean(images.pixels)
    latents = PixelLatents(mean=mean.item(), std=std.item(), patch=int(recipe.unet.in_channels**0.5))
    found: list[Report] = []

    def one(kind: type[ClassUNet]) -> Report:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        torch.manual_seed(0)
        network = kind(recipe.unet)
        zero_init(network)
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        task = PixelTask(network, images, held_out, latents, Schedule(recipe.schedule), recipe.training)
        with TemporaryDirectory() as run:
            average = train(task, recipe.loop, Path(run))
            losses = [line["loss"] for line in read_log(Path(run) / LOG) if "loss" in line][-20:]
        exact = Float32UNet(recipe.unet).to(device)  # both are examined in float32
        exact.load_state_dict(average.state_dict())
        row = {"error of the last 20 steps": sum(losses) / len(losses), "held-out error": task.validate(exact)["error"]}
        found.append(row)
        return row

    def over() -> Iterator[tuple[str, float]]:
        for name, value in found[1].items():
            yield name, value / found[0][name] - 1

    return {
        "float32": lambda: one(Float32UNet),
        "bfloat16 autocast": lambda: one(ClassUNet),
        "bfloat16 over float32, less 1": lambda: dict(over()),
    }


if __name__ == "__main__":
    tyro.cli(main)
