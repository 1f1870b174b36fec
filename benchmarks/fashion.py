r"""Train the model of Fashion-MNIST at full length, and measure it as the course does: FIDs by a classifier's features.

    python benchmarks/fashion.py --folder FASHION --run RUN --out benchmarks/results/fashion.json \
        --sheet docs/images/fashion.png

FASHION has the four files of Debian's package dataset-fashion-mnist. A run that was interrupted resumes. The
classifier is trained on the training pictures alone; its accuracy on the test pictures stands beside. Each distance is
of 2,048 pictures, as the course's, without guidance and equally many of each class, to 2,048 test pictures; the floor
is that of 2,048 other test pictures. Only ratios to the floor are compared: distances depend on the classifier, and on
the number of pictures.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from diffuscope.bench import report
from diffuscope.data.digits import DEBIAN, LabelledImages, load_fashion
from diffuscope.evaluate.scenes import Reference, interval
from diffuscope.images import tiled, to_images
from diffuscope.loading import choose_device
from diffuscope.recipes.digits import examine, fashion, of_length, train_pixels
from diffuscope.training.loop import LoopConfig, StepContext, train
from diffuscope.training.pixels import PixelTraining, augment
from diffuscope.vision.classifier import Classifier, ClassifierConfig
from diffuscope.weights.store import documents

COURSE = {("lms", 20): 5.06 / 2.57, ("ddim", 100): 7.96 / 2.57, ("ddim", 50): 11.15 / 2.57}
"""Sampler and steps -> the course's ratio to the floor, from its own classifier and models, best first."""

COUNT, AT_ONCE = 2048, 512


class ClassifierTask:
    """The task of ``loop.train`` for a classifier of small grey pictures, shifted by up to two pixels."""

    adamw_prefixes: tuple[str, ...] = ("conv_in", "fc")

    def __init__(self, network: Classifier, images: LabelledImages, held_out: LabelledImages, batch: int) -> None:
        self.network: nn.Module = network
        self.images, self.held_out, self.batch = images, held_out, batch
        self.training = PixelTraining(batch_size=batch, shift=2, rotation=0.0)

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the next batch."""
        batch = self.images[context.rows_on(self.images.labels.device, self.batch, len(self.images))]
        pixels = augment(batch.pixels, self.training, context.generator)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
            logits = self.network(coloured(pixels))
        return F.cross_entropy(logits.float(), batch.labels, label_smoothing=0.1), {}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Accuracy on held-out pictures."""
        right = outputs(network, self.held_out.pixels).argmax(1) == self.held_out.labels
        return {"accuracy": right.double().mean().item()}


def coloured(pixels: Tensor) -> Tensor:
    """[B,3,H,W] in [-1,1] from grey pixels [B,1,H,W] in [0,1]."""
    return (pixels * 2 - 1).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def outputs(network: nn.Module, pixels: Tensor) -> Tensor:
    """[B,K] what the network says of all pictures."""
    return torch.cat([network(coloured(part)) for part in pixels.split(AT_ONCE)])


def main(
    *,
    run: Path,
    out: Path,
    sheet: Path,
    folder: Path = DEBIAN,
    seconds: float = 600.0,
    device: str = "auto",
    is_tiny: bool = False,
) -> None:
    """Train, draw, measure.

    Args:
        run: folder of the runs.
        out: JSON file.
        sheet: PNG file: twenty pictures of each sampler, twice as large, the same classes and seeds in each row.
        folder: of Fashion-MNIST's four files.
        seconds: of the model's training.
        device: auto, cpu, cuda.
        is_tiny: two steps, small networks, few pictures.
    """
    place = choose_device(device)
    images, held_out = load_fashion(folder)
    recipe = of_length(fashion(), seconds=seconds)
    channels, batch, steps, count = (64, 128, 256, 512), 512, 1500, COUNT
    if is_tiny:
        unet, preset = replace(recipe.unet, channels=(8, 16)), replace(recipe.preset, num_inference_steps=2)
        recipe = replace(recipe, unet=unet, preset=preset, training=PixelTraining(batch_size=4, rotation=0.0))
        recipe = of_length(recipe, steps=2)
        channels, batch, steps, count = (8, 16), 4, 2, 20
    model = train_pixels(recipe, images, held_out, run / "model", place)
    exam = examine(model, images, held_out, run / "model", 1000 if not is_tiny else 20)

    torch.manual_seed(0)
    network = Classifier(ClassifierConfig(classes=10, channels=channels)).to(place)
    task = ClassifierTask(network, images.to(place), held_out.to(place), batch)
    loop = LoopConfig(lr=2e-3, weight_decay=0.05, steps=steps, warmup_steps=100, save_every=float("inf"))
    classifier = train(task, loop, run / "classifier")
    accuracy = task.validate(classifier)["accuracy"]
    assert isinstance(classifier, Classifier)
    classifier.fc = nn.Identity()  # type: ignore[assignment]  # what it says now are features

    reference = Reference(outputs(classifier, task.held_out.pixels[:count]))
    floor = reference.distance(outputs(classifier, task.held_out.pixels[count : 2 * count]))
    labels = torch.arange(count) % 10
    rows, strips = [], []
    for (sampler, sampler_steps), ratio in COURSE.items():
        asked = {"sampler": sampler, "num_inference_steps": sampler_steps if not is_tiny else 2, "guidance_scale": 1.0}
        parts = [model.sample(part.tolist(), seed=AT_ONCE * k, **asked) for k, part in enumerate(labels.split(AT_ONCE))]
        pixels = torch.cat(parts)
        found = interval(reference.distances(outputs(classifier, pixels)), count)
        row = {
            "sampler": sampler,
            "steps": sampler_steps,
            "distance": found.value,
            "low": found.low,
            "high": found.high,
        }
        rows.append(row | {"over the floor": found.value / floor, "the course's": ratio})
        strips.append(pixels[:20])
        print(rows[-1], flush=True)
    larger = F.interpolate(torch.cat(strips), scale_factor=2)
    tiled(to_images(larger.expand(-1, 3, -1, -1) * 2 - 1), 20).save(sheet)
    distances = [row["distance"] for row in rows]
    document = report.head(place, torch.bfloat16, report.this_command()) | {
        "images": count,
        "read as asked": exam.as_asked.value,
        "copied": exam.memorised,
        "classifier's accuracy on test pictures": accuracy,
        "floor": floor,
        "samplers": rows,
        "the course's order": distances == sorted(distances),
    }
    documents.write_text(out, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
