"""A run is branched at a step, with something changed, with nothing, or painted over."""

import io
import re
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Route, expect

from browser.test_journeys import QUICK, another_run, api, go, job, quick, shown, until_some


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

    go(page, "Guidance")  # whose kept step is shown from the run before; a request for what is not there is a fault
    page.get_by_role("slider", name="Step of the run").press("Home")
    expect(page.locator(".equation .waiting")).to_have_count(0)
    expect(page.locator(".plot circle")).to_have_count(3)
    go(page, "Compare")
    expect(page.get_by_role("status")).to_have_text(
        "They are the same to the last bit for one step, and part in step 2."
    )
    go(page, "Runs")
    expect(page.locator(".tree ul .node.on")).to_contain_text("after step 1: prompt a green car")
    go(page, "Prompt-to-prompt")
    expect(page.locator(".empty")).to_contain_text("This run is a branch")
    go(page, "Ablation")
    page.get_by_role("button", name="Fill in the map").click()
    bands = page.locator(".causes [scope=col]")
    expect(bands.nth(1)).to_have_text(re.compile("^steps 2–"))
    expect(bands.last).to_have_text(re.compile("–3$"))
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator(".begin")).to_contain_text("It was stopped")


def test_a_branch_with_nothing_changed_is_its_run(page):
    quick(page)
    page.get_by_role("slider", name="Step of the run").press("Home")
    page.get_by_role("button", name="Branch after 1").click()
    with another_run(page):
        page.get_by_role("button", name="Repeat from here").click()
    expect(page.get_by_text("This run branched after step 1")).to_be_visible()
    go(page, "Compare")
    expect(page.get_by_role("status")).to_have_text("They are the same in every step, to the last bit.")


def test_another_seed_and_a_grid_of_seeds_leave_a_branch(page):
    """What holds for a whole run cannot change within one."""
    branched = {"prompt": "a green car", "branch": {"step": 1, "request": QUICK}}
    quick(page, **branched)
    assert job(page)["request"]["branch"]
    with another_run(page):
        page.get_by_role("button", name="Another seed").click()
    made = job(page)
    assert (made["request"]["branch"], made["request"]["prompt"]) == (None, "a green car")
    assert made["seeds"] != [QUICK["seed"]]
    quick(page, **branched)
    go(page, "Grid")
    page.get_by_label("seed: values across").fill("1, 2")
    page.get_by_label("guidance scale: values down").fill("2")
    page.get_by_role("button", name="Fill 2 cells").click()
    expect(page.locator(".gridded img")).to_have_count(2)


def test_a_branch_is_offered_at_an_early_step_which_no_other_view_selects(page):
    quick(page, num_inference_steps=8)
    go(page, "Branch")
    expect(page.get_by_role("heading", name="After step 3 of 8")).to_be_visible()
    expect(page.locator(".strip .on")).to_have_attribute("data-step", "2")
    go(page, "Generate")
    expect(page.locator(".strip .on")).to_have_count(0)
    expect(page.locator(".stage img")).to_be_visible()


def test_a_branch_of_a_run_that_is_not_here_is_said_in_the_form_and_can_be_left(page):
    quick(page, prompt="a green car", branch={"step": 1, "request": QUICK})
    left = page.get_by_text("Up to step 1 it follows another run.")
    expect(left).to_be_visible()
    go(page, "Guidance")
    page.get_by_role("slider", name="Step of the run").press("Home")
    expect(page.get_by_text("kept from another run, which is not here")).to_be_visible()
    go(page, "Generate")
    page.get_by_role("button", name="Generate all steps").click()
    expect(left).to_have_count(0)
    with another_run(page):
        page.get_by_role("button", name="Generate", exact=True).click()
    assert job(page)["request"]["branch"] is None


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
