"""Our own interface on a tiny model."""

import base64
import io
import json
import zlib
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from diffuscope.images import png_bytes
from diffuscope.pipeline.receipt import request_of
from served import PATIENCE, events_of, read_events

FOX = {"prompt": "a fox", "seed": 3, "upscale": 1, "num_inference_steps": 2}


def test_a_job_is_submitted_followed_and_fetched(client, tiny):
    unread = {"guidance_scale": 1, "negative_prompt": "grey"}
    job = client.post("/api/v1/jobs", json={"request": FOX | unread | {"num_images_per_prompt": 2}})
    assert job.status_code == 202
    path = f"/api/v1/jobs/{job.json()['id']}"
    events = events_of(client.get(f"{path}/events").text)
    id = job.json()["id"]
    assert events[0] == ("queued", {"job": id})
    assert events[-1] == ("done", {"job": id})
    assert ("image", {"job": id, "image": 1, "picture": f"{id}-1"}) in events
    assert sum(kind == "step" for kind, _ in events) == 4
    late = events_of(client.get(f"{path}/events", headers={"last-event-id": "3"}).text)
    assert late == events[3:]

    alone = tiny("a fox", seed=3, upscale=1, num_inference_steps=2, **unread)
    image = Image.open(io.BytesIO(client.get(f"/api/v1/pictures/{id}-0.png").content))
    assert np.abs(np.asarray(image).astype(int) - np.asarray(alone.images[0]).astype(int)).max() <= 1
    assert json.loads(image.text["diffuscope"])["seed"] == [3]

    step = client.get(f"{path}/images/0/steps/1/x")
    shape = [int(side) for side in step.headers["x-shape"].split(",")]
    latents = torch.frombuffer(bytearray(step.content), dtype=torch.float32).view(shape)
    torch.testing.assert_close(latents, alone.latents[0], rtol=1e-4, atol=1e-4)
    assert "immutable" in step.headers["cache-control"]

    described = client.get(path).json()
    assert (described["state"], described["done"], described["receipts"][1]["seed"]) == ("done", 2, [4])
    assert described["notes"] == alone.notes != []
    assert described["seconds"] > 0
    assert described["id"] in [one["id"] for one in client.get("/api/v1/jobs").json()]


@pytest.mark.parametrize(
    ("request_", "argument"),
    [
        ({"prompt": "a fox", "stepz": 3}, "stepz"),
        ({"prompt": "a fox", "num_inference_steps": "ten"}, "num_inference_steps"),
        ({"prompt": "a fox", "sampler": "magic"}, "sampler"),
        ({"prompt": "a fox", "clip_skip": 99}, "clip_skip"),
    ],
)
def test_an_impossible_request_names_its_argument(client, request_, argument):
    answer = client.post("/api/v1/jobs", json={"request": request_})
    assert answer.status_code == 422
    assert argument in json.dumps(answer.json()["error"])


@pytest.mark.parametrize("path", ["jobs/0", "jobs/0/events", "jobs/0/images/0/steps/0/x", "pictures/0-0.png"])
def test_what_is_not_there_is_not_found(client, path):
    assert client.get(f"/api/v1/{path}").status_code == 404


def test_parts_of_a_job_that_are_not_there_are_not_found(client):
    job = client.post("/api/v1/jobs", json={"request": FOX, "record": ["x"]}).json()["id"]
    client.get(f"/api/v1/jobs/{job}/events")
    paths = ("steps/2/x", "steps/-1/x", "steps/1/x0", "steps/1/logits")
    assert [client.get(f"/api/v1/jobs/{job}/images/0/{path}").status_code for path in paths] == [404, 404, 404, 422]
    assert client.get(f"/api/v1/jobs/{job}/images/0/steps/1/x").status_code == 200
    assert client.get(f"/api/v1/pictures/{job}-1.png").status_code == 404


def test_both_sides_of_guidance_are_kept(client):
    body = {"request": FOX | {"guidance_scale": 4.0}}
    job = client.post("/api/v1/jobs", json=body).json()["id"]
    client.get(f"/api/v1/jobs/{job}/events")

    def array(step, kind):
        answer = client.get(f"/api/v1/jobs/{job}/images/0/steps/{step}/{kind}")
        return np.frombuffer(answer.content, np.float32)

    for step in range(2):
        uncond, cond = array(step, "uncond"), array(step, "cond")
        np.testing.assert_allclose(uncond + 4 * (cond - uncond), array(step, "x0"), rtol=1e-3, atol=1e-4)


def test_an_array_is_not_sent_twice(client):
    job = client.post("/api/v1/jobs", json={"request": FOX}).json()["id"]
    client.get(f"/api/v1/jobs/{job}/events")
    for path in (f"jobs/{job}/images/0/steps/0/x0", f"pictures/{job}-0.png"):
        first = client.get(f"/api/v1/{path}")
        again = client.get(f"/api/v1/{path}", headers={"if-none-match": first.headers["etag"]})
        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")


def send(client, content, path="pictures", name="picture"):
    return client.post(f"/api/v1/{path}", files={name: ("a/../b.png", content, "image/png")})


def test_a_picture_is_sent_and_used_by_its_id(client, tiny):
    picture = Image.new("RGB", (40, 32), "red")
    sent = send(client, png_bytes(picture))
    assert sent.status_code == 201
    id = sent.json()["id"]
    assert (sent.json()["width"], sent.json()["height"]) == (40, 32)
    assert client.get(f"/api/v1/pictures/{id}.png").content == png_bytes(picture)
    mask = send(client, png_bytes(Image.new("L", (40, 32), 255))).json()["id"]
    body = {"request": FOX | {"strength": 0.5}, "image": id, "mask_image": mask}
    job = client.post("/api/v1/jobs", json=body).json()["id"]
    client.get(f"/api/v1/jobs/{job}/events")
    receipt = client.get(f"/api/v1/jobs/{job}").json()["receipts"][0]
    alone = tiny(**FOX, strength=0.5, image=picture, mask_image=Image.new("L", (40, 32), 255)).receipt
    assert (receipt["image"], receipt["mask_image"]) == (alone["image"], alone["mask_image"])
    again = client.post("/api/v1/jobs", json={"request": FOX, "image": f"{job}-0"})
    assert again.status_code == 202


@pytest.mark.parametrize(
    ("body", "argument"),
    [
        ({"request": FOX, "image": "/etc/passwd"}, "image"),
        ({"request": FOX, "image": "http://127.0.0.1/a.png"}, "image"),
        ({"request": FOX, "stepz": 3}, "stepz"),
        ({"request": FOX, "record": ["x1"]}, "record"),
        ({"request": FOX, "slot": "a" * 201}, "slot"),
        ({"request": FOX | {"prompt": "a" * 32_001}}, "prompt"),
        ({"request": FOX | {"num_images_per_prompt": 65}}, "num_images_per_prompt"),
        ({"request": FOX | {"num_inference_steps": 251}}, "num_inference_steps"),
        ({"request": FOX | {"sigmas": [float(k) for k in range(300, 0, -1)]}}, "sigmas"),
        ({"request": FOX | {"height": 4096, "width": 4096}}, "height"),
        ([], "json"),
    ],
)
def test_a_job_that_is_not_possible_names_its_field(client, body, argument):
    answer = client.post("/api/v1/jobs", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["argument"].endswith(argument)


def bomb(side):
    """A small PNG whose header says that it is large."""
    content = bytearray(png_bytes(Image.new("L", (1, 1))))
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def test_a_picture_that_is_none_or_too_large_is_refused_before_it_is_decoded(client):
    frames = io.BytesIO()
    Image.new("RGB", (8, 8)).save(frames, "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    gif = io.BytesIO()
    Image.new("RGB", (8, 8)).save(gif, "GIF")
    contents = (
        b"",
        b"no picture",
        bomb(5000),
        bomb(60_000),
        frames.getvalue(),
        gif.getvalue(),
        png_bytes(Image.new("RGB", (64, 64), "red"))[:90],
    )
    for content in contents:
        answer = send(client, content)
        assert (answer.status_code, answer.json()["error"]["argument"]) == (422, "picture")
        assert "PIL" not in answer.text
    assert "5000x5000" in send(client, bomb(5000)).text


def test_a_form_with_many_parts_or_none_is_refused(client):
    many = {f"f{k}": ("a", b"", "image/png") for k in range(18)}
    assert client.post("/api/v1/pictures", files=many).json()["error"]["argument"] == "body"
    assert client.post("/api/v1/pictures", json={}).json()["error"]["argument"] == "body"
    assert send(client, b"", name="file").json()["error"]["argument"] == "picture"
    broken = client.post("/api/v1/pictures", content=b"x", headers={"content-type": "multipart/form-data"})
    assert broken.status_code == 422


def test_a_picture_gives_its_request_back(client, tiny):
    body = {"request": FOX | {"num_images_per_prompt": 2, "negative_prompt": "a cup"}}
    job = client.post("/api/v1/jobs", json=body).json()["id"]
    client.get(f"/api/v1/jobs/{job}/events")
    content = client.get(f"/api/v1/pictures/{job}-1.png").content
    found = send(client, content, "receipt").json()
    assert found["program"].startswith("diffuscope")
    request = found["request"]
    assert {name: request[name] for name in ("prompt", "seed", "negative_prompt")} == {
        "prompt": "a fox",
        "seed": 4,
        "negative_prompt": "a cup",
    }
    again = client.post("/api/v1/jobs", json={"request": request}).json()["id"]
    client.get(f"/api/v1/jobs/{again}/events")
    first, second = (
        client.get(f"/api/v1/jobs/{each}/images/{image}/steps/1/x").content for each, image in ((job, 1), (again, 0))
    )
    np.testing.assert_allclose(np.frombuffer(first, np.float32), np.frombuffer(second, np.float32), atol=1e-4)


def test_a_picture_of_another_program_gives_its_request(client):
    text = "a fox\nNegative prompt: a cup\nSteps: 7, Sampler: Euler a, CFG scale: 3, Seed: 5, Size: 32x64, Model: other"
    found = send(client, png_bytes(Image.new("RGB", (8, 8)), {"parameters": text}), "receipt").json()
    assert found["request"]["sampler"] == "euler_ancestral"
    assert found["model"] == "other"
    assert found["request"]["num_inference_steps"] == 7
    for content in (png_bytes(Image.new("RGB", (8, 8))), b"nothing"):
        assert send(client, content, "receipt").json()["error"]["argument"] == "picture"


def test_the_same_key_queues_a_body_once(client):
    def post(body, key):
        return client.post("/api/v1/jobs", json=body, headers={"idempotency-key": key})

    first = post({"request": FOX}, "one").json()["id"]
    assert post({"request": FOX}, "one").json()["id"] == first
    assert post({"request": FOX}, "two").json()["id"] != first
    assert post({"request": FOX | {"seed": 9}}, "one").json()["error"]["argument"] == "Idempotency-Key"


def test_the_latest_job_of_a_slot_wins(client, held):
    def post(slot):
        return client.post("/api/v1/jobs", json={"request": FOX, "slot": slot}).json()["id"]

    older, other, newer = post("view"), post("grid"), post("view")
    states = [client.get(f"/api/v1/jobs/{job}").json()["state"] for job in (older, other, newer)]
    assert states == ["cancelled", "queued", "queued"]
    held()
    client.get(f"/api/v1/jobs/{newer}/events")
    assert client.get(f"/api/v1/jobs/{newer}").json()["state"] == "done"


def test_one_stream_has_the_events_of_all_jobs_and_can_be_resumed(live):
    def post():
        return httpx.post(f"{live}/api/v1/jobs", json={"request": FOX}, timeout=PATIENCE).json()["id"]

    with httpx.stream("GET", f"{live}/api/v1/events", timeout=PATIENCE) as response:
        events = read_events(response)
        _, kind, _ = next(events)
        assert kind == "ready"
        first, second = post(), post()
        seen, ended = [], set()
        while ended != {first, second}:
            seen.append(next(events))
            ended |= {seen[-1][2]["job"]} if seen[-1][1] == "done" else set()
    assert [id for id, _, _ in seen] == sorted((id for id, _, _ in seen), key=lambda id: int(id.partition("-")[2]))
    for job in (first, second):
        own = [kind for _, kind, data in seen if data["job"] == job]
        assert own == ["queued", "started", "step", "step", "image", "done"]
    middle = seen[4][0]
    for url, headers in ((f"?after={middle}", {}), ("", {"last-event-id": middle})):
        with httpx.stream("GET", f"{live}/api/v1/events{url}", headers=headers, timeout=PATIENCE) as response:
            events = read_events(response)
            assert next(events)[1] == "ready"
            assert [next(events) for _ in seen[5:]] == seen[5:]
    with httpx.stream("GET", f"{live}/api/v1/events?after=other-3", timeout=PATIENCE) as response:
        assert next(read_events(response))[1] == "reset"


def test_many_open_streams_leave_room_for_requests(live):
    with ExitStack() as stack:
        http = stack.enter_context(httpx.Client(timeout=PATIENCE, limits=httpx.Limits(max_connections=100)))
        for _ in range(60):  # more than the server has threads
            response = stack.enter_context(http.stream("GET", f"{live}/api/v1/events"))
            assert next(read_events(response))[1] == "ready"
        assert http.get(f"{live}/api/v1/jobs").status_code == 200


def test_a_caller_sees_its_own_jobs(client):
    named = {"authorization": "Basic " + base64.b64encode(b"someone:").decode()}
    own = client.post("/api/v1/jobs", json={"request": FOX}, headers=named).json()["id"]
    assert own in [job["id"] for job in client.get("/api/v1/jobs", headers=named).json()]
    assert own not in [job["id"] for job in client.get("/api/v1/jobs").json()]


def test_a_full_queue_says_when_to_come_again(client):
    answer = client.post("/api/v1/jobs", json={"request": FOX | {"num_images_per_prompt": 4}})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0


def test_a_job_is_cancelled(client):
    job = client.post("/api/v1/jobs", json={"request": FOX | {"num_inference_steps": 200}}).json()["id"]
    assert client.delete(f"/api/v1/jobs/{job}").json()["state"] == "cancelled"


def test_what_is_served_is_described(client):
    about = client.get("/api/v1/about").json()
    assert (about["model"], about["draws"], about["examples"], about["quick"]) == ("tiny", "", [], True)
    assert "num_inference_steps" in about["job"]["properties"]["request"]["properties"]
    assert "unet.mid.attn.0" in " ".join(about["taps"]["unet"])
    counts = {line.rsplit(maxsplit=1)[0] for line in client.get("/metrics").text.splitlines()}
    assert counts >= {"diffuscope_images_waiting", 'diffuscope_kept_bytes{kind="answers"}'}
    assert (client.get("/healthz").status_code, client.get("/readyz").status_code) == (200, 200)
    operation = client.get("/api/v1/openapi.json").json()["paths"]["/api/v1/jobs"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"] == about["job"]


def test_a_text_is_read_as_the_model_reads_it(client, tiny):
    text = client.post("/api/v1/text", json={"prompt": "a red foxglove"}).json()
    assert [word["word"] for word in text["words"]] == ["a", "red", "foxglove"]
    last = text["words"][2]
    assert last["tokens"] == last["merges"][-1]["pieces"]
    assert last["bytes"] == [*"foxglov", "e</w>"]
    assert last["positions"] == [3, 4][: len(last["ids"])]
    (window,) = text["windows"]
    assert window["ids"] == tiny.tokenizer.encode("a red foxglove")[0].tolist()
    assert window["words"][:4] == [None, 0, 1, 2]
    assert window["tokens"][0] == "<|startoftext|>"
    assert {len(window[name]) for name in ("ids", "tokens", "weights", "words")} == {77}
    weighted = {"prompt": "a (red:1.5) fox BREAK a cup", "prompt_syntax": "a1111"}
    windows = client.post("/api/v1/text", json=weighted).json()["windows"]
    assert len(windows) == 2
    assert windows[0]["weights"][:4] == [1, 1, 1.5, 1]
    assert client.post("/api/v1/text", json={"prompt": "fox " * 80}).json()["truncated"]


def test_tokens_have_their_nearest(client, tiny):
    text = client.post("/api/v1/text", json={"prompt": "a fox", "nearest": 3}).json()
    fox = text["words"][1]["ids"][0]
    near = text["nearest"][str(fox)]
    assert len(near) == 3
    assert fox not in [each["id"] for each in near]
    assert near[0]["cosine"] >= near[-1]["cosine"]
    assert client.post("/api/v1/text", json={"prompt": "a", "nearest": 51}).json()["error"]["argument"] == "nearest"


def test_a_tree_of_jobs(client, tiny):
    """Go back to a step, change a word, and go on from there; then again, with the latents painted over."""
    root = client.post("/api/v1/jobs", json={"request": FOX | {"num_inference_steps": 4}}).json()
    assert root["from"] is None
    events_of(client.get(f"/api/v1/jobs/{root['id']}/events").text)
    body = {"request": {"prompt": "a blue fox"}, "from": {"job": root["id"], "step": 2}}
    blue = client.post("/api/v1/jobs", json=body).json()
    events_of(client.get(f"/api/v1/jobs/{blue['id']}/events").text)
    x = np.frombuffer(client.get(f"/api/v1/jobs/{blue['id']}/images/0/steps/2/x").content, "<f4").copy()
    x[:100] = 0.0
    painted = {"shape": [1, 4, 16, 16], "data": base64.b64encode(x.tobytes()).decode()}
    body = {"from": {"job": blue["id"], "step": 3, "x": painted}, "request": {"guidance_scale": 2}}
    third = client.post("/api/v1/jobs", json=body).json()
    events_of(client.get(f"/api/v1/jobs/{third['id']}/events").text)

    listed = {job["id"]: job for job in client.get("/api/v1/jobs").json()}
    assert listed[blue["id"]]["from"] == {"job": root["id"], "step": 2, "image": None}
    assert listed[third["id"]]["from"] == {"job": blue["id"], "step": 3, "image": None}
    assert listed[third["id"]]["request"]["prompt"] == "a blue fox"
    assert listed[third["id"]]["request"]["num_inference_steps"] == 4
    for step, same in enumerate((True, True, False, False)):
        pair = [client.get(f"/api/v1/jobs/{job['id']}/images/0/steps/{step}/x").content for job in (root, blue)]
        assert (pair[0] == pair[1]) is same

    compared = client.get(f"/api/v1/jobs/{root['id']}/compare/{blue['id']}").json()
    assert compared["first"] == 2
    assert [distance > 0 for distance in compared["distances"]] == [False, False, True, True]
    same = client.get(f"/api/v1/jobs/{root['id']}/compare/{root['id']}", params={"kind": "x"}).json()
    assert same["first"] is None
    for path in (f"jobs/0/compare/{root['id']}", f"jobs/{root['id']}/compare/{root['id']}?image=1"):
        assert client.get(f"/api/v1/{path}").status_code == 404

    receipt = client.get(f"/api/v1/jobs/{third['id']}").json()["receipts"][0]
    assert receipt["branch"]["request"]["branch"]["request"]["prompt"] == ["a fox"]
    latents = np.frombuffer(client.get(f"/api/v1/jobs/{third['id']}/images/0/steps/3/x").content, "<f4")
    alone = tiny(request_of(receipt)).latents.numpy().ravel()
    np.testing.assert_allclose(latents, alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("body", "status", "argument"),
    [
        ({"from": {"job": "0", "step": 1}}, 404, None),
        ({"from": {"step": 1}}, 422, "from.job"),
        ({"from": {"job": "JOB", "step": 9}}, 422, "branch.step"),
        ({"from": {"job": "JOB", "step": 1, "image": 3}}, 422, "from.image"),
        ({"from": {"job": "JOB", "step": 1, "stepp": 1}}, 422, "from.stepp"),
        ({"from": {"job": "JOB", "step": 1}, "image": "0"}, 422, "image"),
        ({"from": {"job": "JOB", "step": 1}, "request": {"height": 64}}, 422, "height"),
        ({"from": {"job": "JOB", "step": 1, "x": {"shape": [1, 4, 4, 4], "data": "AAAA"}}}, 422, "from.x.data"),
        ({"request": FOX | {"branch": {"step": 1, "request": {"prompt": "x", "num_inference_steps": 900}}}}, 422, None),
    ],
)
def test_an_impossible_branch(client, body, status, argument):
    job = client.post("/api/v1/jobs", json={"request": FOX}).json()["id"]
    events_of(client.get(f"/api/v1/jobs/{job}/events").text)
    answer = client.post("/api/v1/jobs", json=json.loads(json.dumps(body).replace("JOB", job)))
    assert answer.status_code == status
    if argument is not None:
        assert answer.json()["error"]["argument"] == argument
