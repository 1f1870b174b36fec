"""The memory of gradients is counted right before a run."""

import pytest
import torch

from diffuscope.lens.gradient_memory import gradient_memory, saved_tensors
from diffuscope.pipeline import Pipeline
from refusals import refused


def test_memory_is_what_the_real_graphs_keep(tiny: Pipeline) -> None:
    found = gradient_memory(tiny, 32, 32)
    x = torch.zeros(2, 4, 16, 16, requires_grad=True)
    with saved_tensors() as unet:
        tiny.unet(x, 3.0, torch.zeros(2, 77, 32))
    with saved_tensors() as vae:
        tiny.vae.decode(x[:1] / 1)
    assert found.unet == pytest.approx(sum(unet.values()), rel=0.05)
    assert found.vae == pytest.approx(sum(vae.values()), rel=0.05)
    assert found.cheap < found.exact < found.without_checkpoints
    assert "exact" in str(found)
    with refused("height", 31):
        gradient_memory(tiny, 31, 32)
    with refused("width", 0):
        gradient_memory(tiny, 32, 0)
