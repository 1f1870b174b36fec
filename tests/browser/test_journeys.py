"""What a person does in the lab, from opening it to branching a run."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

QUICK = {"prompt": "a blue car", "seed": 5, "num_inference_steps": 3, "width": 64, "height": 64, "upscale": 1}
LONG = {"num_inference_steps": 250, "width": 256, "height": 256}
"""Minutes of work: what is stopped has not ended by itself, however slow the browser is."""

TYPED = """texts => {
    for (const [label, text] of Object.entries(texts)) {
        const field = document.querySelector(`[aria-label="${label}"]`);
        field.value = text;
        field.dispatchEvent(new Event('input', {bubbles: true}));
    }
}"""
"""Type into several fields before the next frame."""

RUN = "new URLSearchParams(location.hash.slice(1)).get('run')"


def go(page: Page, view: str) -> None:
    menu = page.locator("nav.views .menu[aria-expanded=false]")
    if menu.is_visible():  # on a narrow page
        menu.click()
    page.get_by_role("link", name=view, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(view)


def fill(page: Page, **options: object) -> None:
    """Fill the form by the address."""
    request = json.dumps(QUICK | options)
    page.evaluate("request => { location.hash = new URLSearchParams({view: 'generate', request}) }", request)
    shown(page)  # the page has read the address and written its own
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(str((QUICK | options)["prompt"]))


def shown(page: Page) -> str:
    """The run on show, which stands in the address."""
    return page.wait_for_function(
        f"() => {RUN}"
    ).json_value()  # a bare text would be evaluated again, as the page forbids


@contextmanager
def another_run(page: Page) -> Iterator[None]:
    """What is done in this context shows another run; after it that run is done."""
    before = shown(page)
    yield
    page.wait_for_function(f"before => ({RUN} ?? before) !== before", arg=before)
    expect(page.locator(".time .end small")).to_have_text("done")


def quick(page: Page, **options: object) -> None:
    """Fill the form, and generate."""
    fill(page, **options)
    with another_run(page):
        page.get_by_role("button", name="Generate", exact=True).click()


def api(page: Page, path: str):
    return page.request.get(f"{page.url.partition('/lab/')[0]}/api/v1/{path}")


def job(page: Page) -> dict:
    """The job on show, as the server describes it."""
    return api(page, f"jobs/{shown(page)}").json()


def test_a_picture_is_seen_before_the_model_answers(opened, address):
    with opened() as page:
        page.route("**/api/v1/**", lambda route: route.abort())
        page.goto(address.partition("#")[0])
        expect(page.locator("img[src='opening/fox.webp']").first).to_be_visible()
        expect(page.locator(".strip lab-raster")).to_have_count(12)
        expect(page.get_by_role("alert")).to_contain_text("does not answer")


def test_without_the_token_the_page_says_what_to_do(opened, address):
    with opened() as page:
        page.goto(address.partition("#")[0])
        expect(page.get_by_role("alert")).to_contain_text("has not shown the token")


def test_an_address_with_a_token_is_taken_in_a_tab_that_is_open(opened, address):
    """Only the fragment differs from what is there, and so the browser itself loads nothing."""
    with opened() as page:
        page.goto(address.partition("#")[0])
        expect(page.get_by_role("alert")).to_contain_text("has not shown the token")
        page.goto(address)
        expect(page.locator(".bar .model")).to_have_text("emoji")
        assert address.rpartition("=")[2] not in page.url


def test_a_view_without_a_model_says_so(opened, address):
    with opened() as page:
        page.goto(address.partition("#")[0])
        expect(page.get_by_role("alert")).to_contain_text("has not shown the token")
        for view in ("Text layers", "Mix", "Attention", "Self-attention", "Prompt-to-prompt", "Loss guidance"):
            go(page, view)
            expect(page.locator(".empty")).to_contain_text("There is no model yet")


def test_the_token_leaves_the_address_and_the_cookie_is_out_of_reach(page, signed_in, address):
    token = address.rpartition("=")[2]
    assert token not in page.url
    assert page.evaluate("document.cookie") == ""
    (cookie,) = signed_in["cookies"]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")


def test_a_prompt_becomes_a_picture_with_its_receipt(page):
    quick(page)
    assert job(page)["receipts"][0]["prompt"] == ["a blue car"]
    picture = page.locator(".stage img")
    expect(picture).to_have_attribute("alt", "a blue car")
    content = page.request.get(page.url.partition("/lab/")[0] + picture.get_attribute("src")).body()
    assert json.loads(Image.open(io.BytesIO(content)).text["diffuscope"])["seed"] == [5]


def test_what_is_there_stays_until_there_is_more(page):
    quick(page)
    before = page.locator(".stage img").get_attribute("src")
    fill(page, **LONG | {"width": 288})  # whose estimates are asked for: they are too large for an event
    with holding(page, r"jobs/\w+/images/0/steps/\d+/x0", "GET") as held:
        page.get_by_role("button", name="Generate", exact=True).click()
        until_some(page, held)
        expect(page.locator(".stage .before img")).to_have_attribute("src", before)
        held[0].continue_()
        expect(page.locator(".stage figcaption")).to_contain_text("after step 1 of 250")
        expect(page.locator(".stage img")).to_have_count(0)
    page.get_by_role("button", name=re.compile("^Stop")).click()
    expect(page.locator(".time .end small")).to_have_text("cancelled")


def test_the_model_says_what_it_draws_and_what_it_never_learned(page):
    about = api(page, "about").json()
    draws = page.locator(".draws")
    expect(draws).to_contain_text(about["draws"])
    assert draws.get_by_role("button").all_inner_texts() == about["examples"]
    fill(page)
    with another_run(page):
        draws.get_by_role("button").first.click()
    assert job(page)["request"]["prompt"] == about["examples"][0]
    expect(page.locator(".warned")).to_have_count(0)
    quick(page, prompt="a blue zebrafish")
    expect(page.locator(".warned")).to_contain_text("the model never learned 'zebrafish'")


def test_the_address_holds_what_one_sees(page, opened, signed_in):
    quick(page)
    go(page, "Steps")
    page.get_by_role("slider", name="Step of the run").press("Home")
    with opened(storage_state=signed_in) as other:
        other.goto(page.evaluate("location.href"))
        expect(other.get_by_role("heading", level=1)).to_have_text("Steps")
        expect(other.locator(".where")).to_contain_text("step 1 of 3")


def test_an_address_counts_though_a_rendering_writes_the_older_one_back(page):
    """What a frame between the change and its event does."""
    page.evaluate("""() => {
        const older = location.hash;
        location.hash = new URLSearchParams({ request: JSON.stringify({ prompt: 'a green pear' }) });
        history.replaceState(null, '', older);
    }""")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a green pear")


@pytest.mark.refusals
def test_an_impossible_option_is_explained_at_its_field(page):
    page.get_by_label("seed", exact=True).fill("-3")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("seed")
    expect(page.locator(".field.wrong")).to_contain_text("seed")
    page.locator("#main").evaluate("main => main.scrollTo(0, main.scrollHeight)")
    expect(page.get_by_role("alert")).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("kind", ["x", "x0"])
def test_the_numbers_shown_are_those_of_the_library(page, kind):
    """What a cell says is the server's float, and that is the library's."""
    quick(page)
    go(page, "Steps")
    answer = api(page, f"jobs/{shown(page)}/images/0/steps/2/{kind}")
    shape = [int(side) for side in answer.headers["x-shape"].split(",")]
    values = np.frombuffer(answer.body(), "<f4").reshape(shape)
    page.get_by_role("button", name="Latents" if kind == "x" else "Clean estimate").click()
    channel = page.get_by_role("application", name=re.compile("^Channel 1 of"))
    channel.focus()
    channel.press("ArrowRight")
    x, y = shape[2] // 2 + 1, shape[1] // 2
    expect(channel.locator("output")).to_have_text(f"{values[1, y, x]:.3f}".replace("-", "−"))
    expect(page.get_by_role("heading", name=f"Position {x},{y} through the run")).to_be_visible()


@contextmanager
def holding(page: Page, path: str, method: str = "POST") -> Iterator[list[Route]]:
    """Requests of the page to this path are held in the list, until the test lets them go."""
    held: list[Route] = []
    url = re.compile(rf"/api/v1/{path}$")
    page.route(url, lambda route: held.append(route) if route.request.method == method else route.continue_())
    yield held
    page.unroute(url)


def until_some(page: Page, held: list[Route], count: int = 1) -> None:
    while len(held) < count:
        page.wait_for_timeout(20)


def test_an_answer_that_comes_late_takes_no_newer_one_from_the_page(page):
    quick(page)
    with holding(page, "jobs") as held:
        for seed in (6, 7):
            page.get_by_label("seed", exact=True).fill(str(seed))
            page.get_by_label("seed", exact=True).press("Enter")
        until_some(page, held, 2)
        with another_run(page):
            held.pop().continue_()
        newer = shown(page)
        with page.expect_response(re.compile("/api/v1/jobs$")) as answered:
            held.pop().continue_()
    older = answered.value.json()["id"]
    go(page, "Runs")
    expect(page.locator(".tree .node", has_text="seed 6 ·").first).to_be_visible()
    assert older != newer == shown(page)


def test_a_dot_of_the_schedule_becomes_a_noise_level_of_the_run(page):
    quick(page)
    go(page, "Schedule")
    with another_run(page):
        page.get_by_role("slider", name="noise level 2").press("PageUp")
    expect(page.locator(".tools-row")).to_contain_text("your own levels")
    levels = job(page)["request"]["sigmas"]
    assert len(levels) == 4
    assert levels == sorted(levels, reverse=True)


def test_guidance_is_the_sum_that_is_shown(page):
    quick(page)
    go(page, "Guidance")
    parts = {}
    for kind in ("cond", "uncond", "x0"):
        parts[kind] = np.frombuffer(api(page, f"jobs/{shown(page)}/images/0/steps/1/{kind}").body(), "<f4")
    scale = job(page)["receipts"][0]["guidance_scale"]
    mixed = parts["uncond"] + scale * (parts["cond"] - parts["uncond"])
    np.testing.assert_allclose(mixed, parts["x0"], rtol=1e-4, atol=1e-4)
    page.get_by_role("slider", name="guidance scale").fill("6")
    expect(page.get_by_role("button", name="Generate with 6.0")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("over 3 steps"))).to_be_visible()


def test_a_mask_is_painted_over_an_image_and_only_its_area_changes(page):
    quick(page)
    page.get_by_role("button", name="Start from this image").click()
    mask = page.get_by_role("application", name=re.compile("^Image input"))
    expect(page.get_by_text("Image to image.")).to_be_in_viewport()
    page.get_by_role("slider", name="brush").fill("40")
    mask.hover()  # waits until it has its place
    box = mask.bounding_box()
    mask.hover(position={"x": box["width"] * 0.7, "y": box["height"] * 0.4})
    page.mouse.down()
    mask.hover(position={"x": box["width"] * 0.7, "y": box["height"] * 0.6})
    with holding(page, "pictures") as held:  # the mask is on its way when the run is asked for
        page.mouse.up()
        before = shown(page)
        page.get_by_label("Prompt", exact=True).fill("a green frog")
        until_some(page, held)
        with another_run(page):
            page.get_by_role("button", name="Generate", exact=True).click()
            held.pop().continue_()
    expect(page.get_by_text("Inpainting.")).to_be_visible()
    after = job(page)
    assert after["receipts"][0]["mask_image"] is not None
    one, other = (
        np.asarray(Image.open(io.BytesIO(api(page, f"pictures/{id}-0.png").body())).convert("RGB")).astype(int)
        for id in (before, after["id"])
    )
    width = one.shape[1]
    changed = np.abs(one - other).mean(axis=(0, 2))
    assert changed[width // 2 : width * 7 // 8].mean() > 3 * changed[: width * 3 // 8].mean()

    go(page, "Schedule")
    expect(page.get_by_text("the image enters here")).to_be_visible()

    go(page, "Attention")  # of this run, with its image and mask
    expect(page.get_by_role("application", name=re.compile("^Attention to “green”"))).to_be_visible()
    inspection = api(page, "jobs").json()[-1]
    assert (inspection["label"], bool(inspection["image"]), bool(inspection["mask_image"])) == ("attention", True, True)

    go(page, "Generate")  # the next page opens with the last run, and that with its image
    page.get_by_role("button", name="Remove image").click()
    quick(page)


INFOTEXT = "a green frog\nNegative prompt: grey\nSteps: 4, Sampler: Euler a, CFG scale: 3, Seed: 77, Size: 128x128"


DRAGGED = """async (target, [kind, url]) => {
    const blob = await (await fetch(url)).blob();
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([blob], 'picture.png', { type: 'image/png' }));
    target.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer }));
}"""


def test_a_picture_that_is_dropped_anywhere_gives_its_settings(page):
    quick(page)
    made = shown(page)
    fill(page, prompt="a green frog", seed=6)
    go(page, "Steps")
    for kind, seen in (("dragover", "hovers"), ("drop", "")):
        page.locator("h1").evaluate(DRAGGED, [kind, f"/api/v1/pictures/{made}-0.png"])
        expect(page.locator("html")).to_have_class(seen)
    expect(page.get_by_role("heading", level=1)).to_have_text("Generate")
    expect(page.locator(".note")).to_contain_text("press Generate to make it again")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a blue car")
    expect(page.get_by_label("seed", exact=True)).to_have_value("5")
    with another_run(page):
        page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator(".note")).to_have_count(0)


def test_the_settings_of_a_picture_are_taken(page, tmp_path):
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text("parameters", INFOTEXT)
    path = tmp_path / "frog.png"
    Image.new("RGB", (16, 16)).save(path, pnginfo=texts)
    page.get_by_label("Take settings from a picture").set_input_files(path)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a green frog")
    expect(page.get_by_label("seed", exact=True)).to_have_value("77")
    expect(page.get_by_label("negative prompt", exact=True)).to_have_value("grey")
    expect(page.get_by_label("sampler", exact=True)).to_have_value("euler_ancestral")


@pytest.mark.refusals
def test_what_is_no_picture_is_refused_in_a_sentence(page, tmp_path):
    path = tmp_path / "letter.png"
    path.write_bytes(b"dear diary")
    page.get_by_label("Take settings from a picture").set_input_files(path)
    expect(page.get_by_role("alert")).to_contain_text("picture")


def test_a_grid_is_filled_and_a_cell_opens_as_a_run(page):
    quick(page)
    go(page, "Grid")
    across, down = "seed: values across, between commas", "guidance scale: values down, between commas"
    page.evaluate(TYPED, {across: "3, 4", down: "2"})
    page.get_by_role("button", name="Fill 2 cells").click()
    expect(page.locator(".gridded img")).to_have_count(2)
    page.get_by_role("button", name="Open seed 4, guidance scale 2").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Generate")
    expect(page.get_by_label("seed", exact=True)).to_have_value("4")


SHOWS = """async ([isDraft, scale]) => {
    const id = new URLSearchParams(location.hash.slice(1)).get('run');
    const { state, slot, request } = await (await fetch(`/api/v1/jobs/${id}`)).json();
    return state === 'done' && Boolean(slot) === isDraft && request.guidance_scale === scale;
}"""


def test_a_draft_follows_a_slider_and_the_latest_wins(page):
    quick(page)
    page.get_by_label("Live").check()
    slider = page.get_by_role("slider", name="guidance scale, slider")
    drag = """(slider, [kind, ...values]) => values.forEach((value) => {
        slider.value = value;
        slider.dispatchEvent(new Event(kind, { bubbles: true }));
    })"""
    slider.evaluate(drag, ["input", 3, 4, 5, 6])
    page.wait_for_function(SHOWS, arg=[True, 6], polling=100)
    slider.evaluate(drag, ["input", 7, 8, 9])
    slider.evaluate(drag, ["change", 9])  # the hand leaves it while drafts are under way
    page.wait_for_function(SHOWS, arg=[False, 9], polling=100)


def test_a_run_can_be_stopped(page):
    fill(page, **LONG)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".time .end small")).to_have_text("cancelled")
