"""How often each sampler asks the network is known before it does: a watch that keeps all calls has room for them."""

from typing import Any

import pytest

from diffuscope.diffusion.samplers import TABLE
from diffuscope.lens.watch import Watch
from diffuscope.pipeline import Pipeline


@pytest.mark.parametrize(
    "length",
    [
        *({"num_inference_steps": steps} for steps in (1, 5)),
        *({"sigmas": above} for above in ((4096.0, 30.0), (4096.0, 2000.0, 0.0), (4096.0, 2000.0, 1100.0, 0.5))),
        {"sigmas": (4096.0, 30.0, 5.0, 1.0, 0.3, 0.0)},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("sampler", "options"),
    [*((name, {}) for name in TABLE), ("restart", {"times": 3, "low": 0.5, "high": 9.0})],
)
def test_network_calls_are_counted_before_the_run(
    tiny: Pipeline, sampler: str, options: dict[str, float], length: dict[str, Any]
) -> None:
    watch = Watch("unet.out", reduce="last")
    run = tiny.steps("a", seed=1, sampler=sampler, sampler_options=options, guidance_scale=1.0, tap=watch, **length)
    for _ in run:
        pass
    assert watch.call + 1 == watch.calls
