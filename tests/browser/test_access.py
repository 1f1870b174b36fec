"""Every view by axe, in both themes, narrow and wide; by keyboard; without motion; light."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from browser.test_journeys import another_run, fill, go, quick

AXE = Axe()


def views(page: Page) -> list[str]:
    return page.locator("nav.views a").all_inner_texts()


def violations(page: Page) -> list[str]:
    found = AXE.run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]


TOO_WIDE = "(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)(document.getElementById('main'))"
SCROLLS = """(({ scrollWidth, clientWidth, scrollHeight, clientHeight }) =>
    scrollWidth > clientWidth || scrollHeight > clientHeight)(document.documentElement)"""


@pytest.mark.slow
@pytest.mark.parametrize(("theme", "widths"), [("light", [1280, 2560]), ("dark", [390])])
def test_no_view_violates_a_rule_of_axe_or_is_wider_than_the_window(page, theme, widths):
    quick(page)
    page.emulate_media(color_scheme=theme)
    faults = []
    for name in views(page):
        page.set_viewport_size({"width": widths[0], "height": 844})
        go(page, name)
        expect(page.locator("#main :is(.waiting, .begin progress)")).to_have_count(0)  # all that it shows is there
        expect(page.get_by_text("reading …")).to_have_count(0)
        faults += [f"{name}, {theme}: {fault}" for fault in violations(page)]
        for width in widths:
            page.set_viewport_size({"width": width, "height": 844})
            faults += [f"{name} is wider than {width}"] if page.evaluate(TOO_WIDE) else []
            faults += [f"the page around {name} scrolls at {width}"] if page.evaluate(SCROLLS) else []
    assert faults == []


def test_on_a_phone_the_views_are_a_menu_of_all(page):
    menu, link = page.locator("nav.views .menu"), page.get_by_role("link", name="Self-attention")
    expect(menu).to_be_hidden()
    expect(link).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    expect(link).to_be_hidden()
    menu.click()
    expect(page.locator("nav.views a:visible")).to_have_count(page.locator("nav.views a").count())
    assert violations(page) == []
    page.keyboard.press("Escape")
    expect(link).to_be_hidden()
    go(page, "Self-attention")
    expect(menu).to_have_text(re.compile("Inside › *Self-attention"))
    expect(link).to_be_hidden()
    page.get_by_text("Copy as…").click()
    assert page.locator(".copy .sheet").bounding_box()["x"] >= 0


def test_on_a_phone_the_strip_shows_the_step_that_is_chosen(page):
    page.set_viewport_size({"width": 390, "height": 844})
    quick(page, num_inference_steps=12)
    page.get_by_role("slider", name="Step of the run").press("End")
    expect(page.locator(".strip .on")).to_be_in_viewport(ratio=0.9)


def test_a_term_is_explained_on_focus_and_on_hover(page):
    go(page, "Schedule")
    term, meaning = page.locator("dfn", has_text="noise level"), page.get_by_role("tooltip")
    expect(meaning).to_have_count(0)
    term.focus()
    expect(term).to_have_accessible_description(re.compile("^how much noise there is"))
    expect(meaning).to_be_visible()
    assert violations(page) == []
    page.keyboard.press("Escape")
    expect(meaning).to_have_count(0)
    term.hover()
    expect(meaning).to_be_visible()


def test_a_picture_is_made_and_scrubbed_with_the_keyboard_alone(page):
    fill(page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the view")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("a yellow fish")
    with another_run(page):
        page.keyboard.press("Enter")
    expect(page.locator(".stage [alt='a yellow fish']")).to_be_visible()
    strip = page.get_by_role("slider", name="Step of the run")
    strip.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(strip).to_have_attribute("aria-valuetext", re.compile("step 2 of"))


def test_a_control_that_goes_leaves_the_focus_to_the_view(page):
    quick(page)
    page.get_by_role("button", name="Where the words went").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Attention")
    expect(page.locator("#main")).to_be_focused()


def test_the_theme_is_chosen_and_remembered(opened, signed_in, address):
    with opened(storage_state=signed_in) as page:
        page.goto(f"{address.partition('/lab/')[0]}/lab/")
        background = "getComputedStyle(document.documentElement).backgroundColor"
        page.emulate_media(color_scheme="light")
        light = page.evaluate(background)
        page.get_by_role("button", name="Colours: auto").click()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        assert page.evaluate(background) != light
        page.reload()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
