"""LoRA tags: taken out of the text, read exactly, refused where they cannot be meant."""

import pytest

from diffuscope.prompt.lora_tags import parse_lora_tags
from refusals import refused


@pytest.mark.parametrize(
    ("prompt", "text", "loras"),
    [
        ("a red fox", "a red fox", {}),
        ("  a  red\nfox ", "  a  red\nfox ", {}),
        ("a red fox <lora:ink:0.8>", "a red fox", {"ink": 0.8}),
        ("<lora:ink:0.8> a red <LoRA:old photo>fox", "a red fox", {"ink": 0.8, "old photo": 1.0}),
        ("a fox<lora: ink : -1e-1 >, sitting", "a fox , sitting", {"ink": -0.1}),
        ("<lora:ink:1>", "", {"ink": 1.0}),
        ("a <lora:ink fox", "a <lora:ink fox", {}),
        ("a <hypernet:ink:1> fox", "a <hypernet:ink:1> fox", {}),
    ],
)
def test_tags_are_taken_out(prompt: str, text: str, loras: dict[str, float]) -> None:
    found = parse_lora_tags(prompt)
    assert (found.text, found.loras) == (text, loras)


@pytest.mark.parametrize(
    ("prompt", "tag"),
    [
        ("<lora:ink:strong>", "<lora:ink:strong>"),
        ("<lora:ink:0.5:0.7>", "<lora:ink:0.5:0.7>"),
        ("a fox <lora::0.8>", "<lora::0.8>"),
        ("<lora:>", "<lora:>"),
        ("<lora:ink:0.8> and <lora:ink:0.2>", "<lora:ink:0.2>"),
    ],
)
def test_impossible_tags_are_refused(prompt: str, tag: str) -> None:
    with refused("prompt", tag):
        parse_lora_tags(prompt)
