"""Examine a model of digits, and distil it by every method: what each draws in 1, 2, 4, 8 and 16 steps.

    diffuscope train digits --out DIGITS
    python benchmarks/digits.py exam --model DIGITS --out benchmarks/results/digits.json
    python benchmarks/digits.py distil --model DIGITS --run RUN --out benchmarks/results/digits_distilled.json

`exam` asks for 1,000 digits at several guidance scales and by several samplers. `distil` first teaches a student
guidance; from there each method trains with the same number of steps, and progressive distillation with as many in all
its rounds.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import tyro
from torch import Tensor

from diffuscope.data.digits import LabelledImages, load_digits, split
from diffuscope.diffusion.schedules import Schedule
from diffuscope.distill import pixels as distill
from diffuscope.distill.pixels import Map, Method, PixelDistillation, PixelDistillTask
from diffuscope.distill.task import Field
from diffuscope.evaluate.digits import Examiner
from diffuscope.models.class_unet import ClassUNet
from diffuscope.recipes.digits import HELD_OUT
from diffuscope.recipes.pixel_model import PixelModel, load
from diffuscope.recipes.turbo import student_of
from diffuscope.training.loop import LoopConfig, train
from diffuscope.training.pixels import one_hot
from diffuscope.weights.store import documents, packing

SCALE = 2.0
ROUNDS = (16, 8, 4, 2, 1)
COUNTS = (1, 2, 4, 8)


def exam(*, model: Path, out: Path, count: int = 1000) -> None:
    """Scores of a model by guidance scale and by sampler.

    Args:
        model: folder of `diffuscope train digits`.
        out: JSON file.
        count: pictures of the first setting; of the others a quarter.
    """
    network = load(model)
    examiner = Examiner(*split(load_digits(), HELD_OUT))
    settings = [{}, *({"guidance_scale": scale} for scale in (1.0, 1.5, 3.0, 5.0))]
    settings += [{"sampler": name, "num_inference_steps": 10} for name in ("ddim", "euler", "heun", "dpmpp_2m", "lms")]
    rows = []
    for number, options in enumerate(settings):
        labels = torch.arange(count if number == 0 else count // 4) % 10
        start = time.process_time()
        drawn = torch.cat([network.sample(part.tolist(), seed=250 * k, **options) for k, part in parts(labels)])
        rows.append({**options, "cpu_seconds": time.process_time() - start, **asdict(examiner.exam(drawn, labels))})
        print(rows[-1])
    documents.write_text(out, json.dumps(rows, indent=1) + "\n")


def parts(labels: Tensor) -> Iterator[tuple[int, Tensor]]:
    yield from enumerate(labels.split(250))


def distil(*, model: Path, run: Path, out: Path, steps: int = 300, count: int = 400) -> None:
    """Train a student by each method, and measure all.

    Args:
        model: folder of `diffuscope train digits`.
        run: folder of the runs; a run that was interrupted resumes.
        out: JSON file.
        steps: of training, for each method.
        count: pictures for each number.
    """
    teacher = load(model)
    learned, held_out = split(load_digits(), HELD_OUT)
    field = Field(Schedule(teacher.config.schedule), torch.device("cpu"))
    examiner, labels = Examiner(learned, held_out), torch.arange(count) % 10
    guided = distill.guided_teacher(field, teacher.unet)
    curves: dict[str, dict[int, dict[str, float]]] = {}
    asked = draw(teacher, field, guided, labels, 2 * max(COUNTS))

    def measure(name: str, velocity: Map, counts: tuple[int, ...] = COUNTS, sample=distill.sample) -> None:
        for number in counts:
            drawn = draw(teacher, field, velocity, labels, number, sample)
            curves.setdefault(name, {})[number] = {
                "as_asked": examiner.agreement(drawn, labels),
                "distance": examiner.distance(drawn),
                "to_teacher": (drawn - asked).square().mean().item(),
            }
            print(name, number, curves[name][number], flush=True)
        document = {"steps": steps, "count": count, "scale": SCALE, "judge": examiner.real.value, "curves": curves}
        documents.write_text(out, json.dumps(document, indent=1) + "\n")

    learn = partial(student, field=field, images=learned, teacher=teacher)
    measure("teacher", guided)
    start = learn(teacher.unet, guided, run / "guidance", steps, method="guidance")
    one_call = distill.student_map(field, start)
    measure("guidance", one_call)
    for method in ("shortcut", "flow_map", "consistency"):
        network = learn(start, one_call, run / method, steps, method=method)
        sample = distill.sample_renoised if method == "consistency" else distill.sample
        measure(method, distill.student_map(field, network), sample=sample)
    network = start
    for number in ROUNDS:
        former = distill.student_map(field, network)
        folder = run / f"progressive-{number}"
        network = learn(network, former, folder, steps // len(ROUNDS), method="progressive", steps=number)
        measure("progressive", distill.student_map(field, network), (number,))


def draw(model: PixelModel, field: Field, velocity: Map, labels: Tensor, steps: int, sample=distill.sample) -> Tensor:
    """[B,1,28,28] digits from the same noise in every call."""
    noise = torch.randn(len(labels), 16, 7, 7, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        drawn = [
            sample(velocity, z, one_hot(part, 10), SCALE, field.phis(steps))
            for z, part in zip(noise.split(200), labels.split(200), strict=True)
        ]
    return model.config.latents.decode(torch.cat(drawn))


def student(
    network: ClassUNet,
    teacher_map: Map,
    folder: Path,
    updates: int,
    *,
    field: Field,
    images: LabelledImages,
    teacher: PixelModel,
    method: Method,
    **settings: int,
) -> ClassUNet:
    """The student of one run, from the weights of ``network``."""
    own = student_of(network) if network.guidance_embed is None else copied(network)
    own = own.to(memory_format=torch.contiguous_format)  # the derivative of a group norm needs it
    distillation = PixelDistillation(method=method, **settings)
    task = PixelDistillTask(own, teacher_map, field, images, teacher.config.latents, distillation)
    loop = LoopConfig(lr=3e-3, steps=updates, warmup_steps=20, hold=0.3, ema_decay=0.99, save_every=1e9)
    start = time.process_time()
    average = train(task, loop, folder)
    print(f"{folder.name}: {updates} steps, {time.process_time() - start:.0f} CPU s of {os.cpu_count()} cores")
    packing.write(folder / "student.safetensors", average.state_dict())
    return average


def copied(network: ClassUNet) -> ClassUNet:
    own = ClassUNet(network.config)
    own.load_state_dict(network.state_dict())
    return own


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"exam": exam, "distil": distil})
