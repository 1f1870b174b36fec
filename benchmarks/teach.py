"""Teach `emoji` a word, a subject and one picture, and measure what it learned, and what it forgot.

    python benchmarks/teach.py word --out RUN
    python benchmarks/teach.py lora --out RUN
    python benchmarks/teach.py kept --out RUN --corpus corpus.jsonl.xz
    python benchmarks/teach.py imagic --out RUN
    python benchmarks/teach.py collect --out RUN --result benchmarks/results/teach.json

The subject is drawn by `subjects.py`. "Subject" is the cosine of EfficientNet-Lite0's features with the picture that
was given; its gain is a share of the way from the pictures of the class ("a cup") to the picture after the autoencoder
("ceiling"), the best that this model can do. `kept` is seen R@1 of docs/explanation/scores.md, of one picture for each
of 250 concepts, with and without the LoRA at equal noise. Each part writes its numbers with seconds of the training:
of the clock, and of the processor, which other processes do not change.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

import diffuscope as ds
from diffuscope.clip_score import load_clip_score
from diffuscope.data.foreground import background_word
from diffuscope.data.palette import COLOUR_WORDS
from diffuscope.evaluate import prompts
from diffuscope.evaluate.eval_data import EvalData
from diffuscope.evaluate.generation import Sampling, generate
from diffuscope.evaluate.retrieval import Gallery, features, in_top
from diffuscope.feature_net import load_efficientnet
from diffuscope.finetune import load_imagic, train_imagic, train_lora, train_word
from diffuscope.images import fit_to_size, tiled, to_pixels
from diffuscope.pipeline import Pipeline
from subjects import mug

CLASS, WORD, NAMED = "cup", "<zeb>", "zeb cup"
PRIOR = ("a cup", "a bottle", "a cat", "a car", "a flower", "a house", "a bird", "a face")
TARGET = "a red cup on a yellow background"
SEEDS = range(12)
BACKGROUNDS = tuple(word for word in COLOUR_WORDS if word not in ("white", "cyan"))  # the cup itself is cyan
ETA_SEEDS = range(3)
CONCEPTS = 250


def word(out: Path, steps: int = 300) -> None:
    """Textual inversion of the subject."""
    pipe, feature_net, subject = _begin(out)
    before, texts = _subject(pipe, feature_net, subject, f"a {CLASS}"), ["a red fox", "a cup", ""]
    states = pipe.encode_prompt(texts).embeddings
    with _timed() as times:
        report = train_word(
            pipe, out / "subject.png", out / "word.safetensors", word=WORD, like=CLASS, steps=steps, overwrite=True
        )
    pipe.load_embedding(report.path)
    assert torch.equal(pipe.encode_prompt(texts).embeddings, states)
    after = _subject(pipe, feature_net, subject, f"a {WORD}", out / "word.png")
    asked = [f"a {WORD} on {'an' if colour[0] in 'aeiou' else 'a'} {colour} background" for colour in BACKGROUNDS * 2]
    made = pipe(asked, seed=list(range(100, 100 + len(asked))), upscale=1, batch_size=8).images
    tiled(made, len(BACKGROUNDS)).save(out / "word-backgrounds.png")
    wanted = torch.tensor([COLOUR_WORDS.index(colour) for colour in BACKGROUNDS * 2])
    right = (background_word(_bytes(made)) == wanted).float().mean().item()
    numbers = _gain(pipe, feature_net, subject, before, after) | {"backgrounds": right, "other_prompts": "bit-equal"}
    _write(out / "word.json", numbers | times | {"error": [report.error_before, report.error_after], "steps": steps})


def lora(out: Path, steps: int = 300) -> None:
    """A LoRA of the subject."""
    pipe, feature_net, subject = _begin(out)
    before = _subject(pipe, feature_net, subject, f"a {NAMED}")
    with _timed() as times:
        report = train_lora(
            pipe,
            out / "subject.png",
            out / "lora.safetensors",
            caption=f"a {NAMED}",
            prior=PRIOR,
            steps=steps,
            overwrite=True,
        )
    pipe.load_lora(report.path)
    after = _subject(pipe, feature_net, subject, f"a {NAMED}", out / "lora.png")
    numbers = _gain(pipe, feature_net, subject, before, after) | {"layers": report.layers}
    _write(out / "lora.json", numbers | times | {"error": [report.error_before, report.error_after], "steps": steps})


def kept(out: Path, corpus: Path, feature_net: Path | None = None, steps: int = 6) -> None:
    """Seen R@1 with and without the LoRA, at ``steps`` steps of the sampler."""
    pipe = ds.load("emoji")
    data, network = EvalData.load(corpus, pipe.device), load_efficientnet(feature_net)
    rows = [row for row, picture in enumerate(data.pictures) if picture.concept in {*data.split.concepts}]
    pictures = [data.pictures[row] for row in rows]
    real = features(network, data.images(rows))
    gallery = Gallery(real, [picture.concept for picture in pictures], [picture.style for picture in pictures])
    asked = sorted(prompts.seen(data), key=lambda each: each.text)[:CONCEPTS]
    column = torch.tensor([gallery.index[data.pictures[each.row].concept] for each in asked])
    sampling = Sampling(**{**asdict(Sampling.of(pipe.config.preset)), "num_inference_steps": steps})
    right = {}
    for name in ("without", "with"):
        if name == "with":
            pipe.load_lora(out / "lora.safetensors")
        made = generate(pipe, [each.text for each in asked], range(len(asked)), sampling)
        similarity = gallery.similarity(features(network, made), [each.style for each in asked])
        right[name] = in_top(1, similarity, column)
    lost = (right["without"] & ~right["with"]).sum().item()
    won = (right["with"] & ~right["without"]).sum().item()
    shares = {name: value.float().mean().item() for name, value in right.items()}
    _write(out / "kept.json", {"r1": shares, "lost": lost, "won": won, "pictures": len(asked), "sampler_steps": steps})


def imagic(out: Path, steps: int = 200, embedding_steps: int = 150) -> None:
    """One edit of the subject, and its sweep of eta."""
    pipe, _, subject = _begin(out)
    with _timed() as times:
        report = train_imagic(
            pipe,
            out / "subject.png",
            out / "imagic.safetensors",
            prompt=TARGET,
            steps=steps,
            embedding_steps=embedding_steps,
            overwrite=True,
        )
    edit, towers = load_imagic(pipe, report.path), load_clip_score()
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
        "error": [report.error_before, report.error_embedded, report.error_after],
        "steps": [embedding_steps, steps],
    }
    _write(out / "imagic.json", numbers | times)


def collect(out: Path, result: Path) -> None:
    """All parts in one document."""
    parts = {name: out / f"{name}.json" for name in ("word", "lora", "kept", "imagic")}
    document = {name: json.loads(path.read_text()) for name, path in parts.items() if path.is_file()}
    about = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    result.write_text(json.dumps({"about": about, **document}, indent=1) + "\n")


def _begin(out: Path) -> tuple[Pipeline, Any, Image.Image]:
    out.mkdir(parents=True, exist_ok=True)
    pipe = ds.load("emoji")
    subject = fit_to_size(mug(), pipe.config.preset.width, pipe.config.preset.height)
    subject.save(out / "subject.png")
    return pipe, load_efficientnet(), subject


@contextmanager
def _timed() -> Iterator[dict[str, Any]]:
    times: dict[str, Any] = {"load_before": os.getloadavg()[0]}
    clock, processor = time.monotonic(), time.process_time()
    yield times
    times |= {"seconds": time.monotonic() - clock, "processor_seconds": time.process_time() - processor}
    times["load_after"] = os.getloadavg()[0]


@torch.no_grad()
def _cosines(feature_net: Any, images: list[Image.Image], subject: Image.Image) -> Tensor:
    vectors = [F.normalize(feature_net.features(to_pixels([i]) / 2 + 0.5).pooled, dim=1) for i in [subject, *images]]
    return torch.cat(vectors[1:]) @ vectors[0][0]


def _subject(pipe: Pipeline, feature_net: Any, subject: Image.Image, prompt: str, sheet: Path | None = None) -> float:
    made = pipe([prompt] * len(SEEDS), seed=list(SEEDS), upscale=1, batch_size=6).images
    if sheet is not None:
        tiled(made, 6).save(sheet)
    return _cosines(feature_net, made, subject).mean().item()


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
    tyro.extras.subcommand_cli_from_dict(
        {"word": word, "lora": lora, "kept": kept, "imagic": imagic, "collect": collect}
    )
