"""Token surgery and mixing: exact, and only where they act."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from diffuscope.lens.text import nearest_tokens
from diffuscope.pipeline import Pipeline
from diffuscope.prompt.embeddings import encode_embeddings, encode_with_embedding, replace_embeddings, word_embedding
from diffuscope.prompt.mixing import batch, blend, interpolate, slerp, weight_tokens
from diffuscope.prompt.positions import token_positions, word_tokens
from diffuscope.types import Conditioning
from narrow import made
from refusals import refused

PROMPT = "A picture of a puppy"


def test_word_positions_are_the_encoded_positions(tiny: Pipeline) -> None:
    text = "Two red foxes, a hippopotamus & a cat's hat"
    ids = tiny.tokenizer.encode(text)[0].tolist()
    line = word_tokens(text, tiny.tokenizer)
    assert [i for word in line for i in word.ids] == tiny.tokenizer.tokenize(text)
    for word in line:
        assert tuple(ids[position] for position in word.positions) == word.ids
    assert token_positions("RED foxes", text, tiny.tokenizer) == (2, 3)
    assert token_positions("a", text, tiny.tokenizer) == tuple(
        p for word in line if word.word == "a" for p in word.positions
    )
    assert token_positions("puppy", PROMPT, tiny.tokenizer) == (5,)


def test_a_word_that_is_not_there_is_named_with_the_nearest(tiny: Pipeline) -> None:
    with refused("word", "pupy") as caught:
        token_positions("pupy", PROMPT, tiny.tokenizer)
    assert "puppy" in caught.value.hint
    with refused("word") as caught:
        token_positions("fox", "cat " * 75 + "fox", tiny.tokenizer)
    assert "first 75 tokens" in caught.value.want
    with refused("word", " "):
        token_positions(" ", PROMPT, tiny.tokenizer)
    with refused("word", " "):
        word_embedding(" ", tiny.tokenizer, tiny.text_encoder)


def test_only_positions_from_the_swap_on_change(tiny: Pipeline) -> None:
    """The lesson's rows 15-19: token 6829 by 2368 at position 5."""
    plain = tiny.encode_prompt(PROMPT)
    cat = tiny.text_encoder.token_embedding.weight[2368]
    assert torch.equal(cat, word_embedding("cat", tiny.tokenizer, tiny.text_encoder))
    swapped = encode_with_embedding(PROMPT, "puppy", cat, tiny.tokenizer, tiny.text_encoder)
    assert torch.equal(swapped.embeddings[:, :5], plain.embeddings[:, :5])
    changed = (swapped.embeddings - plain.embeddings).abs().amax(-1)[0]
    assert bool((changed[5:] > 0).all())
    torch.testing.assert_close(swapped.embeddings, tiny.encode_prompt("A picture of a cat").embeddings)


def test_a_word_by_itself_changes_nothing(tiny: Pipeline) -> None:
    own = word_embedding("puppy", tiny.tokenizer, tiny.text_encoder)
    again = encode_with_embedding(PROMPT, "puppy", own, tiny.tokenizer, tiny.text_encoder)
    assert torch.equal(again.embeddings, tiny.encode_prompt(PROMPT).embeddings)
    embeddings = tiny.text_encoder.embed(tiny.tokenizer.encode(PROMPT))
    before = embeddings.clone()
    replace_embeddings(embeddings, [5], own * 2, tiny.text_encoder)
    assert torch.equal(embeddings, before)


def test_the_pipeline_takes_what_surgery_makes(tiny: Pipeline) -> None:
    vectors = [word_embedding(word, tiny.tokenizer, tiny.text_encoder) for word in ("puppy", "skunk")]
    told = encode_with_embedding(
        PROMPT, "puppy", 0.5 * vectors[0] + 0.5 * vectors[1], tiny.tokenizer, tiny.text_encoder
    )
    blended = tiny(conditioning=told, seed=1).latents
    assert not torch.equal(blended, tiny(PROMPT, seed=1).latents)
    own = encode_with_embedding(PROMPT, "puppy", vectors[0], tiny.tokenizer, tiny.text_encoder)
    assert torch.equal(tiny(conditioning=own, seed=1).latents, tiny(PROMPT, seed=1).latents)


@pytest.mark.parametrize(
    ("argument", "positions", "width"), [("positions", [77], 32), ("positions", [-1], 32), ("vector", [1], 31)]
)
def test_impossible_surgery_is_refused(tiny: Pipeline, argument: str, positions: list[int], width: int) -> None:
    embeddings = tiny.text_encoder.embed(tiny.tokenizer.encode(PROMPT))
    with refused(argument):
        replace_embeddings(embeddings, positions, torch.zeros(width), tiny.text_encoder)


def test_blending_is_the_weighted_sum(tiny: Pipeline) -> None:
    mouse, leopard = tiny.encode_prompt("A mouse"), tiny.encode_prompt("A leopard")
    chimera = blend([mouse, leopard], [0.35, 0.65])
    torch.testing.assert_close(chimera.embeddings, 0.35 * mouse.embeddings + 0.65 * leopard.embeddings)
    torch.testing.assert_close(chimera.pooled, 0.35 * mouse.pooled + 0.65 * leopard.pooled)
    assert torch.equal(blend([mouse, leopard], [1.0, 0.0]).embeddings, mouse.embeddings)
    with refused("weights", [1.0]):
        blend([mouse, leopard], [1.0])
    with refused("texts"):
        blend([mouse, replace(leopard, embeddings=leopard.embeddings[:, :5])], [0.5, 0.5])


@pytest.mark.parametrize("method", ["lerp", "slerp"])
def test_interpolation_ends_at_the_prompts(tiny: Pipeline, method: str) -> None:
    start, end = tiny.encode_prompt("spring"), tiny.encode_prompt("winter")
    torch.testing.assert_close(interpolate(start, end, 0.0, method).embeddings, start.embeddings)
    torch.testing.assert_close(interpolate(start, end, 1.0, method).embeddings, end.embeddings)
    with refused("fraction"):
        interpolate(start, end, float("nan"), method)
    with refused("method", "cubic"):
        interpolate(start, end, 0.5, "cubic")


def test_slerp_turns_evenly_and_keeps_the_length() -> None:
    start, end = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    for share in (0.25, 0.5):
        angle = torch.tensor(share * torch.pi / 2)
        torch.testing.assert_close(slerp(start, end, share), 3 * torch.stack([angle.cos(), angle.sin()])[None])
    torch.testing.assert_close(slerp(start, 2 * start, 0.5), 1.5 * start)
    torch.testing.assert_close(slerp(start, 0 * start, 0.5), 0.5 * start)


def test_weights_scale_their_positions_alone(tiny: Pipeline) -> None:
    text = tiny.encode_prompt(PROMPT)
    louder = weight_tokens(text, {5: 1.5, 2: 0.0})
    expected = text.embeddings.clone()
    expected[:, 5] *= 1.5
    expected[:, 2] = 0
    assert torch.equal(louder.embeddings, expected)
    assert torch.equal(weight_tokens(text, {5: 1.0}).embeddings, text.embeddings)
    with refused("weights", {77: 1.0}):
        weight_tokens(text, {77: 1.0})


def test_reading_vectors_is_the_rest_of_the_network(tiny: Pipeline) -> None:
    ids = tiny.tokenizer.encode([PROMPT, "a cat"])
    told = encode_embeddings(tiny.text_encoder.embed(ids), ids, tiny.text_encoder)
    states = tiny.text_encoder(ids)
    assert torch.equal(told.embeddings, states.last_hidden_state)
    assert torch.equal(told.pooled, states.pooled)


def test_a_batch_has_the_rows_of_all(tiny: Pipeline) -> None:
    texts = [tiny.encode_prompt(text) for text in (["a fox", "a cat"], "a car")]
    both = batch(texts)
    assert torch.equal(both.embeddings, torch.cat([text.embeddings for text in texts]))
    assert both.ids is not None
    assert torch.equal(both.ids[2:], texts[1].ids)
    assert both.pooled is not None
    assert both.pooled.shape[0] == 3
    bare = Conditioning(texts[1].embeddings)
    assert batch([bare, bare]).ids is None
    assert batch([bare, bare]).pooled is None
    call = {"num_inference_steps": 2, "upscale": 1}
    drawn = tiny(conditioning=both, seed=[3, 3, 3], **call).latents
    torch.testing.assert_close(drawn[2:], tiny("a car", seed=3, **call).latents, atol=1e-4, rtol=1e-4)
    for wrong in ([], [texts[1], bare], [bare, Conditioning(bare.embeddings[:, :5])]):
        with refused("texts"):
            batch(wrong)


def test_a_pipeline_stands_for_tokenizer_and_text_encoder(tiny: Pipeline) -> None:
    parts = (tiny.tokenizer, tiny.text_encoder)
    cat = word_embedding("cat", tiny)
    assert torch.equal(cat, word_embedding("cat", *parts))
    by_pipe, by_parts = (encode_with_embedding(PROMPT, "puppy", cat, *given) for given in ((tiny,), parts))
    assert torch.equal(by_pipe.embeddings, by_parts.embeddings)
    embeddings = tiny.text_encoder.embed(ids := tiny.tokenizer.encode(PROMPT))
    edited = replace_embeddings(embeddings, [2], cat, tiny)
    assert torch.equal(edited, replace_embeddings(embeddings, [2], cat, tiny.text_encoder))
    assert torch.equal(
        encode_embeddings(edited, ids, tiny).embeddings, encode_embeddings(edited, ids, parts[1]).embeddings
    )
    assert nearest_tokens(cat, tiny)[0].token == "cat</w>"
    with refused("text_encoder", None):
        word_embedding("cat", tiny.tokenizer)
    with refused("pipe"):
        word_embedding("cat", made("sdxl"))


def test_the_steps_of_the_lesson(quick: Pipeline) -> None:
    """``pil_to_latent``, ``get_output_embeds``, ``generate_with_embs`` and ``latents_to_pil`` by their names here."""
    (picture,) = quick.decode(quick.encode_image(Image.new("RGB", (32, 32), "red"), sample=False))
    assert picture.size == (32, 32)
    embeddings = quick.text_encoder.embed(quick.tokenizer.encode(PROMPT))
    states = encode_embeddings(embeddings, None, quick)
    assert states.pooled is None
    by_hand = quick(conditioning=states.embeddings, seed=1)
    assert torch.equal(by_hand.latents, quick(PROMPT, seed=1).latents)
