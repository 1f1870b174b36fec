"""Prompts with signs in a call: weights, long texts, texts that change, AND; and in the receipt."""

from pathlib import Path

import pytest
import torch

import diffuscope as ds
from diffuscope.pipeline import Pipeline
from narrow import made
from refusals import refused

CALL = {"seed": 1, "num_inference_steps": 4, "guidance_scale": 3.0}
LONG = "a red fox, " * 30


@pytest.fixture(scope="module")
def sd15() -> Pipeline:
    return made("sd15")


@pytest.fixture(scope="module")
def sdxl() -> Pipeline:
    return made("sdxl")


def latents(pipe: Pipeline, prompt, syntax: str = "a1111", **call) -> torch.Tensor:
    return pipe(prompt, prompt_syntax=syntax, **CALL | call).latents


@pytest.mark.parametrize("syntax", ["a1111", "comfyui"])
@pytest.mark.parametrize("prompt", ["", "a red fox on a blue background, smiling"])
def test_a_prompt_without_signs_is_the_same_to_the_bit(sd15: Pipeline, syntax: str, prompt: str) -> None:
    assert torch.equal(latents(sd15, prompt, syntax), latents(sd15, prompt, "plain"))


@pytest.mark.parametrize("syntax", ["a1111", "comfyui"])
def test_weights_of_one_change_nothing_and_others_do(sd15: Pipeline, syntax: str) -> None:
    plain = latents(sd15, "a red fox", "plain")
    assert torch.equal(latents(sd15, "a (red:1.0) fox", syntax), plain)
    assert (latents(sd15, "a (red:1.6) fox", syntax) - plain).abs().max() > 1e-3
    assert torch.equal(
        latents(sd15, "a red fox", syntax, negative_prompt="(blue:1)"),
        latents(sd15, "a red fox", "plain", negative_prompt="blue"),
    )


def test_signs_are_text_by_default(sd15: Pipeline) -> None:
    result = sd15("a (red:1.6) fox", **CALL)
    assert result.receipt["prompt_syntax"] == "plain"
    assert torch.equal(result.latents, latents(sd15, "a (red:1.6) fox", "plain"))


@pytest.mark.parametrize("syntax", ["a1111", "comfyui"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_long_prompts_and_weights_in_every_family(request, family: str, syntax: str) -> None:
    pipe = request.getfixturevalue(family)
    states = pipe.encode_prompt(LONG, prompt_syntax=syntax)
    assert states.embeddings.shape[1] == 2 * 77
    assert torch.equal(states.ids[:, 77:78], torch.tensor([[49406]]))
    long = latents(pipe, LONG, syntax)
    assert (long - latents(pipe, LONG, "plain")).abs().max() > 1e-4
    assert (latents(pipe, LONG + "(red:1.5)", syntax) - long).abs().max() > 1e-4
    by_hand = pipe(conditioning=states, **CALL).latents
    assert torch.allclose(by_hand, long, atol=1e-4)


def test_pictures_of_several_lengths_do_not_depend_on_each_other(sd15: Pipeline) -> None:
    both = latents(sd15, [LONG, "a cat"], seed=[1, 2])
    assert torch.allclose(both[0], latents(sd15, LONG)[0], atol=1e-4)
    assert torch.allclose(both[1], latents(sd15, "a cat", seed=2)[0], atol=1e-4)


def test_a_text_changes_after_the_step_it_names(sd15: Pipeline) -> None:
    """The web UI counts from 0: with ``:1`` of four steps the first two read what is before."""
    seen = {
        prompt: [step.x.clone() for step in sd15.steps(prompt, prompt_syntax="a1111", **CALL)] for prompt in CHANGES
    }
    fox, cat, changed, half, taking_turns = seen.values()
    for steps, last in ((changed, 2), (half, 3), (taking_turns, 2)):
        assert all(torch.equal(steps[k], fox[k]) for k in range(last))
        assert not torch.equal(steps[last], fox[last])
    assert not any(torch.equal(a, b) for a, b in zip(fox, cat, strict=True))


CHANGES = ("a fox", "a cat", "a [fox:cat:1]", "a [fox:cat:0.5]", "a [fox|cat]")


def test_a_change_in_the_negative_prompt(sd15: Pipeline) -> None:
    changed = latents(sd15, "a fox", negative_prompt="[red:blue:0.5]")
    assert not torch.equal(changed, latents(sd15, "a fox", negative_prompt="red"))
    assert torch.equal(
        latents(sd15, "a fox", negative_prompt="[red:red:0.5]"), latents(sd15, "a fox", negative_prompt="red")
    )


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "dpmpp_2m_sde", "restart"])
def test_changes_are_counted_in_steps_of_any_sampler(sd15: Pipeline, sampler: str) -> None:
    call = CALL | {"sampler": sampler, "num_inference_steps": 6}
    fox, changed = (
        [s.x.clone() for s in sd15.steps(p, prompt_syntax="a1111", **call)] for p in ("a fox", "a [fox:cat:2]")
    )
    assert [torch.equal(a, b) for a, b in zip(fox, changed, strict=True)] == [True] * 3 + [False] * (len(fox) - 3)


def test_and_is_the_sum_of_what_each_prompt_adds(sd15: Pipeline) -> None:
    """One step of Euler: x0 = uncond + scale * (w1 (a - uncond) + w2 (b - uncond))."""
    call = {"seed": 1, "num_inference_steps": 1, "sampler": "euler"}
    uncond, a, b = (sd15(p, guidance_scale=1.0, **call).latents for p in ("", "a fox", "a cat"))
    joined = sd15("a fox :0.7 AND a cat : 0.5", prompt_syntax="a1111", guidance_scale=3.0, **call).latents
    expected = uncond + 3.0 * (0.7 * (a - uncond) + 0.5 * (b - uncond))
    assert torch.allclose(joined, expected, atol=2e-4 * float(expected.abs().max()))
    alone = sd15("a fox :0.7 AND a cat : 0.5", prompt_syntax="a1111", guidance_scale=1.0, **call).latents
    assert torch.allclose(alone, uncond + 0.7 * (a - uncond) + 0.5 * (b - uncond), atol=2e-4 * float(a.abs().max()))


def test_and_beside_a_prompt_without_it_and_of_another_length(sd15: Pipeline) -> None:
    both = latents(sd15, ["a fox AND a cat", "a hen"], seed=[1, 2])
    assert torch.allclose(both[0], latents(sd15, "a fox AND a cat")[0], atol=1e-4)
    assert torch.allclose(both[1], latents(sd15, "a hen", seed=2)[0], atol=1e-4)
    assert latents(sd15, f"a fox AND {LONG}").isfinite().all()


def test_a_receipt_repeats_it(sd15: Pipeline, tmp_path: Path) -> None:
    prompt = f"(a [red|blue] fox:1.2) BREAK [smiling:0.5] {LONG} AND a \\(cat\\) :0.5"
    result = sd15(prompt, prompt_syntax="a1111", negative_prompt="[ugly]", **CALL)
    (path,) = result.save(tmp_path / "out.png")
    again = ds.replay(path, model=sd15)
    assert again.identical
    assert again.result.receipt["prompt_syntax"] == "a1111"


def test_states_without_a_mean_cannot_keep_it(tiny: Pipeline) -> None:
    """The tiny model's last norm has no bias: the mean of its states is rounding."""
    with refused("prompt_syntax", "a1111"):
        tiny("a (fox:3)", prompt_syntax="a1111", **CALL)
    tiny("a (fox:3)", prompt_syntax="comfyui", **CALL)


def test_what_one_conditioning_cannot_hold_is_refused(sd15: Pipeline) -> None:
    for prompt in ("a fox AND a cat", "a [fox:cat:0.5]", "a fox:1.5"):
        with refused("prompt", prompt):
            sd15.encode_prompt(prompt, prompt_syntax="a1111")
    with refused("prompt"):
        sd15.encode_prompt(["a fox", LONG], prompt_syntax="a1111")
    with refused("prompt_syntax", "nai"):
        sd15("a fox", prompt_syntax="nai")


def test_a_tap_needs_one_call_of_the_unet(sd15: Pipeline) -> None:
    tap = {"unet.x": lambda _: None}
    for prompt in ("a fox AND a cat", LONG):
        with refused("tap"):
            sd15(prompt, prompt_syntax="a1111", tap=tap, **CALL)
    sd15(LONG, negative_prompt=LONG, prompt_syntax="a1111", tap=tap, **CALL)
    sd15("a [fox|cat]", prompt_syntax="a1111", tap=tap, **CALL)


def test_a_model_without_a_negative_prompt_refuses_and() -> None:
    with refused("prompt"):
        made("sd15-lcm")("a fox AND a cat", prompt_syntax="a1111", num_inference_steps=1)
