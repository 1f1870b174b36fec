"""Places that are not masked come out as they were, whatever the sampler does."""

from dataclasses import replace

import pytest
import torch

from diffuscope.config import SD15
from diffuscope.diffusion.inpaint import KnownArea
from diffuscope.diffusion.noise import PerImageNoise
from diffuscope.diffusion.samplers import SAMPLERS
from diffuscope.diffusion.schedules import Schedule


@pytest.mark.parametrize(
    "sampler", ["euler", "euler_ancestral", "ddim", "dpmpp_2m", "heun", "kdpm2", "pndm", "restart"]
)
@pytest.mark.parametrize("ends_at_zero", [True, False])
def test_what_is_not_masked_is_kept(sampler: str, ends_at_zero: bool) -> None:
    levels = Schedule(replace(SD15.schedule, ddim_ends_at_zero=ends_at_zero)).levels(6, sampler=sampler)
    clean, noise = PerImageNoise([1, 2]).draw((4, 4, 4)), PerImageNoise([3, 4]).draw((4, 4, 4))
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :2] = 1
    mask[1, :, :, 3:] = 1
    area = KnownArea(clean, noise, mask, levels)
    kept, seen = mask.expand_as(clean) == 0, list[torch.Tensor]()

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        """At every call but the first it sees the image at its level, within a step too."""
        seen.append((x - clean - sigma * noise)[kept].abs().max() / max(sigma, 1))
        return x / (1 + sigma**2)

    steps = SAMPLERS[sampler](
        area.denoiser(denoise), noise * levels.start_scale, levels.sigmas, noise=PerImageNoise([5, 6])
    )
    for step in area.steps(steps):
        x = step.x
        if step.index < 5:
            known = clean + step.sigma * noise
            assert (x - known)[mask.expand_as(x) == 0].abs().max() < 1e-5 * known.abs().max()
    assert max(seen[1:]) < 1e-5
    assert (x * levels.end_scale - clean)[kept].abs().max() < 1e-6
    assert (x * levels.end_scale - clean)[~kept].abs().min() > 1e-4
