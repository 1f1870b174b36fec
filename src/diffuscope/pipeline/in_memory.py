"""A call that fits into the memory that is left."""

from dataclasses import replace

from diffuscope.diffusion.schedules import Schedule
from diffuscope.loading import Components
from diffuscope.perf.engine import Engine
from diffuscope.pipeline import memory
from diffuscope.pipeline.inputs import Call
from diffuscope.pipeline.plan import Plan, plan


def in_memory(
    call: Call, planned: Plan, components: Components, schedule: Schedule, engine: Engine
) -> tuple[Call, Plan, list[str]]:
    """The call with as many images at once as memory has room for, its plan, and notes on what was done for it.

    With a tap, which gets all images at once, it is left as it is.

    Raises:
        OutOfMemoryError: not one image fits; the hint has the largest size that does.
    """
    preset, images = planned.preset, planned.batches[0].stop
    count = memory.images_at_once(components, engine, preset.width, preset.height, images, planned.passes)
    notes = [memory.OFFLOADED] if engine.offload.allowed and engine.offload.device is not None else []
    if count == images or call.tap is not None:
        return call, planned, notes
    call = replace(call, batch_size=count, seed=planned.seeds if call.generator is None else None)
    notes.append(f"memory is short, so the networks compute {count} of {images} images at once")
    return call, plan(components.config, schedule, call), notes
