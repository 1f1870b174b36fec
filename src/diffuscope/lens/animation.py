"""A run as GIF or MP4: noisy latents and their denoised estimate side by side, step by step."""

import base64
import importlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from diffuscope.errors import InputError, OutputError, Unquoted
from diffuscope.output import replacing
from diffuscope.pipeline import Pipeline
from diffuscope.types import Step


@torch.no_grad()
def frames(pipe: Pipeline, steps: Sequence[Step], *, image: int = 0) -> list[Image.Image]:
    """One frame for each step: the noisy latents decoded on the left, the denoised ones on the right.

    Args:
        pipe: decodes.
        steps: of a run: ``snapshots(pipe.steps(...))``.
        image: number in the batch.

    Raises:
        InputError: no steps.
    """
    if not steps:
        raise InputError("steps", steps, "snapshots(pipe.steps(...))")
    drawn = []
    for step in steps:
        left, right = pipe.decode(torch.stack([step.x[image], step.x0[image]]))
        frame = Image.new("RGB", (2 * left.width, left.height))
        frame.paste(left, (0, 0))
        frame.paste(right, (left.width, 0))
        drawn.append(frame)
    return drawn


def save_film(images: Sequence[Image.Image], path: str | os.PathLike[str], *, fps: float = 12.0) -> Path:
    """``save_gif`` or ``save_mp4``, by the ending of ``path``."""
    return (save_mp4 if Path(path).suffix.lower() == ".mp4" else save_gif)(images, path, fps=fps)


def save_gif(images: Sequence[Image.Image], path: str | os.PathLike[str], *, fps: float = 12.0) -> Path:
    """Write frames of one size as a repeating GIF, and return its path. The file appears whole or not at all.

    Args:
        images: the frames.
        path: ends in .gif.
        fps: frames a second, above 0, at most 50. The last frame stays for two seconds.

    Raises:
        InputError: no frames, another ending, or an impossible rate.
        OutputError: it cannot be written.
    """
    path = _checked(images, path, ".gif", fps, 50)
    durations = [round(1000 / fps)] * (len(images) - 1) + [2000]
    with replacing(path) as part:
        images[0].save(part, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    return path


def save_mp4(images: Sequence[Image.Image], path: str | os.PathLike[str], *, fps: float = 12.0) -> Path:
    """Write frames of one size as an MP4, and return its path. The file appears whole or not at all.

    Needs the extra ``video``, which brings its own ffmpeg. H.264, slow preset, quantiser 18, 4:2:0 colours, which
    every player and browser reads.

    Args:
        images: the frames, of even width and height.
        path: ends in .mp4.
        fps: frames a second, above 0, at most 240.

    Raises:
        InputError: no frames, frames of several or odd sizes, another ending, an impossible rate, or no ffmpeg.
        OutputError: it cannot be written.
    """
    path = _checked(images, path, ".mp4", fps, 240)
    sizes = sorted({frame.size for frame in images})
    width, height = sizes[0]
    if len(sizes) > 1 or width % 2 or height % 2:
        raise InputError("images", Unquoted(f"sizes {sizes}"), "one size with even width and height, for 4:2:0 colours")
    try:
        ffmpeg = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        hint = "Run: pip install imageio-ffmpeg. Or save a GIF."
        raise InputError("imageio_ffmpeg", Unquoted("none"), "an installed package", hint) from error
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    codec = ["-c:v", "libx264", "-preset", "slow", "-qp", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    with replacing(path) as part:
        process = subprocess.run(
            [ffmpeg, "-v", "error", "-y", *source, *codec, "-fflags", "+bitexact", "-f", "mp4", str(part)],
            input=b"".join(frame.convert("RGB").tobytes() for frame in images),
            capture_output=True,
            check=False,
        )
        if process.returncode:
            reason = process.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise OutputError(f"ffmpeg could not write {path}: {reason[0]}; save a GIF instead")
    return path


def _checked(images: Sequence[Image.Image], path: str | os.PathLike[str], suffix: str, fps: float, limit: int) -> Path:
    if not images:
        raise InputError("images", images, "at least one frame")
    if Path(path).suffix.lower() != suffix:
        raise InputError("path", str(path), f"a name that ends in {suffix}")
    if not 0 < fps <= limit:
        raise InputError("fps", fps, f"a number above 0, at most {limit}")
    return Path(path)


@dataclass(frozen=True)
class Clip:
    """An animation in a notebook, as the last expression of a cell. The file is embedded in the page."""

    path: str | os.PathLike[str]
    """A .gif or .mp4."""
    width: int = 600
    """In pixels of the page."""

    def __post_init__(self) -> None:
        if Path(self.path).suffix.lower() not in (".gif", ".mp4") or not Path(self.path).is_file():
            raise InputError("path", str(self.path), "an existing .gif or .mp4 file")

    def _repr_html_(self) -> str:
        path = Path(self.path)
        data = base64.b64encode(path.read_bytes()).decode()
        if path.suffix.lower() == ".gif":
            return f'<img width="{self.width}" alt="{path.stem}" src="data:image/gif;base64,{data}">'
        source = f'<source type="video/mp4" src="data:video/mp4;base64,{data}">'
        return f'<video width="{self.width}" controls autoplay loop muted playsinline>{source}</video>'
