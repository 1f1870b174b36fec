"""Make the pictures of the lab: ``python docs/lab_pictures.py`` writes docs/images/lab*.webp, in Debian's Chromium."""

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1120, "height": 700}


def shot(page: Page) -> Image.Image:
    page.mouse.move(0, 0)
    page.wait_for_timeout(700)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def go(page: Page, view: str) -> None:
    page.get_by_role("link", name=view, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(view)


def done(page: Page) -> None:
    expect(page.locator(".time .end small")).to_have_text("done", timeout=60_000)


def scenes(page: Page) -> Iterator[tuple[str, Image.Image, int]]:
    """Name, picture, and milliseconds of each scene: a prompt, its run, where its words went, a branch."""
    expect(page.get_by_label("seed", exact=True)).to_have_value("32", timeout=60_000)
    done(page)
    page.get_by_label("Prompt", exact=True).fill("a red fox on a blue background")
    page.keyboard.press("Enter")
    expect(page.locator(".time .end small")).to_have_text("running")
    done(page)
    yield "generate", shot(page), 1500
    go(page, "Steps")
    strip = page.get_by_role("slider", name="Step of the run")
    strip.press("Home")
    for k in range(4):
        yield f"steps-{k}", shot(page), 450
        strip.press("ArrowRight")
    go(page, "Guidance")
    yield "guidance", shot(page), 1500
    go(page, "Schedule")
    yield "schedule", shot(page), 1200
    strip.press("Home")
    go(page, "Branch")
    page.get_by_label("prompt", exact=True).fill("a red fox on a yellow background")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Branch from here").click()
    expect(page.get_by_text("This run branched")).to_be_visible()
    done(page)
    page.locator("#main").evaluate("main => main.scrollTo(0, 0)")
    yield "branch", shot(page), 2000


def main() -> None:
    command = [sys.executable, "-u", "-m", "diffuscope", "lab", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(address)
        made = list(scenes(page))
        browser.close()
    process.send_signal(signal.SIGINT)
    process.wait()
    pictures = [picture for _, picture, _ in made]
    pictures[0].save(
        IMAGES / "lab.webp",
        save_all=True,
        append_images=pictures[1:],
        duration=[time for _, _, time in made],
        loop=0,
        quality=70,
        method=6,
    )
    named = {name: picture for name, picture, _ in made}
    for name in ("guidance", "branch"):
        named[name].save(IMAGES / f"lab-{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
