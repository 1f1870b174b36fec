"""A run is branched at a step, with something changed, with nothing, or painted over."""

import io
import re
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Route, expect

from browser.test_journeys import another_run, api, go, job, quick, shown, until_some


def test_a_run_is_branched_at_a_step_and_keeps_the_steps_before(page):
    quick(page)
    before = shown(page)
    page.get_by_role("slider", name="Step of the run").press("Home")
    page.get_by_role("button", name="Branch after 1").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Branch")
    prompt = page.get_by_label("prompt", exact=True)
    expect(prompt).to_have_value(job(page)["request"]["prompt"])  # to be edited, not to be typed again
    prompt.fill("a green car")
    expect(page.get_by_role("button", name="Branch from here")).to_be_visible()  # while the field has the focus
    with another_run(page):
        prompt.press("Enter")
    expect(page.get_by_text("This run branched after step 1")).to_be_visible()
    expect(page.get_by_role("heading", name="After step 1 of 3")).to_be_visible()
    after = shown(page)
    steps = [[api(page, f"jobs/{id}/images/0/steps/{step}/x0").body() for step in range(3)] for id in (before, after)]
    assert steps[0][0] == steps[1][0]
    assert steps[0][2] != steps[1][2]

    page.get_by_text("Copy as…").click()
    code = page.locator(".copy code").inner_text().replace('result.save("image.png")', "")
    made: dict[str, Any] = {}
    exec(compile(code, "copied", "exec"), made)
    image = Image.open(io.BytesIO(api(page, f"pictures/{after}-0.png").body())).convert("RGB")
    assert np.abs(made["array"].astype(int) - np.asarray(image).astype(int)).max() <= 1

    go(page, "Compare")
    expect(page.get_by_role("status")).to_have_text(
        "They are the same to the last bit for one step, and part in step 2."
    )
    go(page, "Runs")
    expect(page.locator(".tree ul .node.on")).to_contain_text("after step 1: prompt a green car")


def test_a_branch_with_nothing_changed_is_its_run(page):
    quick(page)
    page.get_by_role("slider", name="Step of the run").press("Home")
    page.get_by_role("button", name="Branch after 1").click()
    with another_run(page):
        page.get_by_role("button", name="Repeat from here").click()
    expect(page.get_by_text("This run branched after step 1")).to_be_visible()
    go(page, "Compare")
    expect(page.get_by_role("status")).to_have_text("They are the same in every step, to the last bit.")


def test_latents_are_painted_over_and_the_branch_starts_from_them(page):
    quick(page)
    page.get_by_role("slider", name="Step of the run").press("Home")
    held: list[Route] = []
    latents = re.compile("/steps/0/x$")
    page.route(latents, lambda route: held.append(route))
    page.get_by_role("button", name="Branch after 1").click()
    canvas = page.get_by_role("application", name=re.compile("to paint"))
    until_some(page, held)
    expect(canvas).to_have_count(0)  # while what is painted over is on its way
    held[0].continue_()
    page.unroute(latents)
    canvas.focus()
    canvas.press("ArrowRight")
    canvas.press("Space")
    expect(page.get_by_role("button", name="Take the paint away")).to_be_visible()
    with another_run(page):
        page.get_by_role("button", name="Branch from here").click()
    expect(page.get_by_text("This run branched after step 1")).to_be_visible()
    assert job(page)["request"]["branch"]["x"]["shape"] == [1, 4, 8, 8]
