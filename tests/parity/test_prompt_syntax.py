"""Weighted and long prompts against transformers' text encoders, with windows and weights written down by hand.

The rules are those of AUTOMATIC1111's web UI 1.10 and of ComfyUI, as their documentation and behaviour state them.
"""

from pathlib import Path

import diffusers
import pytest
import torch

from diffuscope.pipeline import Pipeline
from narrow import made

TOLERANCE = 2e-5
"""Text states in float32, largest absolute difference."""

START, END = 49406, 49407

Windows = list[list[tuple[str, float]]]

PROMPTS: list[tuple[str, Windows, Windows]] = [
    (
        "a (red:1.4) fox, [ugly] ((cute))",
        [[("a", 1), ("red", 1.4), ("fox,", 1), ("ugly", 1 / 1.1), ("cute", 1.1 * 1.1)]],
        [[("a", 1), ("red", 1.4), ("fox, [ugly]", 1), ("cute", 1.1 * 1.1)]],
    ),
    (
        "((a fox:1.3)) \\(smiling\\) BREAK a hen",
        [[("a fox", 1.3 * 1.1), ("(smiling)", 1)], [("a hen", 1)]],
        [[("a fox", 1.3), ("(smiling) BREAK a hen", 1)]],
    ),
    (
        "cat " * 70 + ", " + "(dog:0.5) " * 10,
        [[("cat " * 70 + ",", 1)], [("dog " * 10, 0.5)]],
        [[("cat " * 70 + ",", 1), ("dog " * 4, 0.5)], [("dog " * 6, 0.5)]],
    ),
]
"""A prompt, and the words of each window with their weights: the web UI's, ComfyUI's."""


@pytest.fixture(scope="module", params=["sd15", "sd21", "sdxl"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Path]:
    pipe = made(request.param)
    return pipe, pipe.save(tmp_path_factory.mktemp("saved") / request.param, layout="diffusers")


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
@pytest.mark.parametrize("syntax", ["a1111", "comfyui"])
def test_states_are_those_of_transformers(both: tuple[Pipeline, Path], syntax: str, prompt) -> None:
    pipe, saved = both
    text, web, comfy = prompt
    ours = pipe.encode_prompt(text, prompt_syntax=syntax)
    theirs, pooled = reference(saved, web if syntax == "a1111" else comfy, syntax)
    assert (ours.embeddings - theirs).abs().max().item() <= TOLERANCE
    if pipe.config.unet.extra_dim is not None:
        assert (ours.pooled - pooled).abs().max().item() <= TOLERANCE


@torch.no_grad()
def reference(saved: Path, windows: Windows, syntax: str) -> tuple[torch.Tensor, torch.Tensor]:
    """States and pooled text by transformers: each program's rule, one encoder and one window after the other."""
    kind = diffusers.DiffusionPipeline.from_pretrained(saved, local_files_only=True, safety_checker=None)
    towers = [(kind.tokenizer, kind.text_encoder)]
    if hasattr(kind, "tokenizer_2"):
        towers.append((kind.tokenizer_2, kind.text_encoder_2))
    states = []
    for tokenizer, encoder in towers:
        pad = tokenizer.pad_token_id
        each = []
        empty = encoded(kind, encoder, [START, END] + [pad] * 75)[0]
        for number, window in enumerate(windows):
            ids, weights = [START], [1.0]
            for words, weight in window:
                new = tokenizer(words, add_special_tokens=False)["input_ids"]
                ids, weights = ids + new, weights + [weight] * len(new)
            line, factors = [*ids, END], torch.tensor(weights + [1.0] * (77 - len(ids)))[:, None]
            z, pooled_here = encoded(kind, encoder, line + [pad] * (77 - len(line)))
            if number == 0:
                pooled = pooled_here
            if syntax == "a1111":
                each.append(z * factors * (z.mean() / (z * factors).mean()))
            else:
                each.append(empty + factors * (z - empty))
        states.append(torch.cat(each))
    return torch.cat(states, dim=-1)[None], pooled


def encoded(kind, encoder, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    output = encoder(torch.tensor([ids]), output_hidden_states=True)
    if hasattr(kind, "tokenizer_2"):
        return output.hidden_states[-2][0], output[0]
    return output[0][0], output[1]
