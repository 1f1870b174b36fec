"""Memory: how much a run needs at least, how much there is, and an error that says what to change."""

import ctypes
import sys
import traceback
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import le
from pathlib import Path
from time import monotonic
from typing import TypeVar

import torch
from torch import Tensor

from diffuscope.config import ModelConfig
from diffuscope.errors import OutOfMemoryError, is_out_of_memory
from diffuscope.loading import Components
from diffuscope.perf import peak
from diffuscope.perf.engine import Engine

T = TypeVar("T")

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of this process's container, in versions 2 and 1."""

SHORT = "memory was short, so images were finished in smaller pieces, equal up to rounding"
OFFLOADED = "memory was short, so networks that did not run waited in the host's memory"
SPLIT = "memory was short, so the U-Net computed its rows in smaller batches, equal up to rounding"

HINTS = {
    "loading the model": 'Free memory, or use dtype="float16"',
    "loading the LoRA": "Free memory",
    "merging LoRAs": 'Free memory, or load the model with dtype="float16"',
    "encoding the prompt": "Free memory",
    "encoding the image": "Use a smaller size, or fewer images in one call",
    "sampling": "Make fewer images in one call (num_images_per_prompt), use a smaller size, or free memory",
    "decoding": "Use a smaller size, or free memory",
    "upscaling": "Use upscale=1, a smaller size, or free memory",
}
"""Phase of a run -> what to change."""

KEPT = {"decoding", "upscaling"}
"""Phases after which nothing that was sampled is lost."""


@contextmanager
def phase(name: str, device: str) -> Iterator[None]:
    """Within, running out of memory is an OutOfMemoryError with the hint of this phase, the innermost one."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        release(error)
        hint = HINTS[name] if device == "cpu" else f'{HINTS[name]}, or use device="cpu"'
        told = OutOfMemoryError(name, device, hint)
        if name in KEPT:  # in Python alone: a command has ended by then
            told.add_note("The latents are kept: result() can be called again once memory is free.")
        raise told from None


def release(error: BaseException) -> None:
    """Free what a failed computation holds: the frames of its traceback have its tensors."""
    traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


TRIM_EVERY = 10.0
"""Seconds at least between two times at which ``trim`` does something, which takes less than a tenth of one."""

M_ARENA_MAX = -8
"""The most heaps of a process, in glibc's malloc.h."""

_trimmed = -TRIM_EVERY


def trim() -> None:
    """Give memory that was freed back to the system, for processes that run for days: glibc keeps most of it.

    It may be called after each piece of work, from any thread. Without glibc it does nothing.
    """
    global _trimmed
    if monotonic() < _trimmed + TRIM_EVERY:
        return
    _trimmed = monotonic()
    _glibc("malloc_trim", 0)


def share_heap() -> None:
    """Let all threads that begin from here on share one heap, for such processes: what one has freed, another can use.

    And ``trim`` gives back the end of the main heap alone. Without glibc it does nothing.
    """
    _glibc("mallopt", M_ARENA_MAX, 1)


def _glibc(name: str, *arguments: int) -> None:
    if sys.platform == "linux" and (function := getattr(ctypes.CDLL(None), name, None)) is not None:
        function(*arguments)


def smaller(
    run: Callable[[Tensor], T], batch: Tensor, notes: list[str], *, otherwise: Callable[[Tensor], T] | None = None
) -> list[T]:
    """``run`` on a batch or, where memory does not suffice, on its rows one at a time; ``otherwise`` on such a row.

    Equal up to rounding, so ``notes`` says that it was done.

    Raises:
        MemoryError: not enough for one row either, or torch's own error.
    """
    try:
        return [run(batch)]
    except Exception as error:
        if not is_out_of_memory(error) or (len(batch) == 1 and otherwise is None):
            raise
        release(error)
    if SHORT not in notes:
        notes.append(SHORT)
    if len(batch) == 1 and otherwise is not None:
        return [otherwise(batch)]
    return [part for row in batch.split(1) for part in smaller(run, row, notes, otherwise=otherwise)]


def available(device: torch.device) -> int | None:
    """Bytes that a process may still take on a device; None where nobody says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        known = torch.cuda.memory_stats_as_nested_dict(device)  # torch flattens them for half a millisecond
        reserved, allocated = (known[name]["all"]["current"] for name in ("reserved_bytes", "allocated_bytes"))
        return free + reserved - allocated
    if device.type != "cpu":
        return None
    found = [limit for limit in (_of_machine(), *(_of_group(*files) for files in _CGROUPS), _of_process()) if limit]
    return min(found, default=None)


def images_at_once(components: Components, engine: Engine, width: int, height: int, images: int, passes: int) -> int:
    """How many of ``images`` the networks can compute at once in the memory that is left.

    Far below it nothing is computed; near it the peak of the call is found by ``peak``, and where it does not fit,
    networks that do not run leave the device from now on. What fails all the same, since others took memory meanwhile,
    is tried again in smaller pieces.

    Args:
        components: of the model.
        engine: which runs them.
        width: of the images, in pixels.
        height: likewise.
        images: that are wanted at once.
        passes: rows of the U-Net for an image.

    Raises:
        OutOfMemoryError: not one image fits; the hint has the largest size that does.
    """
    config, unet, offload = components.config, components.unet, engine.offload
    device, dtype, factor = engine.device(unet), unet.conv_in.weight.dtype, config.vae.factor
    least = needed(config, width, height, images * passes) * dtype.itemsize
    if least < _CHECKED or (left := available(device)) is None or _FAR * least <= left:
        return images
    fast = engine.runs(unet, None)

    def decoding(size: tuple[int, int]) -> tuple[int, int]:
        cells = size[1] // factor, size[0] // factor
        return peak.decoding(config.vae, cells, dtype, 1, fast=fast), left + offload.gain(components.vae)

    def takes(size: tuple[int, int], rows: int) -> Iterator[tuple[int, int]]:
        if device.type == "cpu":  # other devices have the processor to fall back on
            yield decoding(size)
        cells = size[1] // factor, size[0] // factor
        yield peak.sampling(config.unet, cells, dtype, rows, fast=fast), left + offload.gain(unet)

    def fits(size: tuple[int, int], images: int, passes: int) -> bool:
        return all(least <= room for least, room in takes(size, images * passes))

    size = width, height
    if offload.may_begin(device) and not (fits(size, images, passes) and le(*decoding(size))):
        offload.begin(device, components.networks.values())
    count = images
    while count > 1 and not fits(size, count, passes):
        count = -(-count // 2)
    if count > 1 or fits(size, 1, passes) or fits(size, 1, 1):
        return count
    shares = range(255, 0, -1)
    sizes = [(width * share // 256 // factor * factor, height * share // 256 // factor * factor) for share in shares]
    found = bisect_left(sizes, True, key=lambda size: min(size) < factor or fits(size, 1, 1))
    size = sizes[found] if found < len(sizes) else (0, 0)
    least, room = max(takes((width, height), 1))
    brought = max(0, left - room)  # weights that wait in the host's memory
    raise OutOfMemoryError(
        f"planning {width}x{height}",
        device.type,
        f"It needs at least {least + brought >> 20:,} MiB, and {room + brought >> 20:,} MiB are left. "
        + (f"At most about {size[0]}x{size[1]} fits" if min(size) >= factor else "No size of this shape fits"),
    )


_CHECKED = 1 << 28
"""Bytes; smaller runs begin without asking what is left."""

_FAR = 8
"""Times the least that a run needs: where so much is left, nobody asks further."""


def needed(config: ModelConfig, width: int, height: int, rows: int) -> int:
    """Numbers in activations that are alive at once, at least: in the U-Net with ``rows``, or for one decoded image.

    That is, the input and the output of the decoder's largest layer; in the U-Net the same, or all skip connections.
    """
    unet, vae, factor = config.unet, config.vae, config.vae.factor
    cells = (width // factor) * (height // factor)
    down = sum(channels * cells // 4 ** (level + 1) for level, channels in enumerate(unet.channels[:-1]))
    skips = unet.channels[0] * cells + down
    skips += sum(unet.blocks * channels * cells // 4**level for level, channels in enumerate(unet.channels))
    return max(2 * max(vae.channels[:2]) * width * height, rows * max(skips, 4 * unet.channels[0] * cells))


def _of_machine() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return sizes["MemAvailable"] + sizes.get("SwapFree", 0) if "MemAvailable" in sizes else None
    return None


def _of_group(limit: str, used: str) -> int | None:
    with suppress(OSError, ValueError):  # ValueError: "max"
        return max(1, int(Path(limit).read_text()) - int(Path(used).read_text()))
    return None


def _of_process() -> int | None:
    with suppress(ImportError, OSError, ValueError, AttributeError):  # Windows has none
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            pages: Sequence[str] = Path("/proc/self/statm").read_text().split()
            return max(1, soft - int(pages[0]) * resource.getpagesize())
    return None
