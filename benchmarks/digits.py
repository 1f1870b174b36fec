"""Distil a model of digits by every method, and measure what each student draws in 1, 2, 4 and 8 steps.

    diffuscope train digits --out DIGITS
    python benchmarks/digits.py --model DIGITS --run RUN --out benchmarks/results/digits_distilled.json

A first student learns guidance; from there each method trains with the same number of steps, progressive distillation
with as many in all its rounds. The scores of the teacher are those of `DIGITS/exam.json`.
"""

import json
import os
import time
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
RATES = {"flow_map": 5e-4}  # its target has a derivative of the student in it: at the rate of the others it diverges


def distil(*, model: Path, run: Path, out: Path, guidance_steps: int = 300, steps: int = 300, count: int = 400) -> None:
    """Train a student by each method, and measure all.

    Args:
        model: folder of `diffuscope train digits`.
        run: folder of the runs; a run that was interrupted resumes.
        out: JSON file.
        guidance_steps: of training, for the student that learns guidance, from which the others begin.
        steps: of training, for each other method.
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
        settings = {"guidance_steps": guidance_steps, "steps": steps, "count": count, "scale": SCALE}
        document = {**settings, "judge": examiner.real.value, "curves": curves}
        documents.write_text(out, json.dumps(document, indent=1) + "\n")

    learn = partial(student, field=field, images=learned, teacher=teacher)
    measure("teacher", guided)
    start = learn(teacher.unet, guided, run / "guidance", guidance_steps, method="guidance")
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
    loop = LoopConfig(
        lr=RATES.get(method, 3e-3), steps=updates, warmup_steps=20, hold=0.3, ema_decay=0.99, save_every=1e9
    )
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
    tyro.cli(distil)
