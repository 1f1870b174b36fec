"""The document of a measurement: what it was made by and on; its tables; and their place in a page."""

import os
import platform
import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from diffuscope.bench.timing import Report
from diffuscope.data.processes import available_cores

PACKAGES = ("torch", "triton", "diffusers", "openvino", "onnxruntime")

TITLES = {
    "fast": "fast",
    "plain": "plain",
    "diffusers": "diffusers",
    "compiled": "diffusers, compiled",
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
}
"""What runs a network -> the title of its column."""


def head(device: torch.device, dtype: torch.dtype, command: str) -> Report:
    """Command, commit, versions and machine."""
    return {
        "command": command,
        "commit": os.environ.get("COMMIT") or commit(),
        "versions": {"python": platform.python_version()} | versions(PACKAGES),
        "device": device_name(device),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
    }


def commit() -> str | None:
    """The commit of the code that runs, if it is a checkout."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Of those of the packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    return name[1] if name else platform.processor() or platform.machine()


def this_command() -> str:
    """The command line of this process, as a person writes it."""
    program = Path(sys.argv[0])
    name = "diffuscope" if program.stem in ("diffuscope", "__main__") else f"python {program}"
    return " ".join([name, *map(shlex.quote, sys.argv[1:])])


def tables(report: Report) -> str:
    """The tables of a report, for a page or a terminal."""
    peak, measured = max(report["rates"]["product_tflops"], 1e-6), report["measured"]
    networks = {name: each for name, each in measured.items() if "fast" in each}
    kinds = [kind for kind in TITLES if any("ms" in each.get(kind, {}) for each in networks.values())]
    parts = []
    if networks:
        rows = [_row("ms", *(TITLES[kind] for kind in kinds), "of the product rate", "first call")]
        for name, each in networks.items():
            times = [_time(each[kind]["ms"]) if "ms" in each.get(kind, {}) else "" for kind in kinds]
            share = each["tflop"] / max(each["fast"]["ms"], 1e-3) * 1e3 / peak
            rows.append(_row(name, *times, f"{share:.0%}", f"{each['fast_first_s']:.2f} s"))
        parts.append(_table(rows))
    if whole := {name: each for name, each in measured.items() if "one" in each}:
        rows = [_row("s", "one image", "first call", "batch", "images a second", "peak memory")]
        for name, each in whole.items():
            one, batch = each["one"], each.get("batch")
            many = ("", "") if batch is None else (f"{batch['images']}: {batch['s']:.2f}", _rate(batch))
            highest = f"{each['peak_mib'] / 1024:.2f} GiB" if "peak_mib" in each else ""
            rows.append(_row(name, f"{one['s']:.3f}", f"{one['first_s']:.2f}", *many, highest))
        parts.append(_table(rows))
    if pairs := {name: each for name, each in measured.items() if "two GPUs" in each}:
        rows = [
            _row("one image, s", "one GPU", "two GPUs", "ratio", "of the steps alone", "largest difference, latents")
        ]
        for name, each in pairs.items():
            times = [f"{each[kind]['s']:.3f}" for kind in ("one GPU", "two GPUs")]
            ratios = [f"{each[kind]:.2f}" for kind in ("ratio", "ratio of the steps")]
            rows.append(_row(name, *times, *ratios, f"{each['largest difference']['latents']:.1e}"))
        parts.append(_table(rows))
    if errors := {name: each for name, each in networks.items() if "error" in each["fast"]}:
        found = [kind for kind in kinds if any("error" in each.get(kind, {}) for each in errors.values())]
        beside = ["fast, of diffusers'"] if "diffusers" in found else []
        rows = [_row("error against float32", *(TITLES[kind] for kind in found), *beside)]
        for name, each in errors.items():
            numbers = {kind: each[kind]["error"] for kind in found if "error" in each.get(kind, {})}
            cells = [f"{numbers[kind]:.2e}" if kind in numbers else "" for kind in found]
            ratio = f"{numbers['fast'] / numbers['diffusers']:.2f}" if numbers.get("diffusers") else ""
            rows.append(_row(name, *cells, *([ratio] if beside else [])))
        parts.append(_table(rows))
    if failed := [f"{name}: {each['failed'].splitlines()[-1]}" for name, each in measured.items() if "failed" in each]:
        parts.append("\n".join(failed) + "\n")
    stated = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    where = f"{report['device']}, {report['dtype']}" if "dtype" in report else report["device"]
    side = report["rates"].get("side", 8192)
    parts.append(
        f"`{report['command']}`; {where}; {stated}; a matrix product of {side:,} runs at "
        f"{report['rates']['product_tflops']:g} TFLOP/s.\n"
    )
    return "\n".join(parts)


def placed(page: str, mark: str, text: str) -> str:
    """A page with ``text`` between ``<!-- mark -->`` and ``<!-- /mark -->``."""
    place = re.compile(rf"(?<=<!-- {mark} -->\n).*?(?=<!-- /{mark} -->)", re.DOTALL)
    return place.sub(lambda _: text, page)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _table(rows: list[str]) -> str:
    return "\n".join([rows[0], "|---" * (rows[0].count(" | ") + 1) + "|", *rows[1:]]) + "\n"


def _time(milliseconds: float) -> str:
    return f"{milliseconds:,.2f}" if milliseconds < 1000 else f"{milliseconds:,.0f}"


def _rate(batch: Report) -> str:
    return f"{batch['images'] / batch['s']:.1f}"
