"""What one request may ask for, whoever sends it; how much of a caller waits is the Engine's limit."""

from dataclasses import dataclass

from diffuscope.errors import InputError, Unquoted
from diffuscope.request import Request


@dataclass(frozen=True)
class RequestLimits:
    """Limits of one request."""

    images: int = 64
    """images of a request"""
    steps: int = 250
    """denoising steps"""
    pixels: int = 1 << 22
    """height times width, before upscaling"""

    def check(self, request: Request) -> None:
        """Refuse a request that asks for more.

        Raises:
            InputError: names the option.
        """
        prompts = 1 if request.prompt is None or isinstance(request.prompt, str) else len(request.prompt)
        images = prompts * request.num_images_per_prompt
        if images > self.images:
            raise InputError("num_images_per_prompt", Unquoted(f"{images} images"), f"at most {self.images}")
        steps = request.num_inference_steps or 0
        if steps > self.steps:
            raise InputError("num_inference_steps", steps, f"at most {self.steps}")
        if request.sigmas is not None and not isinstance(request.sigmas, str) and len(request.sigmas) > self.steps + 1:
            raise InputError("sigmas", Unquoted(f"{len(request.sigmas)} levels"), f"at most {self.steps + 1}")
        if (request.height or 1) * (request.width or 1) > self.pixels:
            got = Unquoted(f"{request.width}x{request.height}")
            raise InputError("height", got, f"at most {self.pixels:,} pixels")
        if request.branch is not None:
            self.check(request.branch.request)


LIMITS = RequestLimits()
