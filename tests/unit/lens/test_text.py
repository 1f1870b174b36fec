"""The text lens: layers end at the encoder's own answer, vectors are nearest to themselves, prompts are told."""

from dataclasses import replace

import pytest
import torch

from diffuscope.lens.attention_maps import AttentionCapture
from diffuscope.lens.text import debug, layer_conditioning, layer_conditionings, nearest_of_each, nearest_tokens
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.pipeline import Pipeline
from diffuscope.prompt.embeddings import word_embedding
from refusals import refused


def test_the_last_layer_is_what_the_unet_is_told_and_the_first_the_embeddings(tiny: Pipeline) -> None:
    told = layer_conditionings(tiny, "a red fox")
    assert len(told) == 3
    assert torch.equal(told[-1].embeddings, tiny.encode_prompt("a red fox").embeddings)
    embeddings = tiny.text_encoder.embed(tiny.tokenizer.encode("a red fox"))
    assert torch.equal(told[0].embeddings, tiny.text_encoder.final_norm(embeddings))
    assert torch.equal(layer_conditioning(tiny, "a red fox", -2).embeddings, told[1].embeddings)
    latents = [tiny(conditioning=each, seed=1).latents for each in told]
    assert torch.equal(latents[-1], tiny("a red fox", seed=1).latents)
    assert not torch.equal(latents[0], latents[1])
    with refused("layer", 3):
        layer_conditioning(tiny, "a fox", 3)


def test_a_words_vector_is_nearest_to_itself(tiny: Pipeline) -> None:
    found = nearest_tokens(
        word_embedding("puppy", tiny.tokenizer, tiny.text_encoder) * 3, tiny.tokenizer, tiny.text_encoder, 3
    )
    assert found[0].token == "puppy</w>"
    assert found[0].id == 6829
    assert found[0].cosine == pytest.approx(1.0, abs=1e-5)
    assert found[0].cosine > found[1].cosine >= found[2].cosine
    for vector in (torch.zeros(32), torch.ones(31)):
        with refused("vector"):
            nearest_tokens(vector, tiny.tokenizer, tiny.text_encoder)


def test_many_words_at_once_have_the_nearest_of_each(tiny: Pipeline) -> None:
    table = tiny.text_encoder.token_embedding.weight.detach()
    found = nearest_of_each(table[[3, 6829]], tiny.tokenizer, tiny.text_encoder, 5)
    for row, vector in zip(found, table[[3, 6829]], strict=True):
        cosines = torch.nn.functional.cosine_similarity(table, vector[None], dim=1)
        assert [each.cosine for each in row] == pytest.approx(cosines.topk(5).values.tolist(), abs=1e-6)
    assert nearest_of_each(table[[]], tiny.tokenizer, tiny.text_encoder, 5) == []


def test_zero_rows_are_no_answer_and_words_of_them_are_unknown(tiny: Pipeline) -> None:
    config = replace(tiny.config.text_encoder, layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = TextEncoder(config)
    with torch.no_grad():
        encoder.token_embedding.weight[10:] = 0
    assert all(each.id < 10 for each in nearest_tokens(torch.ones(32), tiny.tokenizer, encoder, 20))
    pipe = Pipeline(replace(tiny.components, text_encoder=encoder))
    assert debug(pipe, "a fox").unknown == ("a", "fox")


def test_a_prompt_is_taken_apart(tiny: Pipeline) -> None:
    capture = AttentionCapture()
    prompt = "a hippopotamus-like fox"
    tiny(prompt, seed=1, tap=capture)
    told = debug(tiny, prompt, weights={1: 1.3}, peaks=capture.maps(tiny.tokenizer).peaks())
    assert [word.word for word in told.words] == ["a", "hippopotamus", "-", "like", "fox"]
    assert [i for word in told.tokens for i in word.ids] == tiny.tokenizer.tokenize(prompt)
    assert told.truncated is None
    assert told.unknown == ()
    assert set(told.peaks) == {word.word for word in told.words}
    assert told.neglected() == []
    text = str(told)
    assert "weight 1.3" in text
    assert "peak 1." in text
    long = debug(tiny, "cat " * 75 + "fox")
    assert "'fox'" in str(long.truncated)
    assert "     cut  fox" in str(long)


def test_a_prompt_with_weights_is_taken_apart_by_its_syntax(tiny: Pipeline) -> None:
    told = debug(tiny, "a (red:1.4) [fox:cat:0.5]", prompt_syntax="a1111")
    assert [word.word for word in told.words] == ["a", "red", "fox"]
    assert told.weights == {2: 1.4}
    assert "weight 1.4" in str(told)
    assert debug(tiny, "cat " * 100, prompt_syntax="comfyui").truncated is None
    assert [word.word for word in debug(tiny, "(red:1.4)").words] == ["(", "red", ":", "1", ".", "4", ")"]
