"""Figures of the networks' insides: each draws, is labelled, and shows the values it was given."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from diffuscope.lens import network_figures as figures
from diffuscope.lens.text import NearestToken
from diffuscope.models.tokenizer import Tokenizer
from refusals import refused

TOKENS = ["<|startoftext|>", "a</w>", "tyran", "<|endoftext|>"]
NAMES = ["[start]", "a", "tyran…", "[end]"]


def drawn(figure) -> tuple[int, int]:
    """That it renders, and at which size."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=40)
        return Image.open(file).size


def image(figure) -> np.ndarray:
    return figure.axes[0].get_images()[0].get_array()


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_merges_are_told_row_by_row() -> None:
    (trace,) = Tokenizer().trace("puppy")
    figure = figures.merges(trace)
    panel = figure.axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        "bytes",
        *(f"merge {merge.rank}" for merge in trace.merges),
    ]
    texts = [text.get_text() for text in panel.texts]
    assert texts[:5] == list("puppy")
    assert texts[-1] == "puppy"
    coloured = [bar for bar in panel.patches if bar.get_facecolor()[:2] != bar.get_facecolor()[1:3]]
    assert len(coloured) == len(trace.merges)  # each merge made one piece
    assert drawn(figure)[0] == 360
    (alone,) = Tokenizer().trace("é!"[1])
    drawn(figures.merges(alone))


def test_attention_leaves_white_what_is_never_seen() -> None:
    weights = torch.ones(6, 6).tril() / torch.arange(1, 7)[:, None]
    figure = figures.token_attention({"layer 1": weights, "layer 2": weights}, TOKENS)
    shown = image(figure)
    assert shown.shape == (4, 4)
    assert np.ma.getmaskarray(shown).sum() + np.isnan(np.ma.getdata(shown)).sum() >= 6
    assert shown[1, 0] == pytest.approx(0.5)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == NAMES
    drawn(figure)
    for argument, wrong, tokens in (
        ("layers", {}, TOKENS),
        ("layers", {"layer": weights[:2]}, TOKENS),
        ("tokens", {"layer": weights}, []),
    ):
        with refused(argument):
            figures.token_attention(wrong, tokens)


def test_changes_are_shares_of_the_length() -> None:
    before = [random(1, 6, 8), random(1, 6, 8)]
    after = [each.clone() for each in before]
    after[1][:, 2:] *= 1.5
    figure = figures.state_changes(before, after, TOKENS)
    assert image(figure)[0].tolist() == [0, 0, 0, 0]
    assert image(figure)[1].tolist() == pytest.approx([0, 0, 0.5, 0.5])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["embeddings", "layer 1"]
    drawn(figure)
    with refused("after"):
        figures.state_changes(before, after[:1], TOKENS)
    with refused("before", []):
        figures.state_changes([], [], TOKENS)


def test_cosines_are_those_of_the_angles() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0]])
    figure = figures.cosines(vectors, ["east", "north", "west"], title="winds")
    assert image(figure).tolist() == [[1, 0, -1], [0, 1, 0], [-1, 0, 1]]
    assert figure.axes[0].get_title() == "winds"
    drawn(figure)
    drawn(figures.cosines(vectors))
    for argument, *wrong in (("vectors", vectors[0], []), ("names", vectors, ["east"]), ("vectors", vectors[:0], [])):
        with refused(argument):
            figures.cosines(*wrong)


def test_nearest_words_have_a_bar_each() -> None:
    found = {
        "fox": [NearestToken("fox</w>", 1, 1.0), NearestToken("wolf</w>", 2, 0.5)],
        "half": [NearestToken("fox</w>", 1, 0.7)],
    }
    figure = figures.nearest_words(found)
    assert [bar.get_width() for bar in figure.axes[0].patches] == [1.0, 0.5]
    assert [panel.get_title() for panel in figure.axes] == ["fox", "half"]
    drawn(figure)
    for wrong in ({}, {"fox": []}):
        with refused("nearest"):
            figures.nearest_words(wrong)


def test_time_features_have_a_column_for_each_time() -> None:
    features = random(9, 16).clamp(-1, 1)
    figure = figures.time_features(range(0, 900, 100), features)
    assert (image(figure) == features.T.numpy()).all()
    drawn(figure)
    for wrong in (([1.0], features), ([], features[:0])):
        with refused("features"):
            figures.time_features(*wrong)


def test_activations_are_lengths() -> None:
    values = {f"res.{i}": random(8, 4, 4) * i for i in range(1, 4)}
    figure = figures.activations(values, columns=2)
    np.testing.assert_allclose(image(figure), values["res.1"].norm(dim=0).numpy())
    assert figure.axes[0].get_title() == "res.1\n8 × 4 × 4"
    drawn(figure)
    for argument, wrong, columns in (("values", {}, 2), ("values", {"flat": random(8)}, 2), ("columns", values, 0)):
        with refused(argument):
            figures.activations(wrong, columns=columns)


def test_levels_read_off_stand_against_those_there() -> None:
    figure = figures.noise_readings([1.0, 2.0], {"network": [1.1, 1.9]})
    lines = figure.axes[0].get_lines()
    assert lines[0].get_xdata() == pytest.approx(lines[0].get_ydata())
    assert lines[1].get_ydata() == pytest.approx([1.1, 1.9])
    drawn(figure)
    for argument, sigmas, readings in (
        ("sigmas", [], {}),
        ("readings", [1.0], {}),
        ("readings", [1.0], {"network": []}),
    ):
        with refused(argument):
            figures.noise_readings(sigmas, readings)
