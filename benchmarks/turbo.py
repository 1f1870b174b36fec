"""Distil `emoji` into few steps, and measure the student against its teacher on held-out scenes.

    python benchmarks/turbo.py scenes --corpus corpus.jsonl.xz --feature-net F --out SCENES
    python benchmarks/turbo.py record --scenes SCENES --out RUN
    python benchmarks/turbo.py train --out RUN
    python benchmarks/turbo.py sample --scenes SCENES --out RUN --settings teacher-50 student-4 difference-4
    python benchmarks/turbo.py decode --scenes SCENES --feature-net F --classifier C --latents RUN/*-0.latents
    python benchmarks/turbo.py compare --scenes SCENES --teacher RUN/teacher-50.features --others RUN/*.features

`scenes` writes captions and the features of real scenes, `record` and `train` run `recipes.turbo`, `sample` writes
latents of the held-out captions, `decode` turns these into features, and `compare` writes the numbers as JSON.
`record`, `train` and `sample` also run under torchrun. A setting is MODEL-STEPS, MODEL-STEPS-wSCALE or
MODEL-STEPS-SAMPLER: the guided teacher, the student, or the student as it ships, a packed `difference`; scale 2.5 and
DDIM unless stated. With `--is-tiny` the networks are tiny and random, and there are 20 steps.
"""

import copy
import json
import math
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import tyro
from torch import Tensor

from diffuscope.config import EMOJI, TextEncoderConfig, UNetConfig
from diffuscope.data.captions import COUNTS
from diffuscope.data.sprites import sprite_sampler
from diffuscope.diffusion.samplers.table import find
from diffuscope.diffusion.schedules import Schedule
from diffuscope.distill.objectives import Velocity
from diffuscope.distill.task import Field, encode_texts
from diffuscope.distill.trajectories import Trajectories, student_inputs
from diffuscope.errors import InputError
from diffuscope.evaluate import scenes as measures
from diffuscope.evaluate.classifier import predict, read_classifier
from diffuscope.evaluate.retrieval import features
from diffuscope.evaluate.scores import device_name
from diffuscope.loading import choose_device, load_components, load_part
from diffuscope.model_files import shipped_models
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.recipes import stages
from diffuscope.recipes.turbo import STUDENT, TurboRecipe, record_trajectories, student_of, train_turbo, turbo
from diffuscope.training import distributed
from diffuscope.vision.feature_net import load_efficientnet
from diffuscope.weights.store import difference, documents, files, headers, packing

PROMPTS, SEEDS = 125, 8  # for diversity
SETTING = re.compile(r"(teacher|student|difference)-(\d+)(?:-w([\d.]+)|-([a-z]\w*))?")
DIFFERENCE = "difference.safetensors"
FILES = {"student": STUDENT, "difference": DIFFERENCE}
COUNTED = set(COUNTS.values())
TEACHER_FOLDER = shipped_models()["emoji"]


def scenes(
    *,
    corpus: Path,
    feature_net: Path,
    out: Path,
    train: int = 60_000,
    count: int = 5000,
    size: int = 128,
    device: str = "auto",
) -> None:
    """Captions to train on, captions of held-out scenes, features of these scenes and of other held-out ones.

    Args:
        corpus: the file that `diffuscope data build` wrote.
        feature_net: EfficientNet-Lite0's weights.
        out: folder.
        train: scenes to train on, two captions each.
        count: held-out scenes in each set.
        size: pixels of the pictures.
        device: auto, cpu, cuda.
    """
    place = choose_device(device)
    data = stages.Dataset.load(corpus, place, size)
    learned = data.scenes(train, 303, "text")
    tones, recolourable = data.canvas.tones.cpu().numpy(), data.recolourable.cpu().numpy()
    sampler = sprite_sampler(data.corpus, data.split, tones, recolourable, train=False)
    asked, others = (
        measures.held_out_scenes(sampler, data.corpus.pictures, data.split, count, seed) for seed in (101, 102)
    )
    network = load_efficientnet(feature_net).to(place)
    real = {
        name: features(network, measures.real_images(data.canvas, part)).cpu()
        for name, part in (("asked", asked), ("others", others))
    }
    out.mkdir(parents=True, exist_ok=True)
    files.write(out / "real.safetensors", real)
    captions = {
        "corpus": data.corpus.hash,
        "split": data.split.hash,
        "train": [text for pair in learned.captions for text in pair],
        "asked": [pair[0] for pair in asked.captions],
    }
    documents.write_text(out / "captions.json", json.dumps(captions, ensure_ascii=False))


def record(
    *,
    scenes: Path,
    out: Path,
    seconds: float = 100.0,
    count: int = 0,
    counting: float = 0.0,
    seed: int = 0,
    is_tiny: bool = False,
    device: str = "auto",
) -> None:
    """Run the guided teacher for the training captions.

    Args:
        scenes: folder that `scenes` wrote.
        out: folder of the run, created if it does not exist.
        seconds: of recording.
        count: most texts; 0 is no limit.
        counting: part of the texts that count things, which are drawn again and again; 0 leaves them as they are.
        seed: of the texts' order and of the noise.
        is_tiny: tiny networks.
        device: auto, cpu, cuda.
    """
    out.mkdir(parents=True, exist_ok=True)
    stages.prefer_speed()
    captions = json.loads((scenes / "captions.json").read_text(encoding="utf-8"))
    with distributed.process_group(choose_device(device)) as place:
        recipe, teacher, text_encoder = networks(place, is_tiny=is_tiny)
        chance, texts = random.Random(seed), captions["train"]
        if counting:
            some = [text for text in texts if not COUNTED.isdisjoint(text.split())]
            texts = [text for text in texts if COUNTED.isdisjoint(text.split())]
            texts += chance.choices(some, k=round(len(texts) * counting / (1 - counting)))
        chance.shuffle(texts)
        own = texts[distributed.rank() :: distributed.world_size()][: count or None]
        encode = Tokenizer().encode
        ids = encode(own), encode(captions["asked"][:256]), encode("")[0]
        learned, held_out = record_trajectories(recipe, teacher, text_encoder, ids, seconds, seed)
        kinds = {"learned": learned, "held_out": held_out}
        tensors = {f"{kind}.{name}": value.cpu() for kind, part in kinds.items() for name, value in vars(part).items()}
        files.write(out / f"trajectories-{distributed.rank()}.safetensors", tensors)
        print(f"{len(tensors['learned.ids'])} trajectories", flush=True)


def train(
    *,
    out: Path,
    seconds: float = 320.0,
    initial: Path | None = None,
    rounded_from: float | None = None,
    is_tiny: bool = False,
    device: str = "auto",
) -> None:
    """Distil the recorded trajectories, and pack the student's difference from its teacher.

    Args:
        out: folder of the run, in which `record` left trajectories.
        seconds: of training.
        initial: a student or its difference to go on from. It may be of another teacher: it is added to this one.
        rounded_from: completed part of the run from which weights are rounded; the recipe's, and 0 with ``initial``.
        is_tiny: tiny networks, 20 steps.
        device: auto, cpu, cuda.
    """
    stages.prefer_speed()
    with distributed.process_group(choose_device(device)) as place:
        recipe, teacher, text_encoder = networks(place, is_tiny=is_tiny)
        if not is_tiny:
            recipe = replace(recipe, loop=replace(recipe.loop, seconds=seconds))
        tensors = files.read(out / f"trajectories-{distributed.rank()}.safetensors")
        learned, held_out = (
            Trajectories(*(tensors[f"{kind}.{name}"].to(place) for name in ("states", "scales", "ids")))
            for kind in ("learned", "held_out")
        )
        begun = None if initial is None else stages.to_device(student_from(initial, teacher), place)
        if rounded_from is not None or begun is not None:
            recipe = replace(recipe, rounded_from=rounded_from or 0.0)
        student = train_turbo(recipe, teacher, text_encoder, (learned, held_out), out, begun)
        if distributed.rank() == 0:
            difference.write(out / DIFFERENCE, student.state_dict(), teacher.state_dict())


def sample(
    *, scenes: Path, out: Path, settings: tuple[str, ...], count: int | None = None, device: str = "auto"
) -> None:
    """Latents of the held-out captions, of the teacher or of the student that `train` left.

    Args:
        scenes: folder that `scenes` wrote.
        out: folder of the run.
        settings: such as teacher-50, teacher-4-unipc, student-4, difference-12-w4.
        count: fewer captions, only to try things.
        device: auto, cpu, cuda.
    """
    stages.prefer_speed()
    captions = json.loads((scenes / "captions.json").read_text(encoding="utf-8"))["asked"][:count]
    with distributed.process_group(choose_device(device)) as place:
        teacher, text_encoder = shipped()
        text_encoder = text_encoder.to(place)
        for name in settings:
            kind = name.split("-")[0]
            unet = teacher if kind == "teacher" else student_from(out / FILES[kind], teacher)
            write_latents(out, name, stages.to_device(unet, place), text_encoder, Tokenizer().encode(captions))


def student_from(path: Path, teacher: UNet) -> UNet:
    """A student, whole or stored as a difference from the teacher, where the teacher is."""
    student, header = student_of(teacher), headers.read_header(path)
    base = {name: value.cpu() for name, value in teacher.state_dict().items()}
    is_whole = not difference.is_difference(header)
    student.load_state_dict(
        packing.read(path) if is_whole else difference.restore(files.read(path), header.metadata, base)
    )
    return student.requires_grad_(True)


def shipped() -> tuple[UNet, TextEncoder]:
    """The shipped networks, float32, on the CPU."""
    cpu = torch.device("cpu")
    unet, text_encoder = (load_part(TEACHER_FOLDER, part, cpu, torch.float32) for part in ("unet", "text_encoder"))
    assert isinstance(unet, UNet)
    assert isinstance(text_encoder, TextEncoder)
    return unet, text_encoder


def networks(place: torch.device, *, is_tiny: bool) -> tuple[TurboRecipe, UNet, TextEncoder]:
    """Recipe, teacher and text encoder, on the device."""
    recipe, teacher, text_encoder = tiny(turbo()) if is_tiny else (turbo(), *shipped())
    return recipe, stages.to_device(teacher, place), text_encoder.to(place)


def tiny(recipe: TurboRecipe) -> tuple[TurboRecipe, UNet, TextEncoder]:
    """Random networks of the same kind, 20 steps."""
    unet = UNetConfig(channels=(8, 8), blocks=1, depth=(1, 0), heads=(1, 1), context_dim=16, norm_groups=4)
    text = TextEncoderConfig(width=16, layers=1, heads=2, hidden=32)
    torch.manual_seed(0)
    loop = replace(recipe.loop, seconds=None, steps=20)
    model, recording = replace(EMOJI, unet=unet, text_encoder=text), replace(recipe.recording, chunk=32)
    recipe = replace(recipe, model=model, recording=recording, batch_size=32, loop=loop)
    return recipe, UNet(unet), TextEncoder(text)


@torch.no_grad()
def write_latents(folder: Path, name: str, unet: UNet, text_encoder: TextEncoder, ids: Tensor) -> None:
    """This process's share of the latents of all texts, and of the first ones with several seeds, as int8."""
    match = SETTING.fullmatch(name)
    if match is None:
        raise InputError("settings", name, "teacher-50, teacher-4-unipc, student-4, difference-12-w4 ...")
    steps, scale, sampler, is_teacher = int(match[2]), float(match[3] or 2.5), match[4] or "ddim", match[1] == "teacher"
    place = unet.conv_in.weight.device
    network = copy.deepcopy(unet).bfloat16() if place.type == "cuda" else unet
    velocity = Field(Schedule(EMOJI.schedule), place)
    again = ids[:PROMPTS].repeat_interleave(SEEDS, 0)
    every = torch.cat([ids, again]).to(place)
    shape = (len(every), unet.config.in_channels, 16, 16)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(100)).to(place)
    rows = slice(distributed.rank(), None, distributed.world_size())
    texts = encode_texts(text_encoder, Tokenizer().encode("").to(place))
    parts = []
    for part, start in zip(every[rows].split(1024), noise[rows].split(1024), strict=True):
        text = encode_texts(text_encoder, part)
        if is_teacher:
            step = partial(velocity.guided, network, texts=(text, texts), scale=scale)
        else:
            numbers = torch.full((len(part),), scale, device=place), torch.full((len(part),), steps, device=place)
            step = partial(velocity, network, text=text, extra=student_inputs(velocity, *numbers))
        parts.append(sampled(velocity, step, start, sampler, steps).cpu())
    latents = torch.cat(parts)
    unit = latents.abs().max() / 127
    calls = steps * (2 if is_teacher and scale != 1 else 1)
    setting = {"steps": steps, "guidance_scale": scale, "sampler": sampler, "calls": calls, "texts": len(ids)}
    setting |= {"world": distributed.world_size(), "machine": device_name(place)}
    tensors = {"latents": (latents / unit).round().to(torch.int8), "unit": unit}
    files.write(folder / f"{name}-{distributed.rank()}.latents", tensors, {"setting": json.dumps(setting)})


def sampled(velocity: Field, step: Velocity, noise: Tensor, name: str, steps: int) -> Tensor:
    """Latents of a sampler of the library on the model's noise levels, where its Denoiser is a velocity."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        phi = torch.tensor(math.atan(sigma), device=x.device)
        z = x * phi.cos()
        return z * phi.cos() - step(z, phi) * phi.sin()

    info = find(name).info
    levels = velocity.schedule.levels(steps, sampler=info.name)
    *_, last = info.function(denoise, noise * math.hypot(1, levels.sigmas[0]), levels.sigmas, noise=None)
    return last.x


def decode(
    *, scenes: Path, feature_net: Path, classifier: Path, latents: tuple[Path, ...], device: str = "auto"
) -> None:
    """From `NAME-0.latents`, `NAME-1.latents`, ... to `NAME.features`, beside them.

    Args:
        scenes: folder that `scenes` wrote.
        feature_net: EfficientNet-Lite0's weights.
        classifier: whose answers are kept; of the same split.
        latents: the first file of each setting, `NAME-0.latents`.
        device: auto, cpu, cuda.
    """
    place = choose_device(device)
    stages.prefer_speed()
    vae = load_components("emoji", place, "float32").vae
    network = load_efficientnet(feature_net).to(place)
    judge, split_hash, _ = read_classifier(classifier)
    if (asked := json.loads((scenes / "captions.json").read_text(encoding="utf-8"))["split"]) != split_hash:
        raise InputError("classifier", split_hash, f"one of the split {asked}")
    judge = judge.to(place)
    for path in latents:
        setting = json.loads(headers.read_header(path).metadata["setting"])
        world = setting["world"]
        parts = [files.read(path.with_name(path.name.replace("-0.", f"-{i}."))) for i in range(world)]
        values = torch.empty(sum(len(part["latents"]) for part in parts), *parts[0]["latents"].shape[1:])
        for i, part in enumerate(parts):
            values[i::world] = part["latents"].float() * part["unit"]
        found, answers, kept = [], [], []
        for images in decoded(vae, values.to(place)):
            found.append(features(network, images))
            answers.append(predict(judge, images))
            kept.append(images.cpu())
        count = setting["texts"]
        tensors = {
            "features": torch.cat(found)[:count],
            "again": torch.cat(found)[count:].view(-1, SEEDS, found[0].shape[1]),
            "classes": torch.cat(answers)[:count],
            "images": torch.cat(kept)[:1000],
        }
        out = path.with_name(path.name.removesuffix("-0.latents") + ".features")
        files.write(out, tensors, {"setting": json.dumps({"name": out.stem, **setting})})
        print(out, flush=True)


@torch.no_grad()
def decoded(vae: VAE, latents: Tensor) -> Iterator[Tensor]:
    """[B,3,H,W] uint8 pictures, some at a time."""
    for part in latents.split(100):
        yield ((vae.decode(part / vae.config.scale) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def compare(
    *, scenes: Path, teacher: Path, others: tuple[Path, ...], out: Path, resamples: int = 200, device: str = "auto"
) -> None:
    """Every measure of each setting against the teacher's.

    Args:
        scenes: folder that `scenes` wrote.
        teacher: features of the teacher.
        others: features of students and other settings.
        out: JSON file to write.
        resamples: for intervals.
        device: auto, cpu, cuda.
    """
    place = choose_device(device)
    real = {name: value.to(place) for name, value in files.read(scenes / "real.safetensors").items()}
    reference = measures.Reference(real["others"])
    floor = reference.distances(real["asked"], resamples)
    captions = len(real["asked"])
    best = files.read(teacher)
    above = reference.distances(best["features"].to(place), resamples) - floor
    spread = measures.diversity(best["again"]).mean()
    table = []
    for path in (teacher, *others):
        own = files.read(path)
        distances = reference.distances(own["features"].to(place), resamples)
        row: dict[str, object] = json.loads(headers.read_header(path).metadata["setting"])
        row["fd.scenes"] = vars(measures.interval(distances, captions))
        row["less floor"] = vars(measures.interval(distances - floor, captions))
        row["over the teacher's"] = vars(measures.interval((distances - floor) / above, captions))
        row["kd"] = measures.kernel_distance(own["features"].to(place), real["others"])
        row["diversity"] = (measures.diversity(own["again"]).mean() / spread).item()
        row["psnr"] = measures.psnr(own["images"], best["images"]).mean().item()
        row["agree"] = (own["classes"] == best["classes"]).double().mean().item()
        table.append(row)
        print(json.dumps(row), flush=True)
    document = {
        "captions": captions,
        "floor": vars(measures.interval(floor, captions)),
        "floor kd": measures.kernel_distance(real["asked"], real["others"]),
        "settings": table,
        "torch": torch.__version__,
        "command": " ".join(sys.argv),
    }
    documents.write_text(out, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"scenes": scenes, "record": record, "train": train, "sample": sample, "decode": decode, "compare": compare}
    )
