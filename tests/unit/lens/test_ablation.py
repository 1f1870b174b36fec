"""Ablation: exactly the part that is chosen, and effects that are ranked, zero where nothing is changed."""

import torch

from diffuscope.lens.ablation import Ablation, effects
from diffuscope.lens.capture import Capture
from diffuscope.lens.run_tap import compose
from diffuscope.pipeline import Pipeline
from refusals import refused

CROSS = "unet.down.0.attn.0.block.0.cross_attn"


def watched(pipe: Pipeline, name: str, ablation: Ablation) -> tuple[torch.Tensor, torch.Tensor]:
    """The value at the first call before and after: [B,...] each."""
    before, after = Capture(name, reduce="all"), Capture(name, reduce="all")
    pipe("a red fox", seed=1, num_inference_steps=2, tap=compose(before, ablation, after))
    return before[name], after[name]


def test_a_head_alone_is_zeroed(tiny: Pipeline) -> None:
    before, after = watched(tiny, f"{CROSS}.head_out", Ablation(f"{CROSS}.head_out", heads=[1]))
    assert torch.equal(after[:, :, 0], before[:, :, 0])
    assert after[:, :, 1].abs().max() == 0


def test_a_context_token_alone_is_scaled(tiny: Pipeline) -> None:
    before, after = watched(tiny, f"{CROSS}.weights", Ablation(f"{CROSS}.weights", 0.25, tokens=[3]))
    expected = before.clone()
    expected[..., 3] *= 0.25
    assert torch.equal(after, expected)


def test_a_call_alone_is_changed(tiny: Pipeline) -> None:
    before, after = watched(tiny, "unet.mid.resnet.0", Ablation("unet.mid.resnet.0", "mean", calls=[1]))
    assert torch.equal(after[0], before[0])
    torch.testing.assert_close(after[1], before[1].mean((-2, -1), keepdim=True).expand_as(before[1]))


def test_means_of_attention_are_even_and_of_tokens_their_mean(tiny: Pipeline) -> None:
    _, even = watched(tiny, f"{CROSS}.weights", Ablation(f"{CROSS}.weights", "mean"))
    torch.testing.assert_close(even, torch.full_like(even, 1 / 77))
    before, after = watched(tiny, CROSS, Ablation(CROSS, "mean", tokens=[2]))
    torch.testing.assert_close(after[..., 2, :], before.mean(-2))
    assert torch.equal(after[..., 3:, :], before[..., 3:, :])


def test_in_an_area_alone_attention_is_scaled(tiny: Pipeline) -> None:
    area = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    before, after = watched(tiny, f"{CROSS}.weights", Ablation(f"{CROSS}.weights", 3.0, tokens=[3], area=area))
    side = round(before.shape[-2] ** 0.5)
    factor = 1 + 2 * area.repeat_interleave(side // 2, 0).repeat_interleave(side // 2, 1).flatten()
    expected = before.clone()
    expected[..., 3] *= factor
    torch.testing.assert_close(after, expected)
    before, after = watched(tiny, "unet.mid.resnet.0", Ablation("unet.mid.resnet.0", area=torch.eye(2)[:1]))
    half = before.shape[-1] // 2
    assert after[..., :half].abs().max() == 0
    assert torch.equal(after[..., half:], before[..., half:])


def test_what_has_no_positions_of_the_image_has_no_area(tiny: Pipeline) -> None:
    for area in (torch.ones(2), torch.full((2, 2), 1.5), torch.ones(0, 2)):
        with refused("area"):
            Ablation(CROSS, area=area)
    for name in (f"{CROSS}.key", "text_encoder.*", "unet.time_embed*"):
        with refused("area"):
            tiny("a red fox", seed=1, num_inference_steps=1, tap=Ablation(name, area=torch.ones(2, 2)))


def test_effects_are_ranked_and_nothing_has_no_effect(tiny: Pipeline) -> None:
    points = [
        "unet.mid.attn.0.block.0.self_attn",
        CROSS,
        Ablation("unet.conv_out", 1.0),
        Ablation(CROSS, heads=None, calls=[0]),
    ]
    found = effects(tiny, points, "a red fox", num_inference_steps=2)
    assert len(found) == 4
    assert [effect.latents for effect in found] == sorted((effect.latents for effect in found), reverse=True)
    assert found[-1].name == "unet.conv_out"
    assert found[-1].latents == found[-1].pixels == 0
    assert all(effect.latents > 0 and effect.pixels > 0 and effect.seconds > 0 for effect in found[:-1])
    assert f"{CROSS} · call 0" in [effect.name for effect in found]


def test_what_cannot_be_is_refused(tiny: Pipeline) -> None:
    with refused("tap", "unet.mid.attn.0.block.0.selv"):
        effects(tiny, ["unet.mid.attn.0.block.0.selv"], "a fox")
    with refused("points", []):
        effects(tiny, [], "a fox")
    with refused("tap", {}):
        effects(tiny, ["unet.conv_out"], "a fox", tap={})
    with refused("mode", "noise"):
        Ablation("unet.conv_out", "noise")
    with refused("heads", 2):
        tiny("a fox", tap=Ablation(f"{CROSS}.head_out", heads=[2]))
    with refused("calls", [9]):
        tiny.steps("a fox", tap=Ablation("unet.conv_out", calls=[9]))
    with refused("heads", [0]):
        tiny("a fox", tap=Ablation("unet.conv_out", heads=[0]))
    with refused("tokens", [0]):
        tiny("a fox", tap=Ablation("unet.conv_out", tokens=[0]))
