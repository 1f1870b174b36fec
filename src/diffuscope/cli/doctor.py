"""``diffuscope doctor``: what this machine has, what is missing, what would make it faster."""

import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from diffuscope.cli.terminal import say

NEEDED = ("torch", "numpy", "safetensors", "Pillow", "regex", "tqdm", "tyro")


def doctor() -> int:
    """Check this machine: versions, devices, threads, shipped models; suggest what would make it faster.

    Returns:
        0 if images can be generated, 1 if something is broken.
    """
    broken = 0
    for mark, text in _report():
        broken += mark == "broken"
        say(f"{mark:>7}  {text}")
    return 1 if broken else 0


def _report() -> Iterator[tuple[str, str]]:
    """(ok | note | broken, one sentence) for each thing there is to say."""
    yield "ok", f"diffuscope {_version('diffuscope')}, Python {platform.python_version()}, {platform.platform()}"
    missing = [name for name in NEEDED if _version(name) is None]
    for name in missing:
        yield "broken", f"{name} is not installed: `pip install {name}`, or install diffuscope again"
    yield "ok", ", ".join(f"{name} {_version(name)}" for name in NEEDED if name not in missing)
    try:
        import torch  # noqa: F401

        from diffuscope import loading  # noqa: F401
    except Exception as error:  # a torch that is there may still fail to load, in any way
        yield "broken", f"torch cannot be loaded ({error}): install it again, in the build for this machine"
        return
    yield from _devices()
    yield from _models()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> Iterator[tuple[str, str]]:
    import torch

    from diffuscope.data.processes import available_cores
    from diffuscope.loading import choose_device, choose_dtype

    device = choose_device("auto")
    yield "ok", f"device auto is {device}, dtype auto is {str(choose_dtype('auto', device)).removeprefix('torch.')}"
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        yield "ok", f"cuda:{i} is {gpu.name} with {gpu.total_memory / 2**30:.0f} GiB"
    threads, available = torch.get_num_threads(), available_cores()
    yield (
        "ok",
        f"torch uses {threads} threads of {available} cores; CPU kernels for {torch.backends.cpu.get_cpu_capability()}",
    )
    if device.type == "cpu":
        if threads < available:
            yield "note", f"faster: let torch use {available} threads (unset OMP_NUM_THREADS, now {threads} are used)"
        yield from _waiting()
        yield from _halves()
        yield "note", "faster: a GPU; with an NVIDIA one install the CUDA build of torch"
        if not torch.backends.mkldnn.is_available():
            yield "note", "faster: a torch built with oneDNN, which this one is not"


def _halves() -> Iterator[tuple[str, str]]:
    """What runs networks on this processor faster than the default, which keeps its bits."""
    from diffuscope.loading import has_bfloat16

    flags = "--fast True" + (" --dtype bfloat16" if has_bfloat16() else "")
    yield "note", f"faster: {flags}, whose numbers differ by rounding"
    if _version("openvino") is None:
        yield "note", "faster: pip install openvino, then --backend openvino, which converts networks once"
    else:
        yield "ok", f"openvino {_version('openvino')} runs networks by --backend openvino"


def _waiting() -> Iterator[tuple[str, str]]:
    """What OpenMP's threads do while they wait for one on a core that another program uses."""
    from diffuscope.perf import threads

    policy = os.environ.get("OMP_WAIT_POLICY", "")
    if threads.keep_their_cores():
        given = "; now waiting threads keep their cores" + (f" (OMP_WAIT_POLICY is {policy})" if policy else "")
        yield "note", f"faster beside other programs: set OMP_WAIT_POLICY=passive{given}"
    else:
        yield "ok", "threads that wait sleep; in Python import diffuscope before torch, or set OMP_WAIT_POLICY=passive"


def _models() -> Iterator[tuple[str, str]]:
    import torch

    from diffuscope.errors import DiffuscopeError
    from diffuscope.loading import load_upscaler
    from diffuscope.model_files import shipped_models, weight_files
    from diffuscope.models.tokenizer import Tokenizer
    from diffuscope.weights.layout import own_config
    from diffuscope.weights.store.headers import read_header

    models = shipped_models()
    if not models:
        yield "note", "no model is part of this installation; give a model's folder to --model"
    for name, folder in models.items():
        try:
            paths = [path for shards in weight_files(folder, own_config.read(folder)).values() for path in shards]
            size = sum(path.stat().st_size for path in paths)
            for path in paths:
                read_header(path)
        except (DiffuscopeError, OSError) as error:
            yield "broken", f"the shipped model {name!r} is damaged: {error}"
        else:
            yield "ok", f"the shipped model {name!r} is whole, {size / 2**20:.1f} MiB"
    checks: dict[str, Callable[[], object]] = {
        "vocabulary": Tokenizer,
        "upscaler": lambda: load_upscaler(torch.device("cpu")),
    }
    for what, check in checks.items():
        try:
            check()
        except DiffuscopeError as error:
            yield "broken", f"the shipped {what} is damaged: {error}"
        else:
            yield "ok", f"the shipped {what} is whole"
