"""Every view by axe, in both themes, narrow and wide; by keyboard; without motion; light."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from browser.test_journeys import quick

AXE = Axe()


def views(page: Page) -> list[str]:
    return page.locator("nav.views a").all_inner_texts()


def violations(page: Page) -> list[str]:
    found = AXE.run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_no_view_violates_a_rule_of_axe(page, theme, width):
    quick(page)
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 844})
    faults = []
    for name in views(page):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        faults += [f"{name}, {theme}: {fault}" for fault in violations(page)]
    assert faults == []


@pytest.mark.parametrize("width", [390, 2560])
def test_no_view_is_wider_than_the_window(page, width):
    quick(page)
    page.set_viewport_size({"width": width, "height": 844})
    for name in views(page):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        assert page.evaluate("document.getElementById('main').scrollWidth") <= page.evaluate(
            "document.getElementById('main').clientWidth"
        ), name


def test_a_picture_is_made_and_scrubbed_with_the_keyboard_alone(page):
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the view")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("a yellow fish")
    page.keyboard.press("Enter")
    expect(page.locator(".stage [alt='a yellow fish']")).to_be_visible()
    expect(page.locator(".time .end small")).to_have_text("done")
    strip = page.get_by_role("slider", name="Step of the run")
    strip.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(strip).to_have_attribute("aria-valuetext", re.compile("step 2 of"))


def test_the_theme_is_chosen_and_remembered(page):
    background = "getComputedStyle(document.documentElement).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(background)
    page.get_by_role("button", name="Colours: auto").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.evaluate(background) != light
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
