"""Networks that are made in a moment, with random weights, and examples of noise."""

from dataclasses import replace

import torch

from diffuscope.config import EMOJI, TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.diffusion.schedules import Schedule
from diffuscope.distill.task import Distillation, DistillTask
from diffuscope.distill.trajectories import Recording
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.training.examples import Examples
from diffuscope.training.loop import StepContext
from diffuscope.training.text import Clip
from diffuscope.training.unet import DiffusionModel, UNetTask, UNetTraining

MODEL = replace(
    EMOJI,
    text_encoder=TextEncoderConfig(width=16, layers=1, heads=2, hidden=32),
    unet=UNetConfig(channels=(8, 8), blocks=1, depth=(1, 0), heads=(1, 1), context_dim=16, norm_groups=4),
    vae=VAEConfig(channels=(8, 8, 8, 8), blocks=1, norm_groups=4, scale=1.0),
    preset=replace(EMOJI.preset, height=32, width=32, upscale=1),
)


RECORDING = Recording(steps=6, guidance_scale=2.0, size=8, chunk=5)
COUNTS = {1: 0.25, 3: 0.5, 6: 0.25}
"""Parts of a batch by the student's number of steps."""
EMPTY = torch.full((8,), 49407)


def context(seed=0):
    return StepContext(torch.Generator().manual_seed(seed), seed, 0, 0.0)


def ids(count):
    return torch.randint(49406, (count, 8), generator=torch.Generator().manual_seed(0))


def text_encoder():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return TextEncoder(MODEL.text_encoder)


def examples(count, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(49406, (count, 2, 8), generator=generator, dtype=torch.int32)
    latents = torch.randn(count, 4, 8, 8, generator=generator).bfloat16()
    return Examples(latents, ids, torch.zeros(count, 3))


def unet(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet(MODEL.unet)


def unet_task(count, schedule=MODEL.schedule):
    """The stage's task of U-Net and text encoder, with ``count`` rows in each process."""
    torch.manual_seed(0)
    clip = Clip(TextEncoder(replace(MODEL.text_encoder, projection=8)), 3)
    training = UNetTraining(batch_size=count, clip_weight=0.0, text_dropout=0.5)
    model = DiffusionModel(clip, unet())
    return UNetTask(model, examples(64, 0), examples(8, 1), Schedule(schedule), EMPTY, training)


def task(distillation=None, student=None):
    return DistillTask(
        unet() if student is None else student,
        unet(),
        text_encoder(),
        (examples(64, 0), examples(8, 1)),
        Schedule(MODEL.schedule),
        torch.full((8,), 49407),
        Distillation(steps=4, batch=16) if distillation is None else distillation,
    )
