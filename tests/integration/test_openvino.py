"""A whole call by OpenVINO: the U-Net's twin and the decoder's, converted for their shapes."""

import gc
import signal
from pathlib import Path

import pytest
import torch

from diffuscope.pipeline import Pipeline
from diffuscope.request import Request

pytest.importorskip("openvino", reason="OpenVINO has no build for this system")

TOLERANCE = 1e-4
"""Of the largest latent, in float32: the same numbers are added in another order."""


@pytest.mark.slow
def test_a_call_gives_the_same(tiny: Pipeline, tmp_path: Path) -> None:
    request = Request("a red fox", seed=5, num_inference_steps=2)
    plain, pipe = tiny(request), Pipeline(tiny.components, backend="openvino")
    assert pipe.engine.converted is not None
    pipe.engine.converted.folder = tmp_path
    result = pipe(request)
    assert (result.latents - plain.latents).abs().max() <= TOLERANCE * plain.latents.abs().max()
    assert not torch.equal(result.latents, plain.latents)
    assert result.receipt["notes"] == plain.receipt["notes"]
    assert len(list(tmp_path.glob("*.xml"))) == 2

    del pipe  # whose two networks are forgotten one after the other
    gc.collect()
    handled: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: handled.append(number))  # noqa: ARG005 (as it is called)
    signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    assert handled == [signal.SIGTERM]
