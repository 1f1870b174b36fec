"""The views that look inside: attention both ways, self-attention, text, ablation, edits, modules, and the tours."""

import re

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from browser.test_access import TOO_WIDE
from browser.test_journeys import LONG, fill, go, holding, quick, until_some

READ = """hash => new Promise(read => {
    if (location.hash === hash) return read();
    addEventListener('hashchange', () => requestAnimationFrame(read), {once: true});
    location.hash = hash;
})"""
"""Change the address; ends when the page has read it."""


@pytest.fixture(scope="module")
def run(tab, address: str) -> str:
    """The address of a run into which all tests look."""
    tab.page.goto(f"{address.partition('/lab/')[0]}/lab/")
    expect(tab.page.locator(".time .end img")).to_have_attribute("src", re.compile("/pictures/"))
    quick(tab.page)
    return str(tab.page.evaluate("location.hash"))


@pytest.fixture
def page(run: str, kept_page: Page) -> Page:
    """The lab with this run, nothing selected."""
    kept_page.evaluate(READ, run)
    expect(kept_page.get_by_role("heading", level=1)).to_have_text("Generate")
    expect(kept_page.get_by_label("Prompt", exact=True)).to_have_value("a blue car")
    return kept_page


def finished(page: Page) -> None:
    """Until the experiment of the view has ended."""
    expect(page.locator(".begin progress")).to_have_count(0)


def pictures(page: Page, count: int) -> None:
    expect(page.locator("#main lab-raster")).to_have_count(count)


def asked(page: Page) -> list[str]:
    """Addresses of the server's interface that are asked from now on."""
    seen: list[str] = []
    page.on("request", lambda request: "/api/" in request.url and seen.append(request.url))
    return seen


def word(page: Page, name: str) -> Locator:
    return page.locator(".ranking .word", has_text=name)


def test_a_word_shows_its_places_and_a_place_its_words_without_a_request(page):
    go(page, "Attention")
    expect(page.locator(".ranking")).to_be_visible()
    finished(page)
    seen = asked(page)
    caption = page.locator(".beside figcaption")
    for name in ("blue", "car"):
        word(page, name).hover()
        expect(caption).to_contain_text(f"{name} · mean of all blocks")
    page.locator(".beside lab-raster").hover(position={"x": 20, "y": 20})
    expect(page.locator(".column h2").first).to_contain_text(re.compile(r"What position \d+, \d+ attends to"))
    page.get_by_role("slider", name="Step of the run").press("Home")
    expect(caption).to_contain_text("step 1")
    page.get_by_role("button", name=re.compile("^up 2.2")).click()
    expect(caption).to_contain_text("up 2.2")
    page.get_by_role("group", name="Head").get_by_role("button", name="2").click()
    expect(caption).to_contain_text("head 2")
    assert seen == []
    expect(page).to_have_url(re.compile(r"block=unet\.up\.2\.attn\.2"))


def test_places_are_chosen_by_keyboard(page):
    go(page, "Self-attention")
    expect(page.locator(".two-up lab-raster")).to_have_count(2)
    finished(page)
    seen = asked(page)
    raster = page.locator(".two-up lab-raster").first
    raster.focus()
    raster.press("ArrowRight")
    expect(page.locator(".two-up figcaption").first).to_contain_text("position 6, 5")
    page.get_by_role("button", name=re.compile("^mid 0")).click()
    expect(page.locator(".two-up figcaption").first).to_contain_text("mid 0")
    assert seen == []


def test_a_look_inside_begins_when_its_run_is_done(page):
    fill(page, **LONG)
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_role("button", name=re.compile("^Stop"))).to_be_visible()
    go(page, "Attention")
    expect(page.locator(".begin")).to_have_text("It begins when the run has ended.")
    page.get_by_role("button", name=re.compile("^Stop")).click()
    expect(page.get_by_role("button", name="Look at the attention of this run")).to_be_visible()


@pytest.mark.refusals
def test_a_text_that_is_too_long_is_refused_where_its_tokens_would_stand(page):
    go(page, "Tokens")
    page.get_by_label("Prompt", exact=True).fill("fox " * 5000)
    expect(page.locator(".empty")).to_contain_text("at most 16,384 characters")
    page.get_by_label("Prompt", exact=True).fill("a fox")
    expect(page.locator(".pieces li")).to_have_count(2)


def test_tokens_follow_the_keys(page):
    go(page, "Tokens")
    page.get_by_label("Prompt", exact=True).fill("a hippopotamus")
    chip = page.locator(".piece", has_text="hippo")
    expect(chip).to_contain_text("28398 45825 718")
    chip.hover()
    expect(page.locator(".merges li").last).to_contain_text("potam")
    expect(page.locator(".window li")).to_have_count(77)
    page.get_by_label("Prompt", exact=True).fill("a " * 90)
    expect(page.locator(".warned")).to_be_visible()


def test_each_layer_of_the_text_encoder_has_a_picture(page):
    go(page, "Text layers")
    expect(page.locator(".film lab-raster")).to_have_count(6)
    page.get_by_role("button", name="The picture from the layer 2").click()
    expect(page.get_by_role("heading", name="Which token attends to which, in layer 2")).to_be_visible()
    page.get_by_role("button", name="The picture from the embeddings").click()
    expect(page.locator(".empty")).to_contain_text("do not depend on each other")


def test_meanings_are_mixed(page):
    go(page, "Mix")
    page.locator(".controls select").select_option("car")
    page.get_by_label("into the word").fill("fox")
    with page.expect_request("**/api/v1/inspections") as asking:
        page.get_by_role("button", name="arc").click()  # begins nothing
        page.get_by_role("button", name="Mix", exact=True).click()
    assert asking.value.post_data_json["options"]["method"] == "slerp"
    expect(page.locator(".film lab-raster")).to_have_count(5)
    expect(page.locator(".film small").first).to_have_text("car")


def test_a_part_is_switched_off_and_the_map_fills_in(page):
    quick(page, width=128, height=128)  # so that its map is not full before it is stopped
    go(page, "Ablation")
    heads = page.get_by_role("group", name="Heads")
    expect(heads.get_by_role("button")).to_have_count(4)
    heads.get_by_role("button", name="2").click()
    expect(heads.get_by_role("button", pressed=True)).to_have_count(1)
    page.get_by_role("switch", name="up 2.0: attention to the text").click()
    expect(heads).to_have_count(0)
    page.get_by_role("button", name="Run without").click()
    finished(page)
    expect(page.locator(".cards figcaption").last).to_contain_text("deviations of the latents")
    page.get_by_role("button", name="Fill in the map").click()
    cell = page.locator(".causes .cell:enabled").first
    expect(cell).to_be_visible()
    cell.click()
    expect(page.locator(".toggle[aria-checked=false]")).to_have_count(1)
    page.get_by_role("button", name="Stop", exact=True).last.click()
    expect(page.locator(".begin")).to_contain_text("It was stopped")


def test_a_part_is_switched_off_where_it_is_painted(page):
    go(page, "Ablation")
    page.get_by_text(re.compile("Everywhere, or only where you paint|Only where it is painted")).click()
    page.get_by_role("application", name="Where it is changed").press("Space")
    expect(page.get_by_text("Only where it is painted")).to_be_visible()
    page.get_by_role("button", name="Run without").click()  # what is copied is what is on show
    finished(page)
    page.locator("details.copy summary").click()
    code = page.locator("details.copy code")
    expect(code).to_contain_text('"area": "0')
    expect(code).to_contain_text("1110")
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.get_by_text("Everywhere, or only where you paint")).to_be_visible()


def test_stop_is_heard_before_the_server_has_answered_and_while_the_words_beside_it_change(page):
    quick(page, width=128, height=128, seed=16)  # whose map nobody has begun
    go(page, "Ablation")
    begin, stop = (page.get_by_role("button", name=name, exact=True) for name in ("Fill in the map", "Stop"))
    line = page.locator(".begin")
    with holding(page, "inspections") as held:
        begin.click()
        stop.click()
        until_some(page, held)
        held.pop().continue_()
        expect(line).to_contain_text("It was stopped")
        page.get_by_role("button", name="Again").click()
        begin.click()
        until_some(page, held)
        stop.hover()
        page.mouse.down()
        held.pop().continue_()
        expect(line).to_contain_text(re.compile("[0-9] runs"))
        page.mouse.up()
        expect(line).to_contain_text("It was stopped")


def test_a_prompt_is_edited_with_the_attention_of_another(page):
    go(page, "Prompt-to-prompt")
    page.get_by_label("Edited prompt").fill("a red car")
    page.get_by_role("button", name="Edit", exact=True).click()
    pictures(page, 5)
    expect(page.locator(".pieces")).to_contain_text("blue → red")


def test_a_colour_pushes_the_estimates(page):
    go(page, "Loss guidance")
    page.get_by_role("button", name="Guide", exact=True).click()
    pictures(page, 5)
    page.get_by_role("slider", name="Step of the run").press("Home")
    expect(page.get_by_role("heading", name="What the gradient does at step 1")).to_be_visible()


def test_modules_have_shapes_a_histogram_and_their_source(page):
    go(page, "Modules")
    page.locator(".module", has_text="conv_in").first.click()
    expect(page.locator(".spread rect")).to_have_count(64)
    expect(page.locator(".browser .column")).to_contain_text("192 × 4 × 3 × 3")
    page.locator(".module", has_text="down.0").first.click()
    page.locator(".code summary").click()
    expect(page.locator(".code pre")).to_contain_text("class Stage(nn.Module)")
    assert not page.evaluate(TOO_WIDE)


def test_a_tour_is_walked_left_and_found_again(page):
    go(page, "Tours")
    expect(page.locator(".tour")).to_have_count(10)
    page.locator(".tour", has_text="How does a text become numbers?").click()
    card = page.get_by_role("complementary", name=re.compile("^Tour"))
    expect(card).to_contain_text("1 / 5")
    expect(page.get_by_role("heading", level=1)).to_have_text("Tokens")
    for number, title in ((2, "Tokens"), (3, "Text layers")):
        card.get_by_role("button", name="Next").click()
        expect(card).to_contain_text(f"{number} / 5")
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
    expect(page).to_have_url(re.compile(r"tour=04\.3"))
    page.reload()
    expect(card).to_contain_text("3 / 5")
    card.get_by_role("button", name="Leave the tour").click()
    expect(card).to_have_count(0)


def test_a_tour_begins_where_its_stops_come_late(page):
    held: list[Route] = []
    page.route("**/lab/tours/04.json", lambda route: held.append(route))
    page.reload()
    go(page, "Tours")
    page.locator(".tour", has_text="How does a text become numbers?").click()
    until_some(page, held)
    held[0].continue_()
    page.unroute("**/lab/tours/04.json")
    expect(page.get_by_role("heading", level=1)).to_have_text("Tokens")
    page.get_by_role("button", name="Leave the tour").click()
