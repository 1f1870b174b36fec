import sys

import numpy as np
import pytest

from diffuscope.data.corpus import Corpus
from diffuscope.data.render import render, render_all
from diffuscope.errors import DiffuscopeError
from refusals import refused

RED_HALF = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><path fill="#f00" d="M0 0h2v4H0z"/></svg>'


def test_pixels_are_what_the_drawing_says():
    picture = render(RED_HALF, 8)
    assert picture.shape == (8, 8, 4)
    assert picture.dtype == np.uint8
    assert (picture[:, :4] == (255, 0, 0, 255)).all()
    assert (picture[:, 4:, 3] == 0).all()


def test_sizes_in_millimetres_are_drawn():
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9mm" height="9mm"><path d="M0 0h90v90H0z"/></svg>'
    assert (render(svg, 8)[..., 3] == 255).all()


def test_every_picture_in_order_whatever_the_processes(corpus, sprites):
    assert sprites.shape == (len(corpus.pictures), 4, 32, 32)
    assert all(sprites[:, 3].flatten(1).any(1))
    few = Corpus(corpus.pictures[:70])
    np.testing.assert_array_equal(render_all(few, 8, processes=2), render_all(few, 8, processes=1))


def test_no_drawing():
    with refused("svg", "<p>"):
        render("<p>", 8)


def test_no_resvg(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(DiffuscopeError, match="pip install resvg-py"):
        render(RED_HALF, 8)
