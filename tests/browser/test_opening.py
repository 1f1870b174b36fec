"""What the page shows first: the run with which the lab began, or that of an address."""

import io
import json
from urllib.parse import urlencode

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from browser.test_journeys import LONG, QUICK, RUN, another_run, api, job, shown

FOX = {"prompt": "a red fox", "seed": 32}


def pixels(page: Page) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(api(page, f"pictures/{shown(page)}-0.png").body()))).astype(int)


def test_the_lab_has_begun_a_run_before_any_page_and_the_page_shows_it(fresh, opened):
    jobs = f"{fresh.partition('/lab/')[0]}/api/v1/jobs"
    with opened() as page:
        (first,) = page.request.get(jobs).json()
        assert {name: first["request"][name] for name in FOX} == FOX
        page.goto(fresh)
        assert shown(page) == first["id"]
        expect(page.get_by_label("Prompt", exact=True)).to_have_value(FOX["prompt"])
        expect(page.get_by_label("seed", exact=True)).to_have_value(str(FOX["seed"]))
        expect(page.locator(".time .end small")).to_have_text("done")
        expect(page.locator(".strip lab-raster")).to_have_count(12)
        expect(page.get_by_role("group", name="Quick settings")).to_contain_text("about")
        assert [each["id"] for each in page.request.get(jobs).json()] == [first["id"]]
        begun = pixels(page)
        with another_run(page):
            page.get_by_role("button", name="Generate", exact=True).click()
        assert np.abs(pixels(page) - begun).max() <= 1


def test_an_address_with_options_gets_its_own_run_and_the_one_that_nobody_asked_for_ends(opened, fresh):
    origin = fresh.partition("/lab/")[0]

    def submit(request: dict) -> str:
        made = page.request.post(f"{origin}/api/v1/jobs", data={"interactive": True, "request": request})
        return made.json()["id"]

    def link(request: dict) -> str:
        return f"{origin}/lab/#{urlencode({'request': json.dumps(request)})}"

    with opened() as page:
        page.goto(fresh)
        shown(page)
        busy = [submit(LONG | {"prompt": "a car", "seed": seed}) for seed in range(8)]  # all places of the engine
        first = submit(FOX)
        page.goto("about:blank")
        page.goto(link(FOX))
        assert shown(page) == first
        page.goto("about:blank")
        page.goto(link(QUICK))
        assert job(page)["request"]["prompt"] == QUICK["prompt"]
        assert api(page, f"jobs/{first}").json()["state"] == "cancelled"
        for id in [*busy, shown(page)]:
            page.request.delete(f"{origin}/api/v1/jobs/{id}")


def test_where_a_run_takes_long_the_form_is_filled_and_nothing_runs(opened, signed_in, address):
    with opened(storage_state=signed_in) as page:
        submitted = []
        page.route("**/api/v1/about", lambda route: route.fulfill(json=route.fetch().json() | {"quick": False}))
        page.route("**/api/v1/jobs", lambda route: submitted.append(route.request.post_data) or route.fulfill(json=[]))
        page.goto(f"{address.partition('/lab/')[0]}/lab/")
        expect(page.get_by_label("Prompt", exact=True)).to_have_value(FOX["prompt"])
        expect(page.get_by_label("seed", exact=True)).to_have_value(str(FOX["seed"]))
        page.wait_for_load_state("networkidle")
        assert set(submitted) == {None}
        assert page.evaluate(RUN) is None
