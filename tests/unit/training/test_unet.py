"""The U-Net's task: its rows do not depend on the number of processes, and every weight of its loss is a number."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from diffuscope.config import ScheduleConfig
from diffuscope.diffusion.schedules import Schedule
from diffuscope.training.denoising import loss_weight
from diffuscope.training.loop import StepContext
from distilling import MODEL, unet_task
from refusals import refused


def context(rank, processes):
    return StepContext(torch.Generator(), 0, 3, 0.0, run_seed=1, rank=rank, processes=processes)


def test_two_processes_have_the_halves_of_one_ones_batch():
    whole = unet_task(8).loss(context(0, 1))[0]
    halves = [unet_task(4).loss(context(rank, 2))[0] for rank in range(2)]
    assert sum(halves).item() / 2 == pytest.approx(whole.item(), rel=1e-5)
    assert halves[0].item() != pytest.approx(halves[1].item(), rel=1e-3)


def test_epsilon_of_pure_noise_is_refused():
    with refused("prediction", "epsilon"):
        unet_task(8, replace(MODEL.schedule, prediction="epsilon", zero_snr=True))
    unet_task(8, replace(MODEL.schedule, prediction="epsilon", zero_snr=False))


@pytest.mark.parametrize("betas", ["scaled_linear", "linear", "cosine"])
@pytest.mark.parametrize(("prediction", "zero_snr"), [*product(("epsilon", "v", "x0"), (True, False))])
def test_every_weight_of_the_loss_is_a_number_above_zero(prediction, zero_snr, betas):
    for gamma in (0.0, 1.0, 5.0, 20.0):
        sigmas = Schedule(ScheduleConfig(betas=betas, prediction=prediction, zero_snr=zero_snr)).sigmas
        weight = loss_weight(prediction, sigmas.float(), gamma)
        assert len(weight) == 1000
        assert weight.isfinite().all()
        assert (weight > 0).all()
