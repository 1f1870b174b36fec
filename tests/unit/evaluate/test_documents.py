"""What is written about scores speaks of the measures that exist."""

import re
from pathlib import Path

import pytest

from diffuscope.evaluate import report

ROOT = Path(__file__).parents[3]


def test_every_measure_is_defined():
    text = (ROOT / "docs/explanation/scores.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+\.[a-z0-9_]+)`", text))
    assert set(report.TITLES) <= named


@pytest.mark.parametrize("name", ["docs/model-card.md", "README.md"])
def test_documents_ask_for_scores_that_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    places = re.findall(r"<!-- score ([a-z0-9_.]+) \\?\|", text)
    assert places
    assert set(places) <= set(report.TITLES)
    sources = {"real": 1.0, "through the VAE": 2.0, "guidance 4": 0.5, "guidance 5": 0.4}
    scores = [
        {"measure": measure, "source": source, "value": value, "low": value, "high": value}
        for measure in report.TITLES
        for source, value in sources.items()
    ]
    document = {
        "scores": scores,
        "preset": {"guidance_scale": 4.0, "sampler": "ddim", "num_inference_steps": 8},
        "model": {"name": "emoji", "weights": {"unet": "0" * 64}, "dtype": "float32"},
        "split": "0",
        "corpus": "0",
        "machine": "cpu",
    }
    filled = report.fill(text, document)
    assert "not yet measured" not in filled
    assert report.fill(filled, document) == filled


def test_a_document_of_the_autoencoder_alone_fills_its_own_places():
    score = {"measure": "vae.psnr", "source": "through the VAE", "value": 35.07, "low": 34.67, "high": 35.49}
    text = (
        "<!-- score vae.psnr | through the VAE -->?<!-- /score --> "
        "<!-- score seen.r1 | preset -->?<!-- /score -->\n<!-- scores -->\n?\n<!-- /scores -->"
    )
    filled = report.fill(text, {"scores": [score]})
    assert filled == text.replace("-->?<!-- /score --> ", "-->35.1 (34.7 to 35.5)<!-- /score --> ")
