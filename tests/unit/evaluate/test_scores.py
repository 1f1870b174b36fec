import json

import pytest
import torch

from diffuscope.config import EMOJI, ScheduleConfig
from diffuscope.diffusion.schedules import Schedule
from diffuscope.errors import InputError
from diffuscope.evaluate import report
from diffuscope.evaluate.choose import as_json, as_table, choose, grid
from diffuscope.evaluate.painting import Sampling, paint
from diffuscope.evaluate.scores import REAL, THROUGH_VAE, evaluate, sources, through


@pytest.fixture(scope="module")
def document(quick, material, feature_net):
    from diffuscope.evaluate.judges import Judges, galleries

    return evaluate(
        quick, Judges(material, feature_net, *galleries(material, feature_net), encode=lambda texts: texts), 8
    )


def test_the_document_holds_every_measure_and_how_it_came_about(document, material, quick):
    again = json.loads(json.dumps(document))
    assert again == document
    assert again["split"] == material.split.hash
    assert again["model"]["weights"] == quick.weights
    measures = {entry["measure"] for entry in again["scores"]}
    judged_elsewhere = {m for m in report.TITLES if "towers" in m or "classifier" in m}
    assert measures == set(report.TITLES) - judged_elsewhere
    for entry in again["scores"]:
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert entry["pictures"] >= entry["prompts"] >= 1


def test_every_exam_is_asked_of_the_model_at_its_preset_and_at_guidance_5(document):
    for name, exam in document["exams"].items():
        for source in ("guidance 7.5", "guidance 5"):
            entries = [e for e in document["scores"] if e["measure"].startswith(f"{name}.") and e["source"] == source]
            assert entries
            assert all(entry["pictures"] == len(exam["prompts"]) * exam["each"] >= 8 for entry in entries)


def test_real_answers_to_questions_of_colour_are_right(document):
    for measure in ("colours.thing", "backgrounds.background", "both.both"):
        assert next(e["value"] for e in document["scores"] if (e["measure"], e["source"]) == (measure, REAL)) == 1.0


def test_a_score_does_not_depend_on_the_batch(tiny):
    sampling = Sampling.of(tiny.config.preset)
    prompts = ["a cat", "a frog", "a car"]
    one, other = (paint(tiny, prompts, range(3), sampling, batch=batch) for batch in (1, 3))
    assert one.shape == (3, 3, 32, 32)
    assert (one.int() - other.int()).abs().max() <= 1


def test_pictures_are_those_of_the_public_call(tiny):
    ours = paint(tiny, ["a cat", "a frog"], [5, 9], Sampling.of(tiny.config.preset))
    theirs = tiny(["a cat", "a frog"], seed=[5, 9], upscale=1).images
    assert ours[1].permute(1, 2, 0).numpy().tobytes() == theirs[1].tobytes()


def test_only_pictures_with_names_go_through_the_autoencoder(tiny):
    assert [source for source, _ in sources(tiny, "seen")] == [REAL, THROUGH_VAE, "guidance 7.5", "guidance 5"]
    assert THROUGH_VAE not in dict(sources(tiny, "both"))


def test_through_the_autoencoder_is_what_it_gives_back(tiny, material):
    pictures = material.drawn([0, 1, 2])
    expected = (tiny.vae(pictures.float() / 127.5 - 1).clamp(-1, 1) + 1) * 127.5
    assert (through(tiny.vae, pictures, chunk=2).float() - expected).abs().max() <= 0.51


def test_the_table_has_a_row_a_measure_and_a_column_a_source(document):
    lines = report.table(document).splitlines()
    assert lines[0] == "| | through the VAE | real | guidance 7.5 | guidance 5 |"
    assert any(line.startswith("| colour on colour, both right |") for line in lines)
    assert document["split"] in lines[-1]


def test_places_for_numbers_are_filled_and_filled_again(document):
    text = "It scores <!-- score seen.r1 | preset -->?<!-- /score -->.\n<!-- scores -->\n<!-- /scores -->\n"
    filled = report.fill(text, document)
    entry = next(e for e in document["scores"] if (e["measure"], e["source"]) == ("seen.r1", "guidance 7.5"))
    assert report.number(entry) in filled
    assert report.table(document) in filled
    assert report.fill(filled, document) == filled
    with pytest.raises(InputError, match=r"no score 'seen\.r9'"):
        report.fill(text.replace("r1", "r9"), document)


@pytest.mark.parametrize(
    ("measure", "value", "low", "high", "shown"),
    [
        ("seen.r1", 0.7126, 0.684, 0.7391, ".713 (.684 to .739)"),
        ("vae.psnr", 31.24, 30.9, 31.5, "31.2 (30.9 to 31.5)"),
        ("vae.largest_activation", 11.04, 11.04, 11.04, "11.0"),
        ("seen.r1", 1.0, 0.72, 1.0, "1.000 (.720 to 1.000)"),
    ],
)
def test_numbers_as_people_read_them(measure, value, low, high, shown):
    assert report.number({"measure": measure, "value": value, "low": low, "high": high}) == shown


def test_scores_are_read_back_or_refused(document, tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(document))
    assert report.read(path) == document
    for text in ("{", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(InputError, match="holds no scores"):
            report.read(path)


def test_the_grid_compares_samplers_at_equal_calls():
    assert list(grid(Schedule(ScheduleConfig()), (8, 9), (3.0,), ("ddim", "heun"))) == [
        ("ddim", 8, 8, 3.0),
        ("ddim", 9, 9, 3.0),
        ("heun", 4, 7, 3.0),
        ("heun", 5, 9, 3.0),
    ]
    from_noise = list(grid(Schedule(EMOJI.schedule), (8, 9), (3.0,), ("heun",)))
    assert from_noise == [("heun", 5, 8, 3.0), ("heun", 5, 8, 3.0)]


def test_settings_are_measured_and_put_in_order(tiny, judges):
    settings = list(grid(tiny.schedule, (2, 3), (1.0, 4.0), ("ddim", "heun")))
    choices = choose(tiny, judges, settings, pictures=6)
    assert len(choices) == len(settings)
    assert [choice.r1 for choice in choices] == sorted((choice.r1 for choice in choices), reverse=True)
    assert all(choice.frechet >= 0 for choice in choices)
    assert {row["sampler"] for row in as_json(choices)} == {"ddim", "heun"}
    assert len(as_table(choices).splitlines()) == 2 + len(settings)


def test_paint_leaves_the_global_generator_alone(tiny):
    state = torch.random.get_rng_state()
    paint(tiny, ["a cat"], [1], Sampling.of(tiny.config.preset))
    assert torch.equal(torch.random.get_rng_state(), state)
