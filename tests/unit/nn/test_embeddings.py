"""The sinusoidal embedding of numbers."""

import math

import torch

from diffuscope.nn.embeddings import sinusoidal_embedding


def test_sinusoids_are_cosines_then_sines_at_falling_frequencies():
    waves = sinusoidal_embedding(torch.tensor([0.0, 2.5]), 8)
    frequencies = [10000 ** (-i / 4) for i in range(4)]
    expected = [math.cos(2.5 * f) for f in frequencies] + [math.sin(2.5 * f) for f in frequencies]
    torch.testing.assert_close(waves, torch.tensor([[1.0] * 4 + [0.0] * 4, expected]))


def test_sinusoids_are_float32_whatever_the_clock_is():
    assert sinusoidal_embedding(torch.tensor([7], dtype=torch.int64), 4).dtype == torch.float32
    assert sinusoidal_embedding(torch.tensor([7.0], dtype=torch.float64), 4).dtype == torch.float32
