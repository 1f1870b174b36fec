"""A call that fits into the memory that is left."""

from dataclasses import replace

from diffuscope.config import ModelConfig
from diffuscope.diffusion.schedules import Schedule
from diffuscope.models.unet import UNet
from diffuscope.perf.engine import Engine
from diffuscope.pipeline import memory
from diffuscope.pipeline.inputs import Call
from diffuscope.pipeline.plan import Plan, plan


def in_memory(
    call: Call, planned: Plan, config: ModelConfig, schedule: Schedule, unet: UNet, engine: Engine
) -> tuple[Call, Plan, list[str]]:
    """The call with as many images at once as memory has room for, its plan, and a note if these are fewer than asked.

    With a tap, which gets all images at once, it is left as it is.

    Raises:
        OutOfMemoryError: not one image fits; the hint has the largest size that does.
    """
    preset, images, weight = planned.preset, planned.batches[0].stop, unet.conv_in.weight
    fast = engine.runs(unet, None)
    count = memory.images_at_once(config, preset.width, preset.height, images, planned.passes, weight, fast=fast)
    if count == images or call.tap is not None:
        return call, planned, []
    call = replace(call, batch_size=count, seed=planned.seeds if call.generator is None else None)
    note = f"memory is short, so the networks compute {count} of {images} images at once"
    return call, plan(config, schedule, call), [note]
