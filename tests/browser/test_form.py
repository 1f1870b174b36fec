"""The form of the options: what it says before one chooses, and what it keeps."""

import re

import pytest
from playwright.sync_api import Page, expect

from browser.test_journeys import DRAGGED, fill, go, quick


def test_groups_stay_as_they_were_left(page: Page) -> None:
    group = page.locator("details.group").nth(1)
    for is_open in (True, False):
        group.locator("summary").click()
        for view in ("Runs", "Generate"):
            go(page, view)
        expect(group).to_have_js_property("open", is_open)
    go(page, "Schedule")
    page.get_by_text("The numbers").click()
    for view in ("Generate", "Schedule"):
        go(page, view)
    expect(page.get_by_role("region", name="Noise levels as a table")).to_be_visible()


def test_a_number_is_read_as_it_is_typed(page: Page) -> None:
    """Also where its beginning is no number yet."""
    go(page, "Generate")
    for name, typed, read in (
        ("seed", "1e3", 1000),
        ("guidance_scale", "-6.5", -6.5),
        ("num_inference_steps", "0012", 12),
    ):
        page.locator(f"#option-{name}").fill("5")
        page.locator(f"#option-{name}").press("Backspace")
        page.locator(f"#option-{name}").press_sequentially(typed)
        page.wait_for_function(
            "([name, read]) => JSON.parse(new URLSearchParams(location.hash.slice(1)).get('request'))[name] === read",
            arg=[name, read],
        )


def test_noise_levels_of_ones_own_are_said_in_the_form(page: Page) -> None:
    fill(page, sigmas=[14.6, 5.0, 1.0, 0.0])
    chosen = page.locator("#option-sigmas option:checked")
    expect(chosen).to_have_text("4 own values")
    fill(page, sigmas="karras")
    expect(chosen).to_have_text("karras")
    fill(page)
    expect(chosen).to_have_text("model (preset)")


@pytest.mark.refusals
def test_a_refusal_names_an_option_as_the_form_does(page: Page) -> None:
    fill(page, num_inference_steps=0)
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text(re.compile("^\\s*steps: got 0"))
    expect(page.locator(".field.wrong label")).to_have_text("steps")


@pytest.mark.refusals
def test_a_photo_that_is_dropped_is_the_image_to_start_from(page: Page) -> None:
    page.locator("h1").evaluate(DRAGGED, ["drop", "/lab/opening/fox.webp"])
    expect(page.locator(".note")).to_contain_text("the image to start from")
    expect(page.locator("lab-paint")).to_be_visible()
    page.get_by_role("button", name="Remove image").click()


def test_options_that_the_model_does_not_have_are_not_offered(page: Page) -> None:
    for name in ("image_guidance_scale", "original_size", "target_size"):
        expect(page.locator(f"#option-{name}")).to_have_count(0)
    expect(page.locator("#option-strength")).to_have_count(1)
    fill(page, image_guidance_scale=2)  # which is refused, and so has to be seen
    expect(page.locator("#option-image_guidance_scale")).to_have_value("2")


def test_quick_settings_say_what_they_make_and_cost(page: Page) -> None:
    """In sight, not on hover; seconds are those of a run like it, once there was one."""
    quick(page)
    buttons = page.get_by_role("group", name="Quick settings").get_by_role("button")
    expect(buttons).to_contain_text(["5 steps, 64×64", "12 steps, 256×256", "36 steps, 256×256"])
    expect(buttons.first).to_have_text(re.compile(r"Draft\s+5 steps, 64×64, about \d+ s"))
