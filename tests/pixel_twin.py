"""The smallest student on pixels, and a perfect teacher of it."""

import torch

from diffuscope.config import ScheduleConfig, UNetConfig
from diffuscope.diffusion.schedules import Schedule
from diffuscope.distill.task import Field
from diffuscope.models.class_unet import ClassUNet
from diffuscope.training.loop import StepContext

FIELD = Field(Schedule(ScheduleConfig(betas="cosine", prediction="v", zero_snr=True)), torch.device("cpu"))
UNET = UNetConfig(
    in_channels=16, out_channels=16, channels=(32,), blocks=1, depth=(0,), heads=(1,), context_dim=10, extra_dim=10,
    mid_depth=0, norm_groups=4,
)  # fmt: skip

SPREAD = 0.5
"""Standard deviation of the pictures of a perfect teacher: noise, whose trajectories are known."""


def network():
    """A network with the same random weights in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ClassUNet(UNET)


def gaussian(spread):
    """The true velocity of pictures that are noise of this standard deviation."""

    def velocity(z, phi, end, text, scale):
        return z * phi.sin() * phi.cos() * (1 - spread**2) / ((phi.cos() * spread) ** 2 + phi.sin() ** 2)

    return velocity


perfect = gaussian(SPREAD)


def context(step=0, progress=0.0):
    """The context of a step of one process."""
    return StepContext(torch.Generator().manual_seed(step), step, step, progress)
