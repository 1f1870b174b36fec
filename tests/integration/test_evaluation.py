"""The classifier is trained and used by the commands that score; and the contact sheet."""

import json
from dataclasses import replace

import torch
from PIL import Image

from diffuscope.cli import main
from diffuscope.evaluate import report
from diffuscope.evaluate.contact_sheet import PROMPTS, SEED
from diffuscope.evaluate.eval_data import EvalData
from diffuscope.recipes import classifier as recipes


def test_the_classifier_is_trained_and_used(corpus_file, feature_net_file, quick_folder, tmp_path, capsys):
    files = [f"--corpus={corpus_file}", f"--teacher={feature_net_file}", f"--model={quick_folder}", "--device=cpu"]
    data = EvalData.load(corpus_file, torch.device("cpu"), size=32, processes=1)
    folder, out, preset = tmp_path / "classifier", tmp_path / "scores.json", tmp_path / "preset.json"
    recipe = replace(recipes.classifier(seconds=0.1, batch=8), channels=(8, 16))
    recipes.train_classifier(recipe, data, folder)
    classifier = f"--classifier={folder / 'classifier.safetensors'}"
    assert main(["eval", *files, classifier, "--count=4", f"--out={out}"]) == 0
    document = report.read(out)
    assert capsys.readouterr().out == report.table(document)
    measures = {entry["measure"] for entry in document["scores"]}
    assert {"held_out.classifier", "held_out.classifier_ratio", "seen.classifier"} <= measures
    assert len(document["networks"]["classifier"]) == 64
    small = ["--count=3", "--calls", "2", "--guidance-scale", "1.0", "--sampler", "ddim", "euler"]
    assert main(["eval", "preset", *files, classifier, *small, f"--out={preset}"]) == 0
    assert {row["sampler"] for row in json.loads(preset.read_text())} == {"ddim", "euler"}


def test_a_sheet_shows_an_image_for_each_prompt(quick, quick_folder, tmp_path):
    path = tmp_path / "sheet.png"
    assert main(["eval", "sheet", f"--model={quick_folder}", f"--out={path}", "--device=cpu"]) == 0
    sheet = Image.open(path)
    expected = quick(PROMPTS[1], seed=SEED + 1).images[0].resize((192, 192), Image.Resampling.LANCZOS)
    found = sheet.crop((224, 16, 416, 208))
    worst = max(abs(a - b) for a, b in zip(found.tobytes(), expected.tobytes(), strict=True))
    assert worst <= 2
