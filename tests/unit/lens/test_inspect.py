"""Inspections: each has the numbers of the lens's own functions, and looking changes no picture."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from diffuscope.lens.ablation import Ablation, effects
from diffuscope.lens.capture import Capture
from diffuscope.lens.inspect import KINDS, inspect
from diffuscope.lens.prompt_to_prompt import Refine
from diffuscope.lens.text import layer_conditioning
from diffuscope.pipeline import Pipeline
from diffuscope.request import Branch, Request
from refusals import refused

PROMPT = "a red fox"
CALL = {"seed": 1, "num_inference_steps": 2, "upscale": 1}
CROSS = "unet.down.0.attn.0.block.0.cross_attn"
SELF = "unet.mid.attn.0.block.0.self_attn"

LOOKING = ("steps", "guidance", "attention", "self-attention")


@pytest.mark.parametrize("kind", LOOKING)
def test_looking_changes_no_picture(tiny: Pipeline, kind: str) -> None:
    """To the rounding of the explicit softmax: one step of 255 in a pixel."""
    plain = inspect(tiny, "steps", PROMPT, **CALL)["pictures"]
    seen = inspect(tiny, kind, PROMPT, **CALL)["pictures"]
    assert (plain.int() - seen.int()).abs().max() <= 1
    assert torch.equal(plain[0], torch.from_numpy(_array(tiny)))


def _array(pipe: Pipeline):
    return np.asarray(pipe(PROMPT, **CALL).images[0]).copy()


def test_steps_are_those_of_a_run(tiny: Pipeline) -> None:
    found = inspect(tiny, "steps", PROMPT, **CALL)
    steps = [(step.x.clone(), step.x0.clone()) for step in tiny.steps(PROMPT, **CALL)]
    assert torch.equal(found["x"], torch.cat([x for x, _ in steps]))
    assert torch.equal(found["x0"], torch.cat([x0 for _, x0 in steps]))


def test_the_parts_of_guidance_add_up(tiny: Pipeline) -> None:
    found = inspect(tiny, "guidance", PROMPT, guidance_scale=3.0, **CALL)
    total = torch.lerp(found["uncond"], found["cond"], 3.0)
    torch.testing.assert_close(found["x0"], total, rtol=1e-4, atol=1e-4)
    assert found["sigmas"].shape == (2,)
    assert "uncond" not in inspect(tiny, "guidance", PROMPT, guidance_scale=1.0, **CALL).tensors


def test_attention_is_that_of_every_call_layer_and_head(tiny: Pipeline) -> None:
    found = inspect(tiny, "attention", PROMPT, **CALL)
    capture = Capture(f"{CROSS}.weights", reduce="all")
    tiny(PROMPT, tap=capture, **CALL)
    weights = capture[f"{CROSS}.weights"][:, 1]  # [calls,heads,T,S] of the prompt
    maps, scale = found[CROSS].float(), found[f"{CROSS}.scale"]
    calls, _, words, h, w = maps.shape
    assert (calls, words, h * w) == (2, 5, weights.shape[2])
    values = (maps / 255 * scale[..., None, None]).flatten(3).transpose(2, 3)  # [calls,heads,T,words]
    expected = torch.cat([weights[..., 1:4], weights[..., :1], weights[..., 4:].sum(-1, keepdim=True)], dim=-1)
    torch.testing.assert_close(values, expected, rtol=0, atol=0.5 / 255)
    assert [word["word"] for word in found.about["words"]] == ["a", "red", "fox"]
    assert found.about["calls_per_step"] == [1, 1]


def test_self_attention_is_that_of_every_place(tiny: Pipeline) -> None:
    found = inspect(tiny, "self-attention", PROMPT, **CALL)
    capture = Capture(f"{SELF}.weights", reduce="all", heads="mean")
    tiny(PROMPT, tap=capture, **CALL)
    maps = found[SELF].float()
    values = (maps / 255 * found[f"{SELF}.scale"][..., None, None]).flatten(3).flatten(1, 2)
    torch.testing.assert_close(values, capture[f"{SELF}.weights"][:, 1], rtol=0, atol=0.5 / 255)


def test_maps_that_would_not_fit_are_averaged_or_left_out(tiny: Pipeline) -> None:
    from diffuscope.lens.attention_record import CrossAttentionRecord, SelfAttentionRecord

    whole, small = CrossAttentionRecord(tiny.tokenizer), CrossAttentionRecord(tiny.tokenizer, budget=12_000)
    for record in (whole, small):
        tiny(PROMPT, tap=record, height=64, width=64, **CALL)
    assert not whole.averages_heads
    assert small.averages_heads
    assert small.grids[f"{CROSS}.weights"] == (16, 16)
    assert whole.grids[f"{CROSS}.weights"] == (32, 32)
    maps, scale = small.tensors()[CROSS], small.tensors()[f"{CROSS}.scale"]
    full = whole.tensors()[CROSS].float() * whole.tensors()[f"{CROSS}.scale"][..., None, None]
    pooled = torch.nn.functional.avg_pool2d(full.mean(1), 2)
    torch.testing.assert_close(maps[:, 0].float() * scale[:, 0, :, None, None], pooled, rtol=0.05, atol=1.5)
    some = SelfAttentionRecord(budget=420_000)
    tiny(PROMPT, tap=some, **CALL | {"num_inference_steps": 4})
    assert 0 < len(some.kept_calls) < 4
    with refused("budget"):
        tiny(PROMPT, tap=CrossAttentionRecord(tiny.tokenizer, budget=100), **CALL)
    with refused("budget"):
        tiny(PROMPT, tap=SelfAttentionRecord(budget=100), **CALL)
    with refused("budget", 0):
        SelfAttentionRecord(budget=0)
    with refused("image"):
        tiny(PROMPT, tap=CrossAttentionRecord(tiny.tokenizer, image=1), **CALL)


def test_each_layer_of_the_text_encoder_has_its_picture(tiny: Pipeline) -> None:
    found = inspect(tiny, "layers", PROMPT, **CALL)
    count = len(tiny.text_encoder.layer)
    assert found["pictures"].shape[0] == count + 1
    first = tiny(conditioning=layer_conditioning(tiny, PROMPT, 0), output_type="pt", **CALL).images[0]
    assert torch.equal(found["pictures"][0], (first.permute(1, 2, 0) * 255).round().byte())
    assert found["attention"].shape == (count, tiny.config.text_encoder.heads, 5, 5)
    torch.testing.assert_close(found["attention"][..., 0, 0], torch.ones(count, tiny.config.text_encoder.heads))
    torch.testing.assert_close(found["similarity"][-1], torch.ones(5))
    assert found.about["tokens"][1:4] == ["a</w>", "red</w>", "fox</w>"]


@pytest.mark.parametrize("options", [{"to": "a blue cup"}, {"to": "cup", "word": "fox", "method": "slerp"}])
def test_a_blend_begins_with_the_prompt_and_ends_with_the_other(tiny: Pipeline, options: dict) -> None:
    found = inspect(tiny, "blend", PROMPT, options=options | {"count": 3}, **CALL)
    ends = [inspect(tiny, "steps", text, **CALL)["pictures"][0].int() for text in (PROMPT, "a blue cup", "a red cup")]
    end = ends[2] if "word" in options else ends[1]
    assert (found["pictures"][0].int() - ends[0]).abs().max() <= 1
    assert (found["pictures"][2].int() - end).abs().max() <= 1
    assert found["fractions"].tolist() == [0, 0.5, 1]


def test_an_ablation_is_that_of_the_lens(tiny: Pipeline) -> None:
    switches = [
        ({"names": CROSS}, Ablation(CROSS, 0.0)),
        ({"names": [CROSS], "heads": [1], "strength": 2.0}, Ablation(f"{CROSS}.head_out", 2.0, heads=[1])),
        ({"word": "fox", "last": 0}, Ablation("unet.*.cross_attn.weights", 0.0, tokens=[3], calls=[0])),
        ({"names": CROSS, "area": "01,00"}, Ablation(CROSS, area=torch.tensor([[0.0, 1.0], [0.0, 0.0]]))),
    ]
    for options, tap in switches:
        found = inspect(tiny, "ablation", PROMPT, options=options, **CALL)
        assert torch.equal(found["latents"][1:], tiny(PROMPT, tap=tap, **CALL).latents)
        (effect,) = effects(tiny, [tap], PROMPT, **CALL)
        assert float(found["effect"]) == pytest.approx(effect.latents)
    with refused("options.heads"):
        inspect(tiny, "ablation", PROMPT, options={"word": "fox", "heads": [0]}, **CALL)
    for area in ("", ",", "01,0", "02"):
        with refused("options.area"):
            inspect(tiny, "ablation", PROMPT, options={"area": area}, **CALL)
    with refused("options.first", 5):
        inspect(tiny, "ablation", PROMPT, options={"first": 5}, **CALL)


def test_the_map_of_ablations_has_the_effect_of_each(tiny: Pipeline) -> None:
    found = inspect(tiny, "ablation-map", PROMPT, options={"bands": 2}, **CALL)
    blocks, bands = found.about["blocks"], found.about["bands"]
    assert bands == [[0, 0], [1, 1]]
    assert found["effect"].shape == (len(blocks), 2)
    row = blocks.index(CROSS)
    (effect,) = effects(tiny, [Ablation(CROSS, calls=[1])], PROMPT, **CALL)
    assert float(found["effect"][row, 1]) == pytest.approx(effect.latents)
    assert bool((found["effect"] > 0).all())
    assert found["latents"].shape[0] == 1 + 2 * len(blocks)


def test_an_edit_is_that_of_prompt_to_prompt(tiny: Pipeline) -> None:
    found = inspect(tiny, "prompt-to-prompt", PROMPT, options={"edit": "a blue fox"}, **CALL)
    both = tiny([PROMPT, "a blue fox"], tap=Refine(tiny.tokenizer), **CALL | {"seed": [1, 1]})
    expected = torch.stack([torch.from_numpy(np.asarray(image).astype(int)) for image in both.images])
    assert (found["pictures"][:2].int() - expected).abs().max() <= 1
    maps = [found[f"{name}.{CROSS}"] for name in ("source", "edit")]
    assert maps[0].shape == maps[1].shape
    assert (maps[0][0, :, 2].int() - maps[1][0, :, 2].int()).abs().max() <= 1  # the fox keeps its attention
    louder = inspect(tiny, "prompt-to-prompt", PROMPT, options={"word": "red", "factor": 2.0}, **CALL)
    one, two = (louder[f"{name}.{CROSS}.scale"][0, :, 1] for name in ("source", "edit"))
    torch.testing.assert_close(two, 2 * one)
    with refused("options.edit"):
        inspect(tiny, "prompt-to-prompt", PROMPT, **CALL)


def test_a_colour_guides_as_the_option_of_a_call_does(tiny: Pipeline) -> None:
    found = inspect(tiny, "colour", PROMPT, options={"colour": [0.9, 0.1, 0.1], "scale": 20}, **CALL)
    guided = {"colour": (0.9, 0.1, 0.1), "colour_scale": 20.0}
    expected = inspect(tiny, "steps", PROMPT, guidance_options=guided, **CALL)
    assert torch.equal(found["pictures"][1], expected["pictures"][0])
    assert found["push"].shape == found["x0"].shape
    assert found["push"].abs().max() > 0


def test_the_outcome_is_a_file_with_its_labels(tiny: Pipeline, tmp_path) -> None:
    found = inspect(tiny, "steps", Request(PROMPT, **CALL))
    found.save(tmp_path / "steps.safetensors")
    with safe_open(tmp_path / "steps.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("x0"), found["x0"])
        about = json.loads(file.metadata()["diffuscope"])
    assert (about["kind"], about["request"]["seed"]) == ("steps", 1)
    with refused("name", "y"):
        found["y"]


def test_what_cannot_be_inspected_is_refused(tiny: Pipeline) -> None:
    with refused("kind", "atention"):
        inspect(tiny, "atention", PROMPT)
    with refused("speed", 3):
        inspect(tiny, "steps", PROMPT, options={"speed": 3})
    with refused("prompt"):
        inspect(tiny, "attention", Request(["a fox", "a cup"]))
    assert all(kind.help for kind in KINDS.values())


def test_a_branch_is_inspected_from_its_step_on(tiny: Pipeline) -> None:
    first = Request(PROMPT, seed=1, num_inference_steps=4, upscale=1)
    request = Request("a blue fox", seed=1, num_inference_steps=4, upscale=1, branch=Branch(request=first, step=2))
    found = inspect(tiny, "attention", request)
    assert (found[CROSS].shape[0], found.about["calls_per_step"]) == (2, [0, 0, 1, 1])
    assert (
        found["pictures"][0].int() - torch.from_numpy(np.asarray(tiny(request).images[0]).astype(int))
    ).abs().max() <= 1
    assert inspect(tiny, "ablation-map", request, options={"bands": 2}).about["bands"] == [[2, 2], [3, 3]]
    with refused("branch", 2):
        inspect(tiny, "prompt-to-prompt", request, options={"edit": "a green fox"})
