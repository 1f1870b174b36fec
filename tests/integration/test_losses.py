"""Losses as options: each is ``loss_guidance``, cheap or exact, is in the receipt, is replayed; bad ones are named."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import diffuscope as ds
from diffuscope.cli import main
from diffuscope.diffusion.loss_guidance import Loss, colour_loss, loss_guidance
from diffuscope.errors import ModelNotFoundError
from diffuscope.images import write_png
from diffuscope.lens.functions import decoder, denoiser
from diffuscope.metadata import read_texts
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.receipt import JSON_KEY, read
from diffuscope.vision import clip_score
from diffuscope.vision.clip_score import ClipScore, load_clip_score
from narrow import made
from refusals import refused

CALL: dict[str, Any] = {"seed": 3, "num_inference_steps": 3, "sampler": "euler", "upscale": 1, "guidance_scale": 4.0}
COLOUR = (0.9, 0.1, 0.2)
TEXT = "a blue car"
TOLERANCE = 1e-4
"""Latents are of the order of 1; a batch's kernels may sum in another order."""


@pytest.fixture(scope="module")
def similarity() -> ClipScore:
    return load_clip_score()


def by_hand(pipe: Pipeline, losses: Sequence[tuple[Loss, float]], *, exact: bool) -> torch.Tensor:
    """The latents of a run that is led by functions in the place of options."""
    cond = denoiser(pipe, "a red fox", pipe.schedule.levels(3, sampler="euler"))
    guidance = [loss_guidance(loss, decoder(pipe), scale=scale, exact=exact and cond) for loss, scale in losses]
    return pipe("a red fox", guidance=guidance, **CALL).latents


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("names", [("colour",), ("similarity",), ("colour", "similarity")])
def test_an_option_is_loss_guidance(
    tiny: Pipeline, similarity: ClipScore, tmp_path: Path, names: tuple[str, ...], exact: bool
) -> None:
    losses = {"colour": (colour_loss(*COLOUR), 10.0), "similarity": (similarity.loss(TEXT), 1.0)}
    given: dict[str, Any] = {name: {"colour": COLOUR, "similarity": TEXT}[name] for name in names}
    found = tiny("a red fox", guidance_options=given | {"exact": exact}, **CALL)
    factor = 3 if exact else 1
    wanted = by_hand(tiny, [(losses[name][0], factor * losses[name][1]) for name in names], exact=exact)
    assert torch.equal(found.latents, wanted)
    assert not torch.equal(found.latents, tiny("a red fox", **CALL).latents)
    held = {name: list(value) if name == "colour" else value for name, value in given.items()}
    assert found.receipt["guidance_options"] == (held | {"exact": True} if exact else held)
    assert found.receipt["edits"] == []
    assert ("similarity" in found.receipt["weights"]) is ("similarity" in names)
    (path,) = found.save(tmp_path / "led.png")
    assert ds.replay(path, model=tiny).identical


@pytest.mark.slow
def test_pictures_come_nearer_to_the_text(similarity: ClipScore) -> None:
    """With the shipped model: the mean over four images of a bird, guided towards green."""
    pipe, text = ds.load("emoji", device="cpu"), "a green bird"

    def nearness(options: dict[str, Any]) -> float:
        call = CALL | {"num_images_per_prompt": 4, "guidance_scale": 1.0, "guidance_options": options}
        with torch.no_grad():
            return float(similarity(decoder(pipe)(pipe("a bird", **call).latents), text).mean())

    assert nearness({"similarity": text, "exact": True}) > nearness({}) + 0.03


def test_an_image_does_not_feel_its_batch_mates(tiny: Pipeline) -> None:
    options: dict[str, Any] = {"similarity": TEXT, "colour": COLOUR, "exact": True}
    # A unit of the feature network at the edge of its ReLU6 would turn a rounding into another gradient; none is here.
    both = tiny("a red fox", num_images_per_prompt=2, guidance_options=options, **CALL | {"seed": 4})
    alone = tiny("a red fox", guidance_options=options, **CALL | {"seed": 5})
    torch.testing.assert_close(both.latents[1:], alone.latents, rtol=TOLERANCE, atol=TOLERANCE)


def test_scales_and_levels_are_told(tiny: Pipeline) -> None:
    plain = tiny("a red fox", **CALL).latents
    for name, value in (("similarity", TEXT), ("colour", COLOUR)):
        none = tiny("a red fox", guidance_options={name: value, f"{name}_scale": 0}, **CALL)
        torch.testing.assert_close(none.latents, plain, rtol=0, atol=0)
        whole, early = (
            tiny("a red fox", guidance_options={name: value, f"{name}_low": low}, **CALL).latents for low in (0, 0.5)
        )
        assert not torch.equal(whole, early)
        assert not torch.equal(early, plain)


@pytest.mark.parametrize("family", ["sdxl", "sd15-lcm", "sd21-v", "sd15-inpaint"])
def test_every_family_can_be_led_whatever_its_text_encoder(family: str) -> None:
    pipe = made(family)
    call: dict[str, Any] = {"seed": 3, "num_inference_steps": 2, "upscale": 1}
    if family == "sd15-inpaint":
        side = (pipe.config.preset.width, pipe.config.preset.height)
        call |= {"image": Image.new("RGB", side, "red"), "mask_image": Image.new("L", side, 255)}
    options: dict[str, Any] = {"similarity": TEXT, "exact": True}
    led = pipe("a red fox", guidance_options=options, **call)
    assert not torch.equal(led.latents, pipe("a red fox", **call).latents)
    assert torch.equal(led.latents, pipe("a red fox", guidance_options=options, **call).latents)


def test_within_inference_mode_it_is_the_same(tiny: Pipeline) -> None:
    options: dict[str, Any] = {"similarity": TEXT, "exact": True}
    wanted = tiny("a red fox", guidance_options=options, **CALL).latents
    fresh = Pipeline(tiny.components)
    with torch.inference_mode():
        told = fresh.encode_prompt("a red fox")
        assert torch.equal(fresh("a red fox", guidance_options=options, **CALL).latents, wanted)
        assert torch.equal(fresh(conditioning=told, guidance_options=options, **CALL).latents, wanted)


def test_untrained_and_cut_words_are_reported(tiny: Pipeline) -> None:
    text = "a xyzzyqu " + "cat " * 80
    notes = tiny("fox", guidance_options={"similarity": text}, **CALL).receipt["notes"]
    assert notes[0] == "similarity: its text encoder was never trained on 'xyzzyqu'; use other words"
    assert notes[1].startswith("the text of similarity has ")
    notes = tiny("fox", guidance_options={"similarity": TEXT}, **CALL).notes
    assert not any("similarity" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"similarity": ""}, "similarity"),
        ({"similarity": "  "}, "similarity"),
        ({"similarity": ["a car"]}, "similarity"),
        ({"similarity": "a \ud800"}, "similarity"),
        ({"similarity": "a car <lora:ink:0.8>"}, "similarity"),
        ({"similarity": TEXT, "similarity_scale": float("nan")}, "similarity_scale"),
        ({"similarity": TEXT, "similarity_scale": -1}, "similarity_scale"),
        ({"similarity": TEXT, "similarity_low": -1}, "similarity_low"),
        ({"similarity": TEXT, "similarity_low": 500}, "similarity"),
        ({"colour": COLOUR, "colour_scale": float("inf")}, "colour_scale"),
        ({"colour": COLOUR, "colour_scale": -1}, "colour_scale"),
        ({"similarity_scale": 3}, "similarity_scale"),
        ({"exact": True}, "exact"),
        ({"similarity": TEXT, "exact": 1}, "exact"),
    ],
)
def test_options_that_cannot_be_are_named(tiny: Pipeline, options: dict[str, Any], argument: str) -> None:
    with refused(f"guidance_options.{argument}"):
        tiny.steps("a red fox", guidance_options=options, **CALL)


def test_levels_above_which_no_loss_acts_are_named(tiny: Pipeline) -> None:
    """One step from pure noise, as of zero terminal SNR: the option would change nothing."""
    with refused("guidance_options.colour", COLOUR) as caught:
        tiny.steps(
            "a red fox", sigmas=[400.0, 0.0], guidance_options={"colour": COLOUR}, **CALL | {"num_inference_steps": 1}
        )
    assert "400" in caught.value.want


def test_a_tap_and_exact_gradients_do_not_go_together(tiny: Pipeline) -> None:
    tap = {"unet.conv_out": lambda value: value}
    with refused("tap", tap):
        tiny.steps("a red fox", tap=tap, guidance_options={"colour": COLOUR, "exact": True}, **CALL)
    assert tiny("a red fox", tap=tap, guidance_options={"similarity": TEXT}, **CALL).images


def test_without_the_files_of_the_clip_score_no_network_runs(
    tiny: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = Pipeline(tiny.components)
    called: list[str] = []
    for network in pipe.components.networks.values():
        monkeypatch.setattr(network, "forward", lambda *_, **__: called.append("a network"))
    monkeypatch.setattr(clip_score, "shipped_path", lambda: tmp_path / "gone.safetensors")
    with pytest.raises(ModelNotFoundError, match="install diffuscope again"):
        pipe.steps("a red fox", guidance_options={"similarity": TEXT}, **CALL)
    assert called == []


def test_a_replay_wants_the_same_clip_score(tiny: Pipeline, tmp_path: Path) -> None:
    result = tiny("a red fox", guidance_options={"similarity": TEXT}, **CALL)
    (path,) = result.save(tmp_path / "led.png")
    receipt = read(path)
    receipt["weights"]["similarity"] = "0" * 64
    write_png(path, result.images[0], read_texts(path).texts | {JSON_KEY: json.dumps(receipt)})
    with refused("model"):
        ds.replay(path, model=tiny)


def test_the_command_leads_to_a_text_through_the_network_and_replays(tiny_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.png"
    call = ["generate", "fox", "--model", str(tiny_folder), "--seed", "7", "--steps", "3", "--out", str(out)]
    flags = [
        "--guidance-similarity",
        "a blue car",
        "--guidance-similarity-scale",
        "2",
        "--guidance-similarity-low",
        "0.1",
    ]
    assert main([*call, *flags, "--guidance-colour", "0.1", "0.9", "0.5", "--guidance-exact"]) == 0
    said = capsys.readouterr().err
    assert re.match(r"exact guidance needs about [\d,]+ MiB", said)
    assert said.index("exact guidance") < said.index("0/3"), "before the first step"
    options = {"similarity": "a blue car", "similarity_scale": 2.0, "similarity_low": 0.1}
    assert read(out)["guidance_options"] == options | {"colour": [0.1, 0.9, 0.5], "exact": True}
    assert main(["info", str(out)]) == 0
    assert '"similarity": "a blue car"' in capsys.readouterr().out
    assert main(["replay", str(out), "--model", str(tiny_folder)]) == 0
    assert capsys.readouterr().out.endswith("identical: every pixel is the same\n")
    assert main([*call, "--guidance-exact"]) == 2
    assert capsys.readouterr().err.startswith("error: --guidance-exact: got True")
    for flag, value in (("--guidance-similarity-scale", "nan"), ("--guidance-similarity", " ")):
        assert main([*call, *flags, flag, value]) == 2
        assert capsys.readouterr().err.startswith(f"error: {flag}: got ")
    assert main([*call, *flags, "--quiet"]) == 0
    assert "MiB" not in capsys.readouterr().err
