"""Write docs/reference/parity-samplers.md: how far each sampler is from its reference, and where that one is odd.

python benchmarks/parity_samplers.py    # a minute or two, in float64 on the CPU
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import diffusers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from diffuscope.diffusion.samplers import TABLE  # noqa: E402
from diffuscope.weights.store.documents import write_text  # noqa: E402
from parity import k_diffusion  # noqa: E402
from parity.quirks import QUIRKS  # noqa: E402
from parity.schedulers import (  # noqa: E402
    REFERENCES,
    STEPS,
    TOLERANCE,
    compare,
    is_no_path,
    predictions,
    sd,
    spacings,
    takes,
)

PAGE = ROOT / "docs" / "reference" / "parity-samplers.md"

Errors = Callable[[int], list[float] | None]
"""Number of steps -> the error after each, or None where there is nothing to compare."""

INTRO = f"""# Parity of the samplers

How far our samplers are from the released ones of diffusers {version("diffusers")} and k-diffusion
{version("k-diffusion")}: the largest difference by the largest value, max |a - b| / max |b|, over all steps of a run;
with the same network function, the same noise and the reference's own float32 tables, in float64 on the CPU. All must
be at most {TOLERANCE:g}; `tests/parity/test_samplers.py` holds them there. What is left is the references' float32.

Written by `python benchmarks/parity_samplers.py`. Columns are numbers of steps; a dash is where the reference is no
path of noise levels or fails: see the [quirks](#quirks-of-the-references), each with its evidence in
`tests/parity/test_quirks.py`. Where the reference rounds the times that it tells the network, both tell the same.
"""


def diffusers_rows(name: str) -> Iterator[tuple[str, str, Errors]]:
    def errors(prediction: str, spacing: str, zero_snr: bool = False) -> Errors:
        def run(steps: int) -> list[float] | None:
            config = sd(prediction, zero_snr=zero_snr)
            return None if is_no_path(name, spacing, steps) else compare(name, config, steps, spacing).errors

        return run

    for spacing in spacings(name):
        for prediction in predictions(name):
            yield spacing, prediction, errors(prediction, spacing)
    if takes(name, "rescale_betas_zero_snr"):
        trailing = "model" if TABLE[name].distilled else "trailing"
        yield f"{trailing}, zero terminal SNR", "v", errors("v", trailing, zero_snr=True)


def k_diffusion_rows(name: str) -> Iterator[tuple[str, str, Errors]]:
    def errors(prediction: str, spacing: str, zero_snr: bool = False) -> Errors:
        def run(steps: int) -> list[float] | None:
            if steps not in k_diffusion.steps_of(name, zero_snr):
                return None
            return k_diffusion.compare(name, prediction, steps, spacing, zero_snr)

        return run

    for spacing in k_diffusion.SPACINGS:
        for prediction in ("epsilon", "v"):
            yield spacing, prediction, errors(prediction, spacing)
    yield "trailing, zero terminal SNR", "v", errors("v", "trailing", zero_snr=True)


def table(rows: Iterator[tuple[str, str, Errors]], worst: list[float]) -> list[str]:
    """A Markdown table; each number goes into ``worst`` too."""
    lines = ["| spacing | prediction | " + " | ".join(map(str, STEPS)) + " |", "|---|---|" + "---|" * len(STEPS)]
    for spacing, prediction, errors in rows:
        cells = []
        for steps in STEPS:
            found = errors(steps)
            worst += found or []
            cells.append(f"{max(found):.0e}" if found else "-")
        lines.append(f"| {spacing} | {prediction} | {' | '.join(cells)} |")
    return lines


def page(worst: list[float]) -> str:
    lines = [INTRO, "## Against diffusers", ""]
    for name, (class_name, options) in REFERENCES.items():
        said = ", ".join(f"{key}={value!r}" for key, value in options.items())
        lines += [f"### {name}: {class_name}({said})", "", *table(diffusers_rows(name), worst), ""]
    lines += ["## Against k-diffusion", "", "On our own levels, in float64 throughout.", ""]
    for name, function in k_diffusion.FUNCTIONS.items():
        lines += [f"### {name}: {function}", "", *table(k_diffusion_rows(name), worst), ""]
    lines += [
        "`ipndm` is compared with `IPNDMScheduler` on our levels (its own start at an infinite one); `restart` has no",
        "released reference and is held by `tests/contract`, as every sampler is.",
        "",
        "## Quirks of the references",
        "",
        "| reference | when | what it does | ours |",
        "|---|---|---|---|",
        *(f"| {quirk.scheduler} | {quirk.when} | {quirk.reference} | {quirk.ours} |" for quirk in QUIRKS),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    warnings.simplefilter("ignore")  # the references' own
    diffusers.logging.set_verbosity_error()
    worst: list[float] = []
    write_text(PAGE, page(worst))
    print(f"{len(worst):,} steps compared, the worst {max(worst):.1e}")
    return 0 if max(worst) <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
