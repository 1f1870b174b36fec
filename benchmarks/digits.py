r"""Distil the shipped model of digits by every method, and measure what each student draws.

    python benchmarks/digits.py --run RUN --out benchmarks/results/digits_distilled.json \
        --sheet docs/images/digits-distilled.png --page docs/deep-dive/14-fifty-steps-to-one.md

A first student learns guidance in one call; from there every method trains, in the order of page 14. A run that was
interrupted resumes, and what RUN has numbers of is not measured again. The numbers, of pictures from the same noise, by
network forwards:

* as_asked: share that a support vector machine, which saw real digits alone, reads as asked;
* distance: kernel distance to held-out real digits, in pixels of half the size; frechet: the same of Gaussians;
* to_teacher: mean squared distance, in pixels, to what the teacher draws in 16 guided steps, 32 forwards;
* diversity: mean distance between two pictures of one class, over that of the teacher's 32 forwards.
"""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from diffuscope.bench import report
from diffuscope.data.digits import LabelledImages, load_digits, split
from diffuscope.diffusion.schedules import Schedule
from diffuscope.distill import pixels as distill
from diffuscope.distill.matching import Matching, MatchingTask
from diffuscope.distill.pixels import Map, Method, PixelDistillation, PixelDistillTask
from diffuscope.distill.task import Field
from diffuscope.evaluate.digits import Examiner
from diffuscope.images import tiled, to_images
from diffuscope.models.class_unet import ClassUNet
from diffuscope.recipes.digits import HELD_OUT
from diffuscope.recipes.pixel_model import PixelModel, load
from diffuscope.recipes.turbo import student_of
from diffuscope.training.loop import LoopConfig, Task, train
from diffuscope.training.pixels import one_hot
from diffuscope.weights.store import documents

SCALE = 2.0
ROUNDS = (16, 8, 4, 2, 1)
COUNTS = (1, 2, 4, 8)
REFERENCE = 16
"""Guided steps of the teacher that everything is compared with."""

MEASURES = {"frechet": "distance to real digits", "to_teacher": "to the teacher's", "diversity": "diversity"}
PLACES = {"frechet": 1, "to_teacher": 4, "diversity": 2}
TITLES = {
    "teacher": "teacher, two forwards a step",
    "guidance": "guidance in one call",
    "progressive": "progressive, a network for each",
    "shortcut": "shortcut",
    "flow_map": "flow map",
    "consistency": "consistency, with new noise between",
    "matching": "distribution matching",
}
"""Method -> its row in the table."""

PLAN: dict[str, tuple[int, float]] = {
    "guidance": (200, 3e-3),
    "progressive": (60, 1e-3),
    "shortcut": (200, 1e-3),
    "flow_map": (200, 1e-3),
    "consistency": (200, 1e-3),
    "matching": (200, 1e-3),
}
"""Method -> updates, of each round in progressive distillation, and Muon's learning rate."""


@dataclass(frozen=True)
class Lesson:
    """What all runs share."""

    run: Path
    model: PixelModel
    field: Field
    images: LabelledImages

    def learn(self, name: str, start: ClassUNet, teacher: Map, method: Method, **settings: int) -> ClassUNet:
        """The averaged student of one run, from the weights of ``start``."""
        student = twin(start)
        distillation = PixelDistillation(method=method, **settings)
        task = PixelDistillTask(student, teacher, self.field, self.images, self.model.config.latents, distillation)
        return self.trained(name, task, method)

    def match(self, start: ClassUNet, fake: ClassUNet, teacher: Map) -> ClassUNet:
        """The same for distribution matching."""
        task = MatchingTask(twin(start), twin(fake), teacher, self.field, Matching())
        return self.trained("matching", task, "matching")["student"]

    def trained(self, name: str, task: Task, method: str) -> Any:
        """The averaged network of a task."""
        steps, lr = PLAN[method]
        loop = LoopConfig(lr=lr, steps=steps, warmup_steps=20, hold=0.3, ema_decay=0.98, save_every=1e9)
        noted, clock = self.run / name / "seconds.json", time.process_time()
        average = train(task, loop, self.run / name)
        if not noted.exists():
            documents.write_text(noted, json.dumps(round(time.process_time() - clock)))
        print(f"{name}: {steps} steps, {noted.read_text()} processor seconds", flush=True)
        return average

    def seconds(self) -> dict[str, float]:
        """Processor seconds of each training."""
        return {path.parent.name: json.loads(path.read_text()) for path in sorted(self.run.glob("*/seconds.json"))}


def twin(network: ClassUNet) -> ClassUNet:
    """A student with the weights of ``network``, to be trained; the derivative of a group norm needs its layout."""
    own = student_of(network) if network.guidance_embed is None else copy.deepcopy(network)
    return own.requires_grad_(True).train().to(memory_format=torch.contiguous_format)


def drawn(
    lesson: Lesson,
    velocity: Map,
    steps: int,
    *,
    labels: Tensor,
    scale: float = SCALE,
    sample: Callable[..., Tensor] = distill.sample,
) -> Tensor:
    """[B,1,28,28] digits, from the same noise in every call."""
    noise = torch.randn(len(labels), 16, 7, 7, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        parts = [
            sample(velocity, z, one_hot(part, 10), scale, lesson.field.phis(steps))
            for z, part in zip(noise.split(200), labels.split(200), strict=True)
        ]
    return lesson.model.config.latents.decode(torch.cat(parts))


def distil(*, run: Path, out: Path, sheet: Path, page: Path, count: int = 500) -> None:
    """Train a student by each method, and measure all.

    Args:
        run: folder of the runs.
        out: JSON file.
        sheet: PNG file: ten digits of each method in 1, 2, 4 and 8 forwards.
        page: document that gets the table between ``<!-- distilled -->`` and ``<!-- /distilled -->``.
        count: pictures for each number.
    """
    model = load()
    images, held_out = split(load_digits(), HELD_OUT)
    lesson = Lesson(run, model, Field(Schedule(model.config.schedule), torch.device("cpu")), images)
    examiner, labels = Examiner(images, held_out), torch.arange(count) % 10
    guided = distill.guided_teacher(lesson.field, model.unet)
    draw = partial(drawn, lesson)
    reference = draw(guided, REFERENCE, labels=labels)
    spread = examiner.diversity(reference, labels)
    curves: dict[str, dict[int, dict[str, float]]] = {}
    rows: dict[str, dict[int, Tensor]] = {}

    def measure(name: str, forwards: int, one: Callable[..., Tensor]) -> None:
        noted = run / f"{name}.{forwards}.json"
        if not noted.exists():
            pictures = one(labels=labels)
            numbers = {
                "as_asked": examiner.agreement(pictures, labels),
                "distance": examiner.distance(pictures),
                "frechet": examiner.frechet(pictures),
                "to_teacher": (pictures - reference).square().mean().item(),
                "diversity": examiner.diversity(pictures, labels) / spread,
            }
            documents.write_text(noted, json.dumps(numbers))
        rows.setdefault(name, {})[forwards] = one(labels=labels[:10])
        curves.setdefault(name, {})[forwards] = json.loads(noted.read_text())
        print(name, forwards, {key: f"{value:.4f}" for key, value in curves[name][forwards].items()}, flush=True)

    def measure_all(name: str, network: ClassUNet, sample: Callable[..., Tensor] = distill.sample) -> None:
        velocity = distill.student_map(lesson.field, network)
        for steps in COUNTS:
            measure(name, steps, partial(draw, velocity, steps, sample=sample))

    measure("teacher", 1, partial(draw, guided, 1, scale=1.0))  # one forward has no guidance
    for steps in (1, 2, 4, REFERENCE):
        measure("teacher", 2 * steps, partial(draw, guided, steps))

    start = lesson.learn("guidance", model.unet, guided, "guidance")
    one_call = distill.student_map(lesson.field, start)
    measure_all("guidance", start)
    network = start
    for steps in ROUNDS:
        former = distill.student_map(lesson.field, network)
        network = lesson.learn(f"progressive-{steps}", network, former, "progressive", steps=steps)
        velocity = distill.student_map(lesson.field, network)
        measure("progressive", steps, partial(draw, velocity, steps))
    shortcut = lesson.learn("shortcut", start, one_call, "shortcut")
    measure_all("shortcut", shortcut)
    flow_map = lesson.learn("flow_map", start, one_call, "flow_map")
    measure_all("flow_map", flow_map)
    measure_all("consistency", lesson.learn("consistency", start, one_call, "consistency"), distill.sample_renoised)
    measure_all("matching", lesson.match(flow_map, start, guided))

    some = images.pixels[:: len(images) // count]  # of every class
    real = {"as_asked": examiner.real.value, "frechet": examiner.frechet(some)}
    real["diversity"] = examiner.diversity(held_out.pixels, held_out.labels) / spread
    about = {"plan": PLAN, "count": count, "scale": SCALE, "torch": torch.__version__}
    document = {**about, "processor_seconds": lesson.seconds(), "real": real, "curves": curves}
    documents.write_text(out, json.dumps(document, indent=1) + "\n")
    strips = [
        tiled(to_images(torch.cat([parts[steps] for steps in COUNTS]).expand(-1, 3, -1, -1) * 2 - 1), 10 * len(COUNTS))
        for parts in rows.values()
    ]
    tiled(strips, 1).save(sheet)
    page.write_text(report.placed(page.read_text(encoding="utf-8"), "distilled", table(document)), encoding="utf-8")


def table(document: dict[str, Any]) -> str:
    """Markdown: a row for each method, and each measure in 1, 2, 4 and 8 forwards."""
    head = ["forwards", *(str(steps) for _ in MEASURES for steps in COUNTS)]
    lines = [["", *(name if steps == COUNTS[0] else "" for name in MEASURES.values() for steps in COUNTS)], head]
    for method, curve in document["curves"].items():
        numbers = [curve[steps][key] for key in MEASURES for steps in COUNTS]
        places = [PLACES[key] for key in MEASURES for _ in COUNTS]
        cells = [f"{number:.{digits}f}".removeprefix("0") for number, digits in zip(numbers, places, strict=True)]
        lines.append([TITLES[method], *cells])
    written = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([written[0], "|---" * len(head) + "|", *written[1:]]) + "\n"


if __name__ == "__main__":
    tyro.cli(distil)
