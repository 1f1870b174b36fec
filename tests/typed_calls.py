"""What type checkers refuse in a call. Checked by mypy, never run: an ignored error that is none is an error itself."""

from dataclasses import replace

import diffuscope as ds
from diffuscope import GuidanceOptions, Request


def right(pipe: ds.Pipeline) -> None:
    """Accepted."""
    result: ds.Result = pipe("a red fox", seed=32, sigmas="karras", guidance_options=GuidanceOptions(rescale=0.7))
    result.save("out.png")
    run: ds.Run = pipe.steps(["a", "b"], num_images_per_prompt=2, image="start.png")
    for step in run:
        step.x = step.x * 1.0
    request = Request("a red fox", num_inference_steps=12)
    pipe(replace(request, seed=7), image="start.png", strength=0.5)
    ds.load("emoji", "cpu", vae="better.safetensors")


def wrong(pipe: ds.Pipeline) -> None:
    """Refused, each for one reason."""
    pipe("a red fox", guidance_scael=7.5)  # type: ignore[call-arg]
    pipe("a red fox", guidance_scale="7.5")  # type: ignore[arg-type]
    pipe("a red fox", sigmas="kerras")  # type: ignore[arg-type]
    pipe.steps("a red fox", upscale=2)  # type: ignore[arg-type]
    Request("a red fox", num_inference_steps=2.5)  # type: ignore[arg-type]
    GuidanceOptions(norm="half")  # type: ignore[arg-type]
    ds.load("emoji", devise="cpu")  # type: ignore[call-arg]
    pipe.set_lora("ink")  # type: ignore[call-arg]
