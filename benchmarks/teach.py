r"""Teach `emoji` a word, a subject and one picture, and measure what it learned, and what it forgot.

    python benchmarks/teach.py --out RUN --corpus corpus.jsonl.xz --result benchmarks/results/teach.json \
        --images docs/images

The subject is drawn by `subjects.py`. "Subject" is the cosine of EfficientNet-Lite0's features with the picture that
was given; its gain is a share of the way from the pictures of the class ("a cup") to the picture after the autoencoder
("ceiling"), the best that this model can do. `kept` is seen.clip of docs/explanation/scores.md: of one picture for each
of 250 concepts, whether its own caption is the nearest of 250; with and without the LoRA, at equal noise. A part whose
file is in RUN is measured, and not trained again; one whose numbers are there is not measured again. Seconds are those
of the training: of the clock, and of the processor, which other processes change less. Nothing is left out of the
sheets, `taught-word.jpg`, `taught-lora.jpg` and `taught-imagic.jpg`.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

import diffuscope as ds
from diffuscope.data.compose import Canvas
from diffuscope.data.corpus import Corpus
from diffuscope.data.foreground import background_word
from diffuscope.data.palette import COLOUR_WORDS
from diffuscope.data.split import split
from diffuscope.evaluate import prompts
from diffuscope.evaluate.eval_data import EvalData
from diffuscope.evaluate.generation import Sampling, generate
from diffuscope.finetune import load_imagic, train_imagic, train_lora, train_word
from diffuscope.images import fit_to_size, tiled, to_pixels
from diffuscope.pipeline import Pipeline
from diffuscope.vision.clip_score import load_clip_score
from diffuscope.vision.feature_net import load_efficientnet
from subjects import mug

CLASS, WORD, NAMED = "cup", "<zeb>", "zeb cup"
PRIOR = ("a cup", "a bottle", "a cat", "a car", "a flower", "a house", "a bird", "a face")
OTHERS = (
    "a red fox",
    "a slice of pizza",
    "a house",
    "a dog",
    "a green car",
    "a cup",
    "two cherries",
    "a rocket on a blue background",
)
TARGET = "a red cup on a yellow background"
SEEDS = range(8)
BACKGROUNDS = tuple(word for word in COLOUR_WORDS if word not in ("white", "cyan"))  # the cup itself is cyan
ETA_SEEDS = range(3)
CONCEPTS = 250
KEPT_STEPS = 4
"""Of the sampler, for the 500 pictures of `kept`, which are made in bfloat16."""

Part = Literal["word", "lora", "imagic", "kept-without", "kept-with"]


def teach(
    *, out: Path, corpus: Path, result: Path, images: Path | None = None, parts: tuple[Part, ...] = get_args(Part)
) -> None:
    """Measure the parts that have no numbers yet, and write the document of all that have.

    Args:
        out: folder of the runs.
        corpus: of `diffuscope data build`, for the captions of `kept`.
        result: JSON file.
        images: folder of the sheets, of the parts that have numbers.
        parts: what to measure now.
    """
    measures: dict[Part, Callable[[], None]] = {
        "word": lambda: word(out),
        "lora": lambda: lora(out),
        "imagic": lambda: imagic(out),
        "kept-without": lambda: kept(out, corpus, lora=False),
        "kept-with": lambda: kept(out, corpus, lora=True),
    }
    for part in parts:
        if not (out / f"{part}.json").exists():
            measures[part]()
    collect(out, result)
    if images is not None:
        sheets(out, images)


def word(out: Path) -> None:
    """Textual inversion of the subject."""
    pipe, feature_net, subject = _begin(out)
    before, texts = _subject(pipe, feature_net, subject, f"a {CLASS}"), ["a red fox", "a cup", ""]
    states = pipe.encode_prompt(texts).embeddings
    path = out / "word.safetensors"
    times = _trained(path, lambda: train_word(pipe, out / "subject.png", path, word=WORD, like=CLASS))
    pipe.load_embedding(path, word=WORD)
    assert torch.equal(pipe.encode_prompt(texts).embeddings, states)
    after = _subject(pipe, feature_net, subject, f"a {WORD}", out / "word.png")
    asked = [f"a {WORD} on {'an' if colour[0] in 'aeiou' else 'a'} {colour} background" for colour in BACKGROUNDS]
    made = pipe(asked, seed=list(range(100, 100 + len(asked))), upscale=1, batch_size=8).images
    tiled(made, len(BACKGROUNDS)).save(out / "word-backgrounds.png")
    wanted = torch.tensor([COLOUR_WORDS.index(colour) for colour in BACKGROUNDS])
    right = (background_word(_bytes(made)) == wanted).float().mean().item()
    numbers = _gain(pipe, feature_net, subject, before, after) | {"backgrounds": right, "other_prompts": "bit-equal"}
    _write(out / "word.json", numbers | times)


def lora(out: Path) -> None:
    """A LoRA of the subject."""
    pipe, feature_net, subject = _begin(out)
    before = _subject(pipe, feature_net, subject, f"a {NAMED}")
    _others(pipe).save(out / "lora-without.png")
    path = out / "lora.safetensors"
    times = _trained(path, lambda: train_lora(pipe, out / "subject.png", path, caption=f"a {NAMED}", prior=PRIOR))
    pipe.load_lora(path)
    after = _subject(pipe, feature_net, subject, f"a {NAMED}", out / "lora.png")
    _others(pipe).save(out / "lora-with.png")
    numbers = _gain(pipe, feature_net, subject, before, after)
    _write(out / "lora.json", numbers | times)


def kept(out: Path, corpus: Path, *, lora: bool) -> None:
    """Which of the seen concepts are the nearest of 250 to their pictures, without the LoRA or with it."""
    pipe, towers = ds.load("emoji", dtype="bfloat16"), load_clip_score()
    everything = Corpus.load(corpus)
    data = EvalData(everything.pictures, Canvas(*[torch.zeros(0)] * 2), split(everything), everything.hash, {}, ())
    asked = sorted(prompts.seen(data), key=lambda each: each.text)[:CONCEPTS]
    sampling = Sampling(**{**asdict(Sampling.of(pipe.config.preset)), "num_inference_steps": KEPT_STEPS})
    if lora:
        pipe.load_lora(out / "lora.safetensors")
    made = generate(pipe, [each.text for each in asked], range(len(asked)), sampling)
    with torch.no_grad():
        vectors = torch.cat([towers.encode_images(part.float() / 255) for part in made.split(50)])
    styles = {each.style for each in asked}
    captions = {style: towers.encode_texts(prompts.concept_captions(data, style)) for style in styles}
    concepts = [data.pictures[each.row].concept for each in asked]
    best = [int((captions[each.style] @ one).argmax()) for each, one in zip(asked, vectors, strict=True)]
    nearest = [data.split.concepts[place] for place in best]
    right = [found == concept for found, concept in zip(nearest, concepts, strict=True)]
    _write(out / f"kept-{'with' if lora else 'without'}.json", {"right": right})


def imagic(out: Path) -> None:
    """One edit of the subject, and its sweep of eta."""
    pipe, _, subject = _begin(out)
    path = out / "imagic.safetensors"
    times = _trained(path, lambda: train_imagic(pipe, out / "subject.png", path, prompt=TARGET))
    edit, towers = load_imagic(pipe, path), load_clip_score()
    etas = [i / 10 for i in range(11)]
    rows = [edit.sweep(etas, seed=seed, upscale=1) for seed in ETA_SEEDS]
    tiled([image for row in rows for image in row], len(etas)).save(out / "imagic.png")
    with torch.no_grad():
        asked = torch.stack([towers(row, TARGET)[:, 0] for row in rows])
    exact = to_pixels([subject])
    psnr = [-10 * ((to_pixels([row[0]]) - exact) / 2).square().mean().log10().item() for row in rows]
    numbers: dict[str, Any] = {
        "psnr_eta_0": sum(psnr) / len(psnr),
        "psnr_autoencoder": -10 * ((to_pixels(_round_trip(pipe, subject)) - exact) / 2).square().mean().log10().item(),
        "spearman": spearmanr(etas, asked.mean(0).numpy()).statistic,
        "target_asked": asked.mean(0).tolist(),
        "target": TARGET,
    }
    _write(out / "imagic.json", numbers | times)


def collect(out: Path, result: Path) -> None:
    """All parts that have numbers, in one document."""
    paths = {part: out / f"{part}.json" for part in get_args(Part)}
    known = {part: json.loads(path.read_text()) for part, path in paths.items() if path.exists()}
    document = {name: numbers for name, numbers in known.items() if not name.startswith("kept")}
    if {"kept-without", "kept-with"} <= known.keys():
        before, after = (known[name]["right"] for name in ("kept-without", "kept-with"))
        pairs = [*zip(before, after, strict=True)]
        document["kept"] = {
            "r1_without": sum(before) / len(before),
            "r1_with": sum(after) / len(after),
            "lost": sum(one and not other for one, other in pairs),
            "won": sum(other and not one for one, other in pairs),
            "pictures": len(pairs),
            "sampler_steps": KEPT_STEPS,
        }
    about = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    result.write_text(json.dumps({"about": about, **document}, indent=1) + "\n")


def sheets(out: Path, images: Path) -> None:
    """The pictures of each part that has numbers, one row or more below the other, on one sheet."""
    rows = {
        "word": ("word", "word-backgrounds"),
        "lora": ("lora", "lora-with", "lora-without"),
        "imagic": ("imagic",),
    }
    for part, names in rows.items():
        if (out / f"{part}.json").exists():
            strips = [Image.open(out / f"{name}.png") for name in names]
            sheet = Image.new("RGB", (max(each.width for each in strips), sum(each.height for each in strips)), "white")
            for k, strip in enumerate(strips):
                sheet.paste(strip, (0, sum(each.height for each in strips[:k])))
            sheet.save(images / f"taught-{part}.jpg", quality=88)


def _begin(out: Path) -> tuple[Pipeline, Any, Image.Image]:
    out.mkdir(parents=True, exist_ok=True)
    pipe = ds.load("emoji")
    subject = fit_to_size(mug(), pipe.config.preset.width, pipe.config.preset.height)
    subject.save(out / "subject.png")
    return pipe, load_efficientnet(), subject


def _trained(path: Path, train: Callable[[], object]) -> dict[str, Any]:
    """How long the training took, which is left out where its file is there already."""
    noted = path.with_suffix(".times.json")
    if not path.exists():
        load, clock, processor = os.getloadavg()[0], time.monotonic(), time.process_time()
        report = train()
        passed = {"seconds": time.monotonic() - clock, "processor_seconds": time.process_time() - processor}
        _write(noted, passed | {"load": [load, os.getloadavg()[0]], "report": str(report).removeprefix(f"{path}: ")})
    return json.loads(noted.read_text())


@torch.no_grad()
def _cosines(feature_net: Any, images: list[Image.Image], subject: Image.Image) -> Tensor:
    vectors = [F.normalize(feature_net.features(to_pixels([i]) / 2 + 0.5).pooled, dim=1) for i in [subject, *images]]
    return torch.cat(vectors[1:]) @ vectors[0][0]


def _subject(pipe: Pipeline, feature_net: Any, subject: Image.Image, prompt: str, sheet: Path | None = None) -> float:
    made = pipe([prompt] * len(SEEDS), seed=list(SEEDS), upscale=1, batch_size=4).images
    if sheet is not None:
        tiled(made, 8).save(sheet)
    return _cosines(feature_net, made, subject).mean().item()


def _others(pipe: Pipeline) -> Image.Image:
    return tiled(pipe(list(OTHERS), seed=list(range(len(OTHERS))), upscale=1, batch_size=4).images, len(OTHERS))


def _gain(pipe: Pipeline, feature_net: Any, subject: Image.Image, before: float, after: float) -> dict[str, float]:
    ceiling = _cosines(feature_net, _round_trip(pipe, subject), subject).item()
    gain = (after - before) / (ceiling - before)
    return {"before": before, "after": after, "ceiling": ceiling, "gain": gain}


def _round_trip(pipe: Pipeline, picture: Image.Image) -> list[Image.Image]:
    return pipe.decode(pipe.encode_image(picture, sample=False))


def _bytes(images: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def _write(path: Path, numbers: dict[str, Any]) -> None:
    path.write_text(json.dumps(numbers, indent=1) + "\n")
    print(path, json.dumps(numbers))


if __name__ == "__main__":
    tyro.cli(teach)
