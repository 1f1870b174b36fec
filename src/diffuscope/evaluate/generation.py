"""Images of the model through the public Pipeline, before upscaling."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from diffuscope.config import Preset
from diffuscope.pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The options of a preset that scores depend on."""

    num_inference_steps: int
    guidance_scale: float
    sampler: str
    sigmas: str | tuple[float, ...]

    @classmethod
    def of(cls, preset: Preset) -> "Sampling":
        """Those of a preset."""
        return cls(
            num_inference_steps=preset.num_inference_steps,
            guidance_scale=preset.guidance_scale,
            sampler=preset.sampler,
            sigmas=preset.sigmas,
        )


def generate(
    pipe: Pipeline, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling, batch: int | None = None
) -> Tensor:
    """[N,3,H,W] uint8 on the pipeline's device: one image for each prompt and seed, not upscaled."""
    if batch is None:
        batch = 16 if pipe.device.type == "cpu" else 250  # a CPU is fastest if a batch fits its cache
    parts = []
    for start in range(0, len(prompts), batch):
        rows = slice(start, start + batch)
        result = pipe(list(prompts[rows]), seed=list(seeds[rows]), upscale=1, **asdict(sampling))
        array = np.stack([np.asarray(image) for image in result.images])  # [B,H,W,3]
        parts.append(torch.from_numpy(array).permute(0, 3, 1, 2).contiguous().to(pipe.device))
    return torch.cat(parts)
