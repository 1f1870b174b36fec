"""The stream of events, as the page hears it."""

import re

import pytest
from playwright.sync_api import expect

from browser.test_journeys import RUN, fill, holding, job, shown, until_some


def test_a_run_that_ended_before_the_stream_of_events_began_is_done(page, address):
    with holding(page, r"events\?estimates=true", "GET") as held:
        page.goto(f"{address.partition('/lab/')[0]}/lab/")
        expect(page.locator(".time .end img")).to_have_attribute("src", re.compile("/pictures/"))
        until_some(page, held)
        fill(page)
        before = shown(page)
        page.get_by_role("button", name="Generate", exact=True).click()
        page.wait_for_function(f"before => ({RUN} ?? before) !== before", arg=before)
        while job(page)["state"] != "done":
            page.wait_for_timeout(20)
        expect(page.locator(".time .end small")).not_to_have_text("done")
        held.pop().continue_()
        expect(page.locator(".time .end small")).to_have_text("done")


@pytest.mark.refusals(503)
def test_events_come_again_after_an_answer_that_is_no_stream(page, address):
    answers = []

    def refuse_first(route):
        answers.append(route)
        if len(answers) == 1:
            route.fulfill(status=503, body="busy")
        else:
            route.continue_()

    page.route("**/api/v1/events*", refuse_first)
    page.goto(f"{address.partition('/lab/')[0]}/lab/")
    expect(page.locator(".time .end img")).to_have_attribute("src", re.compile("/pictures/"))
    expect(page.get_by_text("no connection")).to_be_visible()
    expect(page.get_by_text("no connection")).to_be_hidden()
    assert len(answers) == 2


def test_a_run_that_a_new_server_does_not_know_has_failed(page, address):
    page.goto(f"{address.partition('/lab/')[0]}/lab/")
    expect(page.locator(".time .end img")).to_have_attribute("src", re.compile("/pictures/"))
    ready = {"status": 200, "content_type": "text/event-stream", "body": "retry: 100\nevent: ready\ndata: {}\n\n"}
    page.route("**/api/v1/events*", lambda route: route.fulfill(**ready))
    page.reload()
    fill(page, num_inference_steps=150)
    before = shown(page)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function(f"before => ({RUN} ?? before) !== before", arg=before)
    page.route("**/api/v1/jobs", lambda route: route.fulfill(json=[]))
    expect(page.get_by_text("The server was stopped before it ended.").first).to_be_visible()
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_visible()
    page.unroute_all()
    page.request.delete(f"{address.partition('/lab/')[0]}/api/v1/jobs/{shown(page)}")
