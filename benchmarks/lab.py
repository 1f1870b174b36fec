"""How long a person waits in the lab: opening, pointing, typing, generating. In Debian's Chromium, without a window.

    python benchmarks/lab.py --out lab.json
    python benchmarks/lab.py --flags=--dtype=bfloat16 --out lab-bfloat16.json

Each start of `diffuscope lab` is a fresh one, and so is what the browser keeps; the browser itself runs already. Times
are the page's own (lab.js), from asking for it. The load is what Linux counts before it begins.
"""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import tyro
from playwright.sync_api import Browser, Page, sync_playwright

from diffuscope.bench import report
from diffuscope.weights.store.documents import write_text


@contextmanager
def lab(flags: tuple[str, ...]) -> Iterator[tuple[str, int, float]]:
    """The address of a lab that has just started, its process, and when it printed the address: its model is loaded."""
    command = [sys.executable, "-u", "-m", "diffuscope", "lab", "emoji", "--no-browser", "--port", "7998", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid, time.time()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


@contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """The lab in a browser that has not seen it."""
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.set_default_timeout(300_000)
    page.add_init_script(path=Path(__file__).with_suffix(".js"))
    page.goto(address)
    yield page
    page.close()


def go(page: Page, view: str) -> None:
    page.get_by_role("link", name=view, exact=True).click()
    page.get_by_role("heading", level=1).get_by_text(view, exact=True).wait_for()


def processor_seconds(server: int) -> dict[str, float]:
    """That the server has used, and the browser: all other processes below this one."""
    parents, used = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = stat.read_text().rpartition(") ")[2].split()
            process = int(stat.parent.name)
            parents[process], used[process] = int(fields[1]), sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    below = {os.getpid()}
    while more := {process for process, parent in parents.items() if parent in below} - below:
        below |= more
    return {"server": used[server], "browser": sum(used[each] for each in below - {server, os.getpid()})}


def changed(page: Page, process: int, colour: str) -> dict[str, float]:
    """Times of another prompt, and the processor seconds until the picture is there."""
    before = processor_seconds(process)
    times = page.evaluate("changing", f"a {colour} fox")
    return times | {name: used - before[name] for name, used in processor_seconds(process).items()}


def opening(page: Page, loaded: float) -> dict[str, float]:
    """Milliseconds from asking for the page until each thing is there; for the picture also from the loaded model."""
    times, asked = page.evaluate("opening")
    return times | {"first live picture after the model is loaded": times["first live picture"] + asked - 1000 * loaded}


def summary(times: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(times), 2), "most": round(max(times), 2), "number": len(times)}


def main(*, starts: int = 5, flags: tuple[str, ...] = (), out: Path) -> None:
    """Measure, and write JSON.

    Args:
        starts: of the lab, each with a browser's first visit.
        flags: of `diffuscope lab`, such as --dtype=bfloat16.
        out: file to write.
    """
    seen, found, load = [], {}, os.getloadavg()[0]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for start in range(starts):
            with lab(flags) as (address, process, loaded), opened(browser, address) as page:
                seen.append(opening(page, loaded))
                if start < starts - 1:
                    continue
                changes = [changed(page, process, colour) for colour in ("blue", "green", "pink", "white")]
                go(page, "Tokens")
                page.locator(".pieces").wait_for()
                typed = page.evaluate("typing", ["car", "house", "umbrella", "skunk", "flag", "cup", "star", "horse"])
                go(page, "Attention")
                page.locator(".ranking").first.wait_for()
                page.wait_for_load_state("networkidle")
                found = page.evaluate("pointing")
        version = browser.version
        browser.close()
    document = {
        "opening, ms": {name: summary([each[name] for each in seen]) for name in seen[0]},
        "another prompt": {
            "to the first preview, ms": summary([each["first"] for each in changes]),
            "previews a second": summary([each["previews"] for each in changes]),
            "to the picture, ms": summary([each["picture"] for each in changes]),
            "processor seconds of the server": summary([each["server"] for each in changes]),
            "processor seconds of the browser": summary([each["browser"] for each in changes]),
        },
        "tokens while typing, ms": summary(typed),
        "pointing, ms": {name: summary(times) for name, times in found.items()},
        "load before": round(load, 2),
        "machine": report.device_name(torch.device("cpu")),
        "chromium": re.sub(r"\\..*", "", version),
        "torch": torch.__version__,
        "command": " ".join(sys.argv),
    }
    write_text(out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
