"""What programs send, and what they read of the answer: requests written down from their sources, and played.

Each names the repository and commit whose source says so; all were read on 2026-11-29.
"""

import base64
import io
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image

from diffuscope.images import png_bytes

EMPTY_BASIC = {"Authorization": "Basic " + base64.b64encode(b"").decode()}
BEARER = {"Authorization": "Bearer none"}
WORDS = {"prompt": "a fox"}
DATA: tuple[tuple[str | int, ...], ...] = (("data", 0, "b64_json"),)


@dataclass(frozen=True)
class Played:
    """A request, and where in the answer the program looks."""

    path: str
    body: Any = None
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=lambda: EMPTY_BASIC)
    reads: tuple[tuple[str | int, ...], ...] = ()
    """Paths in the JSON of the answer."""


OPEN_WEBUI = {
    "open-webui/open-webui@02530d50 backend/open_webui/routers/images.py, engine automatic1111": [
        Played("/sdapi/v1/options", method="GET", reads=(("sd_model_checkpoint",),)),
        Played("/sdapi/v1/sd-models", method="GET", reads=((0, "title"), (0, "model_name"))),
        Played(
            "/sdapi/v1/txt2img",
            WORDS | {"batch_size": 1, "width": 64, "height": 64, "steps": 1, "negative_prompt": "a cup"},
            reads=(("images", 0), ("info",)),
        ),
    ],
    "open-webui/open-webui@02530d50 backend/open_webui/routers/images.py, engine openai": [
        Played(
            "/v1/images/generations",
            WORDS | {"model": "dall-e-2", "n": 1, "size": "64x64", "response_format": "b64_json"},
            headers=BEARER,
            reads=DATA,
        ),
    ],
}
SILLYTAVERN = {
    "SillyTavern/SillyTavern@02903fdd src/endpoints/stable-diffusion.js": [
        Played("/sdapi/v1/options", method="GET", reads=(("sd_model_checkpoint",),)),
        Played("/sdapi/v1/upscalers", method="GET", reads=((0, "name"),)),
        Played("/sdapi/v1/latent-upscale-modes", method="GET", reads=((0, "name"),)),
        Played("/sdapi/v1/sd-vae", method="GET"),
        Played("/sdapi/v1/samplers", method="GET", reads=((0, "name"),)),
        Played("/sdapi/v1/schedulers", method="GET", reads=((0, "name"),)),
        Played("/sdapi/v1/sd-models", method="GET", reads=((0, "title"),)),
        Played("/sdapi/v1/options", {"sd_model_checkpoint": "tiny"}),
        Played("/sdapi/v1/progress", method="GET", reads=(("progress",), ("state", "job_count"))),
        Played(
            "/sdapi/v1/txt2img",
            WORDS
            | {
                "url": "http://127.0.0.1:7860",
                "auth": "",
                "negative_prompt": "a cup",
                "sampler_name": "Euler a",
                "scheduler": "karras",
                "steps": 1,
                "cfg_scale": 7,
                "width": 64,
                "height": 64,
                "restore_faces": False,
                "enable_hr": False,
                "hr_upscaler": "Latent",
                "hr_scale": 2,
                "hr_additional_modules": [],
                "denoising_strength": 0.7,
                "hr_second_pass_steps": 0,
                "override_settings": {"CLIP_stop_at_last_layers": 1},
                "override_settings_restore_afterwards": True,
                "clip_skip": 1,
                "save_images": True,
                "send_images": True,
                "do_not_save_grid": False,
                "do_not_save_samples": False,
            },
            reads=(("images", 0),),
        ),
        Played("/sdapi/v1/interrupt"),
    ],
}
LIBRECHAT = {
    "danny-avila/LibreChat@00b3bc32 api/app/clients/tools/structured/StableDiffusion.js": [
        Played(
            "/sdapi/v1/txt2img",
            WORDS | {"negative_prompt": "a cup", "cfg_scale": 4.5, "steps": 2, "width": 64, "height": 64},
            headers={},
            reads=(("images", 0), ("info",)),
        ),
    ],
    "danny-avila/LibreChat api/app/clients/tools/structured/OpenAIImageTools.js": [
        Played(
            "/v1/images/generations",
            WORDS
            | {
                "model": "gpt-image-1",
                "n": 1,
                "size": "auto",
                "quality": "auto",
                "background": "auto",
                "output_format": "png",
                "output_compression": 100,
            },
            headers=BEARER,
            reads=DATA,
        ),
    ],
}
N8N = {
    "n8n-io/n8n@0713e950 nodes-langchain/nodes/vendors/OpenAi/v2/actions/image/generate.operation.ts": [
        Played("/v1/images/generations", WORDS | {"model": model} | more, headers=BEARER, reads=DATA)
        for model, more in (
            ("dall-e-3", {"response_format": "b64_json", "quality": "hd", "style": "vivid", "size": "64x64", "n": 1}),
            ("gpt-image-1-mini", {"quality": "medium", "size": "64x64"}),
        )
    ],
}


@pytest.mark.parametrize("programs", [OPEN_WEBUI, SILLYTAVERN, LIBRECHAT, N8N], ids=["owui", "st", "librechat", "n8n"])
def test_what_programs_send_is_answered_as_they_read_it(client, programs):
    for source, requests in programs.items():
        for each in requests:
            content = {} if each.body is None else {"json": each.body}
            answer = client.request(each.method, each.path, headers=each.headers, **content)
            assert answer.status_code == 200, (source, each.path, answer.text)
            for path in each.reads:
                found = answer.json()
                for key in path:
                    found = found[key]
                assert found is not None
                if path[0] in ("images", "data"):
                    assert Image.open(io.BytesIO(base64.b64decode(found))).size


def test_open_webui_sends_back_all_settings_to_change_the_model(client):
    settings = client.get("/sdapi/v1/options", headers=EMPTY_BASIC).json()
    settings["sd_model_checkpoint"] = "tiny"
    assert client.post("/sdapi/v1/options", json=settings, headers=EMPTY_BASIC).status_code == 200


def test_sillytavern_takes_the_server_for_the_web_ui_and_not_for_forge(client):
    assert client.get("/sdapi/v1/sd-modules").status_code == 404
    assert "forge_preset" not in client.get("/sdapi/v1/options").json()


def test_librechat_reads_the_making_of_the_image(client):
    body = WORDS | {"negative_prompt": "a cup", "cfg_scale": 4.5, "steps": 2, "width": 64, "height": 64}
    info = json.loads(client.post("/sdapi/v1/txt2img", json=body).json()["info"])
    assert (info["width"], info["height"]) == (64, 64)
    assert isinstance(info["seed"], int)
    assert info["infotexts"][0].split("\n")[-1].startswith("Steps: 2")


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_forms_of_open_webui_and_librechat_edit_a_picture(client, name):
    """Numbers and booleans are texts, and the model may be empty or "None"."""
    red = png_bytes(Image.new("RGB", (32, 32), "red"))
    fields = {"prompt": "a fox", "model": "None", "n": "1", "size": "64x64", "stream": "false"}
    answer = client.post(
        "/v1/images/edits", data=fields, files={name: ("picture.png", red, "image/png")}, headers=BEARER
    )
    assert answer.status_code == 200, answer.text
    assert Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))).size == (64, 64)
