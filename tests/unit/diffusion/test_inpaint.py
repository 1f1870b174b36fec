"""Places that are not masked come out as they were, whatever the sampler does."""

from dataclasses import replace

import pytest
import torch

from diffuscope.config import SD15
from diffuscope.diffusion.inpaint import blend_known
from diffuscope.diffusion.noise import PerImageNoise
from diffuscope.diffusion.samplers import SAMPLERS
from diffuscope.diffusion.schedules import Schedule


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "ddim", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("ends_at_zero", [True, False])
def test_what_is_not_masked_is_kept(sampler: str, ends_at_zero: bool) -> None:
    levels = Schedule(replace(SD15.schedule, ddim_ends_at_zero=ends_at_zero)).levels(6, sampler=sampler)
    clean, noise = PerImageNoise([1, 2]).draw((4, 4, 4)), PerImageNoise([3, 4]).draw((4, 4, 4))
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :2] = 1
    mask[1, :, :, 3:] = 1
    steps = SAMPLERS[sampler](
        lambda x, sigma: x / (1 + sigma**2), noise * levels.start_scale, levels.sigmas, noise=PerImageNoise([5, 6])
    )
    for step in blend_known(steps, clean, noise, mask, levels):
        x = step.x
        if step.index < 5:
            known = clean + step.sigma * noise
            assert (x - known)[mask.expand_as(x) == 0].abs().max() < 1e-5 * known.abs().max()
    kept = mask.expand_as(x) == 0
    assert (x * levels.end_scale - clean)[kept].abs().max() < 1e-6
    assert (x * levels.end_scale - clean)[~kept].abs().min() > 1e-4
