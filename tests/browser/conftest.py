"""One lab and one browser for all journeys. A request off the origin, or an error in the console, fails the test."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PATIENCE = 300_000
"""Milliseconds that a test waits for what it expects; on an idle machine it comes within seconds."""

expect.set_options(timeout=PATIENCE)


@contextmanager
def started() -> Iterator[str]:
    """The address, with its token, that `diffuscope lab` prints."""
    command = [sys.executable, "-m", "diffuscope", "lab", "emoji", "--device", "cpu", "--no-browser", "--port", "0"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdout=pipe, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE / 1000) in (0, 130)  # 0 where Ctrl-C is ignored, as in the background of a shell
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """That of the lab of all journeys."""
    with started() as address:
        yield address


@pytest.fixture
def fresh() -> Iterator[str]:
    """That of a lab that nobody has opened."""
    with started() as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options, timeout=PATIENCE)
        yield chromium
        chromium.close()


Opened = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="session")
def opened(browser: Browser) -> Opened:
    """A page whose storage no other page sees, as a context; with options of the browser."""

    @contextmanager
    def page(**options: Any) -> Iterator[Page]:
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        yield context.new_page()
        context.close()

    return page


@pytest.fixture(scope="session")
def signed_in(opened: Opened, address: str) -> dict:
    """The cookies of a browser that has shown the token, and has made the first picture."""
    with opened() as page:
        page.goto(address)
        expect(page.locator(".time .end small")).to_have_text("done")
        expect(page.locator(".time .end img")).to_have_attribute("src", re.compile("/pictures/"))
        return page.context.storage_state()


class Tab(NamedTuple):
    """The page that all tests share, each opening it anew: a new process for each would cost more than its test."""

    page: Page
    faults: list[str]
    """What no test may cause: errors and warnings in the console, requests off the origin."""


@pytest.fixture(scope="session")
def tab(opened: Opened, address: str, signed_in: dict) -> Iterator[Tab]:
    """It moves nothing by itself: frames that nobody sees cost more than the views."""
    faults: list[str] = []
    origin = address.partition("/lab/")[0]
    with opened(storage_state=signed_in, reduced_motion="reduce") as page:
        page.on("console", lambda message: message.type in ("error", "warning") and faults.append(_said(message)))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith((origin, "blob:", "data:")) or faults.append(asked.url))
        page.goto(f"{origin}/lab/")
        yield Tab(page, faults)


@pytest.fixture
def page(kept_page: Page, address: str) -> Page:
    """The lab, opened anew by a browser that has shown the token."""
    kept_page.emulate_media(color_scheme="light")
    kept_page.goto(f"{address.partition('/lab/')[0]}/lab/")  # without a fragment, and so from the server
    expect(kept_page.locator(".time .end img")).to_have_attribute("src", re.compile("/pictures/"))
    return kept_page


@pytest.fixture
def kept_page(tab: Tab, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The lab as the test before has left it; the test fails by what it should not have done.

    Chromium itself writes an answer of 4xx into the console, which the mark ``refusals`` allows.
    """
    tab.faults.clear()
    tab.page.set_viewport_size({"width": 1280, "height": 900})
    yield tab.page
    mark = request.node.get_closest_marker("refusals")
    allowed = "\0" if mark is None else f"status of {mark.args[0] if mark.args else 422}"
    assert [fault for fault in tab.faults if allowed not in fault] == []


def _said(message: ConsoleMessage) -> str:
    return f"{message.text} {message.location.get('url', '')}"
