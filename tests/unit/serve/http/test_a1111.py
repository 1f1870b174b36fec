"""AUTOMATIC1111's interface on a tiny model, asked by its own client where that can ask."""

import base64
import io
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import webuiapi
from PIL import Image
from starlette.testclient import TestClient

from diffuscope.images import png_bytes
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.receipt import JSON_KEY
from diffuscope.serve import Engine
from diffuscope.serve.http.app import application
from diffuscope.serve.http.fill import filled
from served import PATIENCE

RED = Image.new("RGB", (48, 32), "red")


@pytest.fixture
def api(live):
    return webuiapi.WebUIApi(baseurl=f"{live}/sdapi/v1", steps=2)


@contextmanager
def biased(pipe):
    """Within, text states have a mean that weights can keep: those of a new network are centred."""
    bias = pipe.text_encoder.final_norm.bias
    bias.fill_(0.5)
    try:
        yield
    finally:
        bias.zero_()


def encoded(image):
    return base64.b64encode(png_bytes(image)).decode()


def post(client, path="txt2img", **body):
    return client.post(f"/sdapi/v1/{path}", json={"prompt": "a fox", "steps": 1, "width": 32, "height": 32} | body)


def test_its_client_makes_images_of_the_size_asked_for(api, tiny):
    with biased(tiny):
        made = api.txt2img(
            prompt="a (fox:1.2)", negative_prompt="a teacup", seed=5, width=41, height=31, batch_size=2, n_iter=1
        )
    assert [image.size for image in made.images] == [(41, 31)] * 2
    assert made.info["all_seeds"] == [5, 6]
    assert (made.info["sampler_name"], made.info["steps"], made.info["cfg_scale"]) == ("Euler a", 2, 7.0)
    assert (made.info["width"], made.info["height"]) == (41, 31)
    assert "Steps: 2, Sampler: Euler a" in made.info["infotexts"][0]
    assert made.parameters["prompt"] == "a (fox:1.2)"
    assert made.images[0].info["parameters"] == made.info["infotexts"][0]
    assert JSON_KEY not in made.images[0].info  # cropped, so it is not the image of the receipt
    assert JSON_KEY in api.txt2img(prompt="a fox", width=40, height=32).image.info


def test_the_same_seed_is_the_librarys_image(api, tiny):
    made = api.txt2img(prompt="a fox", seed=5, width=32, height=32, sampler_name="DPM++ 2M", scheduler="karras")
    options = {"sampler": "dpmpp_2m", "sigmas": "karras", "num_inference_steps": 2, "guidance_scale": 7.0}
    alone = tiny("a fox", seed=5, **options).images[0]
    assert np.abs(np.asarray(made.image).astype(int) - np.asarray(alone).astype(int)).max() <= 1
    automatic = api.txt2img(prompt="a fox", seed=5, width=32, height=32, sampler_name="DPM++ 2M")
    assert automatic.info["infotexts"] == made.info["infotexts"]  # as "Automatic" chooses there


def test_its_client_changes_a_picture_and_a_masked_area(api):
    made = api.img2img(images=[RED], prompt="a fox", denoising_strength=0.5, width=64, height=32)
    assert made.image.size == (64, 32)
    assert made.info["denoising_strength"] == 0.5
    mask = Image.new("L", RED.size)
    mask.paste(255, (0, 0, 16, 32))
    around = api.img2img(images=[RED], mask_image=mask, mask_blur=0, width=60, height=40, inpaint_full_res=False)
    assert around.image.size == (60, 40)
    assert np.asarray(around.image)[:, 24:].tolist() == np.asarray(RED.resize((60, 40)))[:, 24:].tolist()
    assert np.asarray(around.image)[:, :16].tolist() != np.asarray(RED.resize((60, 40)))[:, :16].tolist()
    whole = api.img2img(images=[RED], mask_image=mask, mask_blur=0, width=32, height=32, inpaint_full_res=True)
    assert whole.image.size == RED.size  # as there: the picture, with its masked area generated at full resolution
    assert (np.asarray(whole.image)[:, 16:] == np.asarray(RED)[:, 16:]).all()
    options = {"mask_blur": 0, "width": 32, "height": 32, "inpainting_mask_invert": 1}
    inverse = api.img2img(images=[RED], mask_image=mask, inpaint_full_res=True, **options)
    assert (np.asarray(inverse.image)[:, :16] == np.asarray(RED)[:, :16]).all()


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_a_picture_is_stretched_cropped_or_filled(client, mode):
    answer = post(client, "img2img", init_images=[encoded(RED)], width=32, height=64, steps=2, resize_mode=mode)
    assert answer.status_code == 200, answer.text
    image = Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0])))
    assert image.size == (32, 64)


def test_the_rest_of_its_client_is_answered(api, tiny):
    assert api.util_get_model_names() == ["tiny"]
    assert api.util_get_current_model() == "tiny"
    api.util_set_model("tinny")
    api.util_wait_for_ready(0.01)
    assert {"Euler a", "DPM++ 2M"} <= set(api.util_get_sampler_names())
    assert {"automatic", "karras"} <= set(api.util_get_scheduler_names())
    options = api.get_options()
    assert api.set_options(options) is None
    assert api.get_progress()["progress"] == 0
    assert (api.interrupt(), api.skip()) == ({}, {})
    assert api.get_upscalers()[0]["name"] == "None"
    assert api.get_scripts() == {"txt2img": [], "img2img": []}
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert api.get_memory()["ram"]["total"] > 0
    assert (api.get_sd_models()[0]["sha256"], api.refresh_checkpoints()) == (tiny.weights["unet"], None)
    for name in (
        "cmd_flags",
        "sd_vae",
        "loras",
        "hypernetworks",
        "face_restorers",
        "realesrgan_models",
        "prompt_styles",
    ):
        assert not getattr(api, f"get_{name}")()
    assert api.get_latent_upscale_modes() == [{"name": "None"}]
    with pytest.raises(RuntimeError, match="501"):
        api.interrogate(RED)


def test_its_client_upscales_and_reads_pictures(api):
    assert api.extra_single_image(RED, upscaler_1="None", upscaling_resize=2).image.size == (96, 64)
    ours = api.extra_single_image(RED.crop((0, 0, 8, 8)), upscaler_1="diffuscope 4x", upscaling_resize=4).image
    assert ours.size == (32, 32)
    assert np.abs(np.asarray(ours).astype(int) - [255, 0, 0]).mean() < 8
    sized = api.extra_batch_images([RED, RED], resize_mode=1, upscaling_resize_w=30, upscaling_resize_h=30)
    assert [image.size for image in sized.images] == [(30, 30)] * 2
    made = api.txt2img(prompt="a fox, red", negative_prompt="a cup", seed=5, width=32, height=32)
    read = api.png_info(made.image).json
    assert read["info"] == made.info["infotexts"][0]
    assert (read["parameters"]["Prompt"], read["parameters"]["Seed"]) == ("a fox, red", "5")
    assert api.png_info(RED).json == {"info": "", "items": {}, "parameters": {}}


@pytest.mark.parametrize(
    "body",
    [
        {"enable_hr": True},
        {"restore_faces": True},
        {"tiling": True},
        {"styles": ["a"]},
        {"subseed_strength": 0.5},
        {"script_name": "X/Y/Z plot"},
        {"alwayson_scripts": {"ADetailer": {"args": [True]}}},
        {"refiner_checkpoint": "other"},
        {"sampler_name": "Magic"},
        {"scheduler": "Magic"},
        {"steps": 0},
        {"steps": 251},
        {"width": 0},
        {"height": 5000},
        {"batch_size": 65},
        {"cfg_scale": "high"},
        {"seed": -2},
        {"override_settings": {"sd_model_checkpoint": "other"}},
        {"override_settings": {"CLIP_stop_at_last_layers": 99}},
    ],
)
def test_what_is_asked_for_and_absent_is_refused_by_name(client, body):
    answer = post(client, **body)
    assert answer.status_code == 422
    assert {"error", "detail", "body", "errors"} == answer.json().keys()
    (name, value) = next(iter(body.items()))
    assert answer.json()["body"] in (name, *(value if isinstance(value, dict) else ()))


@pytest.mark.parametrize(
    "body",
    [
        {"init_images": []},
        {"init_images": [encoded(RED)] * 2},
        {"init_images": ["http://127.0.0.1/a.png"]},
        {"init_images": ["file:///etc/passwd"]},
        {"init_images": ["!!"]},
        {"init_images": [base64.b64encode(b"nothing").decode()]},
        {"mask": encoded(Image.new("L", RED.size))},
        {"mask": "!!"},
        {"inpainting_fill": 2, "mask": encoded(Image.new("L", RED.size, 255))},
        {"resize_mode": 3},
        {"denoising_strength": 0},
        {"mask_blur": 1e9, "mask": encoded(Image.new("L", RED.size, 255))},
    ],
)
def test_pictures_that_are_not_possible_are_refused_by_name(client, body):
    answer = post(client, "img2img", **({"init_images": [encoded(RED)]} | body))
    assert (answer.status_code, answer.json()["body"]) == (422, next(iter(body)))


@pytest.mark.parametrize(("name", "value"), [("denoising_strength", "\ud800"), ("override_settings", {"a": "\ud800"})])
def test_what_an_answer_could_not_repeat_is_refused_by_name(client, name, value):
    content = json.dumps({"prompt": "a fox", "steps": 1, name: value})
    answer = client.post("/sdapi/v1/txt2img", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["body"]) == (422, name)


@pytest.mark.parametrize("times", [1e308, -1, 0])
def test_sizes_that_are_not_possible_are_refused_by_name(client, times):
    answer = client.post("/sdapi/v1/extra-single-image", json={"image": encoded(RED), "upscaling_resize": times})
    assert (answer.status_code, answer.json()["body"]) == (422, "upscaling_resize")


def test_unknown_keys_are_let_through_and_named_but_not_repeated(client):
    secret = {"url": "http://inside", "auth": "me:secret", "forge_thing": 1, "override_settings": {"other": 1}}
    answer = post(client, **secret, s_churn=3.0, sampler_name="DDIM", save_images=True, hr_scale=2)
    info = json.loads(answer.json()["info"])
    assert info["ignored"] == ["auth", "forge_thing", "override_settings.other", "s_churn", "url"]
    assert "secret" not in answer.text
    assert "inside" not in answer.text


def test_layers_to_skip_are_a_callers_own_setting(client):
    other = {"authorization": "Basic " + base64.b64encode(b"other:").decode()}
    assert client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2}, headers=other).json() is None

    def skipped(headers, **body):
        answer = client.post("/sdapi/v1/txt2img", json={"prompt": "a fox", "steps": 1} | body, headers=headers)
        return json.loads(answer.json()["info"])["clip_skip"]

    assert (skipped({}), skipped(other)) == (1, 2)
    assert skipped({}, override_settings={"CLIP_stop_at_last_layers": 2}) == 2
    assert skipped({}, clip_skip=2) == 2
    assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "x"}).status_code == 422


def test_an_interruption_ends_the_callers_own_requests_alone(client, engine, held):
    other = {"authorization": "Basic " + base64.b64encode(b"other:").decode()}
    answers = []
    thread = threading.Thread(target=lambda: answers.append(post(client)))
    thread.start()
    while not any(job.owner.startswith("a1111") and not job.ended for job in engine.jobs):
        time.sleep(0.01)
    assert client.get("/sdapi/v1/progress").json()["state"]["job_count"] == 1
    assert client.get("/sdapi/v1/progress", headers=other).json()["state"]["job_count"] == 0
    client.post("/sdapi/v1/interrupt", headers=other)
    assert client.get("/sdapi/v1/progress").json()["state"]["job_count"] == 1
    assert client.post("/sdapi/v1/interrupt").json() == {}
    thread.join(PATIENCE)
    assert answers[0].status_code == 422
    assert "interruption" in answers[0].json()["detail"]


def test_progress_shows_the_estimate(client, halted):
    thread = threading.Thread(target=lambda: post(client, steps=200))
    thread.start()
    while client.get("/sdapi/v1/progress").json()["state"]["sampling_step"] < 3:
        time.sleep(0.01)
    found = client.get("/sdapi/v1/progress").json()
    assert found["progress"] == 3 / 200
    assert found["state"]["sampling_steps"] == 200
    assert Image.open(io.BytesIO(base64.b64decode(found["current_image"]))).size == (32, 32)
    assert client.get("/sdapi/v1/progress?skip_current_image=true").json()["current_image"] is None
    client.post("/sdapi/v1/interrupt")
    halted()
    thread.join(PATIENCE)


def test_a_model_whose_images_are_upscaled_makes_as_many_pixels_as_it_knows(tiny):
    preset = replace(tiny.config.preset, upscale=4)
    engine = Engine(Pipeline(replace(tiny.components, config=replace(tiny.config, preset=preset))), running=1)
    client = TestClient(application(engine), base_url="http://localhost")
    answer = post(client, width=256, height=128).json()
    info = json.loads(answer["info"])
    assert Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).size == (256, 128)
    assert info["generated"] == "46x22, upscaled to 184x88"
    engine.stop()


def test_a_masked_area_is_filled_from_around():
    image, mask = Image.new("RGB", (33, 20), "red"), Image.new("L", (33, 20))
    image.paste("blue", (16, 0, 33, 20))
    mask.paste(255, (8, 4, 24, 16))
    array = np.asarray(filled(image, mask)).astype(int)
    assert (array[:4] == np.asarray(image)[:4]).all()
    assert array[10, 9, 0] > array[10, 9, 2]
    assert array[10, 22, 2] > array[10, 22, 0]
    assert filled(image, Image.new("L", (33, 20), 255)).getpixel((5, 5)) == (128, 128, 128)
