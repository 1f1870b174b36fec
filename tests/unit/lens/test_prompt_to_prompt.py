"""Prompt-to-prompt: the source is untouched, the edit has the source's attention, factors of 1 change no bit."""

import pytest
import torch

from diffuscope.lens.capture import Capture
from diffuscope.lens.prompt_to_prompt import (
    CROSS_ATTENTION,
    PromptToPrompt,
    Refine,
    Replace,
    Reweight,
    refinement_alignment,
    replacement_mapper,
)
from diffuscope.lens.run_tap import compose
from diffuscope.pipeline import Pipeline
from refusals import refused

SOURCE, SWAPPED, ADDED = "a cat on a bike", "a hippopotamus on a bike", "a small cat on a bike"
NAME = "unet.down.0.attn.0.block.0.cross_attn.weights"
TOLERANCE = 1e-4
"""Attention written out and in a batch, against the fused kernel alone, over a run."""


def rows(pipe: Pipeline, prompts: list[str], tap: PromptToPrompt) -> torch.Tensor:
    """[calls,2,N,T,S] cross-attention of source and edit after the tap."""
    capture = Capture(NAME, reduce="all")
    pipe(prompts, seed=[7, 7], tap=compose(tap, capture))
    return capture[NAME][:, 2:]


@pytest.mark.parametrize("kind", [Replace, Refine])
def test_the_source_is_the_source_and_the_edit_is_another(tiny: Pipeline, kind: type) -> None:
    edit = SWAPPED if kind is Replace else ADDED
    both = tiny([SOURCE, edit], seed=[7, 7], tap=kind(tiny.tokenizer)).latents
    alone = tiny(SOURCE, seed=7).latents
    assert (both[0] - alone[0]).abs().max() < TOLERANCE * alone.abs().max()
    assert not torch.equal(both[1], tiny([SOURCE, edit], seed=[7, 7]).latents[1])


def test_the_same_prompt_replaced_is_the_same_picture(tiny: Pipeline) -> None:
    both = tiny([SOURCE, SOURCE], seed=[7, 7], tap=Replace(tiny.tokenizer, cross_fraction=1, self_fraction=1)).latents
    assert (both[0] - both[1]).abs().max() < TOLERANCE * both.abs().max()


def test_replaced_words_have_the_attention_of_those_they_replace(tiny: Pipeline) -> None:
    found = rows(tiny, [SOURCE, SWAPPED], Replace(tiny.tokenizer, cross_fraction=0.5, self_fraction=0))
    count = len(tiny.tokenizer.tokenize("hippopotamus"))
    source, edit = found[:2].unbind(1)
    torch.testing.assert_close(edit[..., 2 : 2 + count].sum(-1), source[..., 2], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(edit[..., 2 + count], source[..., 3], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(edit.sum(-1), torch.ones_like(edit[..., 0]), atol=1e-5, rtol=0)
    plain = Capture(NAME, reduce="all")
    tiny([SOURCE, SWAPPED], seed=[7, 7], tap=plain)
    assert (found[2:] - plain[NAME][2:, 2:]).abs().max() > 0  # the picture differs, but nothing is edited any more:
    assert (found[2, 1, ..., 2 : 2 + count].sum(-1) - found[2, 0, ..., 2]).abs().max() > 1e-6


def test_refined_words_keep_theirs_and_new_ones_have_their_own(tiny: Pipeline) -> None:
    found = rows(tiny, [SOURCE, ADDED], Refine(tiny.tokenizer, cross_fraction=1, self_fraction=0))
    plain = Capture(NAME, reduce="all")
    tiny([SOURCE, ADDED], seed=[7, 7], tap=plain)
    source, edit = found.unbind(1)
    assert torch.equal(edit[..., [0, 1, 3, 4]], source[..., [0, 1, 2, 3]])
    torch.testing.assert_close(edit[0, ..., 2], plain[NAME][0, 3, ..., 2])


def test_alignments_by_hand(tiny: Pipeline) -> None:
    found = refinement_alignment(SOURCE, ADDED, tiny.tokenizer)
    assert found[:8] == [0, 1, -1, 2, 3, 4, 5, 6]
    assert found[-1] == 76 - 1
    assert refinement_alignment(SOURCE, SOURCE, tiny.tokenizer) == list(range(77))
    assert torch.equal(replacement_mapper(SOURCE, SOURCE, tiny.tokenizer), torch.eye(77))
    for pair in ((SOURCE, SWAPPED), (SWAPPED, SOURCE)):
        torch.testing.assert_close(replacement_mapper(*pair, tiny.tokenizer).sum(1), torch.ones(77))
    with refused("prompt"):
        replacement_mapper(SOURCE, ADDED, tiny.tokenizer)


def test_factors_of_one_are_the_identity_and_others_scale_their_columns(tiny: Pipeline) -> None:
    plain = tiny(SOURCE, seed=7, tap=Capture(CROSS_ATTENTION)).latents
    assert torch.equal(tiny(SOURCE, seed=7, tap=Reweight({2: 1.0, 5: 1.0})).latents, plain)
    before, after = Capture(NAME, reduce="all"), Capture(NAME, reduce="all")
    tiny([SOURCE, SWAPPED], seed=7, tap=compose(before, Reweight({2: -0.5}, images=[1]), after))
    expected = before[NAME].clone()
    expected[:, 3, ..., 2] *= -0.5
    assert torch.equal(after[NAME], expected)


def test_what_cannot_be_is_refused(tiny: Pipeline) -> None:
    replace = Replace(tiny.tokenizer)
    for prompts, seed in ((SOURCE, 7), ([SOURCE, SWAPPED], 7)):
        with refused("prompt"):
            tiny(prompts, seed=seed, tap=replace)
    with refused("prompt"):
        tiny([SOURCE, ADDED], seed=[7, 7], tap=replace)
    with refused("cross_fraction", 2):
        Refine(tiny.tokenizer, cross_fraction=2)
    with refused("factors", {-1: 1.0}):
        Reweight({-1: 1.0})
    with refused("factors", {77: 2.0}):
        tiny(SOURCE, tap=Reweight({77: 2.0}))
