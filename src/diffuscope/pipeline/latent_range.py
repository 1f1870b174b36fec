"""Whether the latents of a run are those of an image: a diverging solver and too much guidance leave their range."""

from torch import Tensor

from diffuscope.pipeline.plan import Plan

LARGEST_DEVIATION = 2.0
"""Latents are scaled to a standard deviation of 1 over the training images, and single images are near it (emoji: 0.8
to 1.3). Beyond twice of it colours and shapes of every image looked at were destroyed."""

STEADY = "dpmpp_2m"
"""A sampler that stays in range where multistep methods in sigma (lms, ipndm, pndm) leave it."""


def notes(latents: Tensor, plan: Plan) -> list[str]:
    """At most one note on final latents [N,C,h,w] that are no image's, with what to change."""
    if plan.request.denoising_end is not None:  # still noisy
        return []
    deviations = latents.flatten(1).std(dim=1).tolist()
    outside = {k: deviation for k, deviation in enumerate(deviations) if deviation > LARGEST_DEVIATION}
    if not outside:
        return []
    preset = plan.preset
    advice = [f"a lower guidance_scale than {preset.guidance_scale:g}"] if plan.guided else []
    advice += [f"more steps than {preset.num_inference_steps}"]
    advice += [f"sampler={STEADY!r} in place of {preset.sampler!r}"] if preset.sampler != STEADY else []
    which = ", ".join(f"{k}" for k in [*outside][:8])
    return [
        f"the latents of image {which} left the range of the training images, so colours and shapes are wrong: their "
        f"standard deviation is {max(outside.values()):.1f}, where images have about 1; use {' or '.join(advice)}"
    ]
