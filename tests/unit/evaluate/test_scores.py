import json

import pytest
import torch

from diffuscope.config import EMOJI, ScheduleConfig
from diffuscope.diffusion.schedules import Schedule
from diffuscope.evaluate import report
from diffuscope.evaluate.generation import Sampling, generate
from diffuscope.evaluate.preset_search import as_json, as_table, score_settings, settings_grid
from diffuscope.evaluate.scores import REAL, THROUGH_VAE, evaluate, reconstruct, sources
from refusals import refused


@pytest.fixture(scope="module")
def document(quick, data, feature_net):
    from diffuscope.evaluate.scorer import Scorer, galleries

    return evaluate(
        quick, Scorer(data, feature_net, *galleries(data, feature_net), encode_texts=lambda texts: texts), 8
    )


def test_the_document_holds_every_measure_and_how_it_came_about(document, data, quick):
    again = json.loads(json.dumps(document))
    assert again == document
    assert again["split"] == data.split.hash
    assert again["model"]["weights"] == quick.weights
    measures = {entry["measure"] for entry in again["scores"]}
    of_other_networks = {m for m in report.TITLES if "clip" in m or "classifier" in m}
    numbers = {m for m in report.TITLES if m.startswith("counts.right_")}
    assert measures - numbers == set(report.TITLES) - of_other_networks - numbers
    assert measures & numbers
    for entry in again["scores"]:
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert entry["pictures"] >= entry["prompts"] >= 1


def test_every_prompt_set_is_scored_at_the_preset_and_at_guidance_5(document):
    for name, chosen in document["prompt_sets"].items():
        for source in ("guidance 7.5", "guidance 5"):
            own = [e for e in document["scores"] if e["measure"].startswith(f"{name}.") and e["source"] == source]
            entries = [e for e in own if not e["measure"].startswith("counts.right_")]
            assert entries
            assert all(
                entry["pictures"] == len(chosen["prompts"]) * chosen["images_per_prompt"] >= 8 for entry in entries
            )


def test_real_images_are_correct_for_colour_prompts(document):
    for measure in ("colours.thing", "backgrounds.background", "both.both"):
        assert next(e["value"] for e in document["scores"] if (e["measure"], e["source"]) == (measure, REAL)) == 1.0


def test_a_score_does_not_depend_on_the_batch(tiny):
    sampling = Sampling.of(tiny.config.preset)
    prompts = ["a cat", "a frog", "a car"]
    one, other = (generate(tiny, prompts, range(3), sampling, batch=batch) for batch in (1, 3))
    assert one.shape == (3, 3, 32, 32)
    assert (one.int() - other.int()).abs().max() <= 1


def test_pictures_are_those_of_the_public_call(tiny):
    ours = generate(tiny, ["a cat", "a frog"], [5, 9], Sampling.of(tiny.config.preset))
    theirs = tiny(["a cat", "a frog"], seed=[5, 9], upscale=1).images
    assert ours[1].permute(1, 2, 0).numpy().tobytes() == theirs[1].tobytes()


def test_only_pictures_with_names_go_through_the_autoencoder(tiny):
    assert [source for source, _ in sources(tiny, "seen")] == [REAL, THROUGH_VAE, "guidance 7.5", "guidance 5"]
    assert THROUGH_VAE not in dict(sources(tiny, "both"))


def test_through_the_autoencoder_is_what_it_gives_back(tiny, data):
    pictures = data.images([0, 1, 2])
    expected = (tiny.vae(pictures.float() / 127.5 - 1).clamp(-1, 1) + 1) * 127.5
    assert (reconstruct(tiny.vae, pictures, batch=2).float() - expected).abs().max() <= 0.51


def test_the_table_has_a_row_a_measure_and_a_column_a_source(document):
    lines = report.table(document).splitlines()
    assert lines[0] == "| | through the VAE | real | guidance 7.5 | guidance 5 |"
    assert any(line.startswith("| colour on colour, both right |") for line in lines)
    assert document["split"] in lines[-1]


def test_places_for_numbers_are_filled_and_filled_again(document):
    text = "It scores <!-- score seen.r1 | preset -->?<!-- /score -->.\n<!-- scores -->\n<!-- /scores -->\n"
    filled = report.fill(text, document)
    entry = next(e for e in document["scores"] if (e["measure"], e["source"]) == ("seen.r1", "guidance 7.5"))
    assert report.score_text(entry) in filled
    assert report.table(document) in filled
    assert report.fill(filled, document) == filled
    with refused("text") as caught:
        report.fill(text.replace("r1", "r9"), document)
    assert "seen.r9" in str(caught.value)


@pytest.mark.parametrize(
    ("measure", "value", "low", "high", "shown"),
    [
        ("seen.r1", 0.7126, 0.684, 0.7391, ".713 (.684 to .739)"),
        ("vae.psnr", 31.24, 30.9, 31.5, "31.2 (30.9 to 31.5)"),
        ("vae.largest_activation", 11.04, 11.04, 11.04, "11.0"),
        ("seen.r1", 1.0, 0.72, 1.0, "1.000 (.720 to 1.000)"),
    ],
)
def test_scores_as_text(measure, value, low, high, shown):
    assert report.score_text({"measure": measure, "value": value, "low": low, "high": high}) == shown


def test_scores_are_read_back_or_refused(document, tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(document))
    assert report.read(path) == document
    for text in ("{", "[]", "{}"):
        path.write_text(text)
        with refused("path"):
            report.read(path)


def test_the_grid_compares_samplers_at_equal_calls():
    assert list(settings_grid(Schedule(ScheduleConfig()), (8, 9), (3.0,), ("ddim", "heun"))) == [
        ("ddim", 8, 8, 3.0),
        ("ddim", 9, 9, 3.0),
        ("heun", 4, 7, 3.0),
        ("heun", 5, 9, 3.0),
    ]
    from_noise = list(settings_grid(Schedule(EMOJI.schedule), (8, 9), (3.0,), ("heun",)))
    assert from_noise == [("heun", 5, 8, 3.0), ("heun", 5, 8, 3.0)]


def test_settings_are_measured_and_put_in_order(tiny, scorer):
    settings = list(settings_grid(tiny.schedule, (2, 3), (1.0, 4.0), ("ddim", "heun")))
    choices = score_settings(tiny, scorer, settings, images=6)
    assert len(choices) == len(settings)
    assert [choice.r1 for choice in choices] == sorted((choice.r1 for choice in choices), reverse=True)
    assert all(choice.frechet >= 0 for choice in choices)
    assert {row["sampler"] for row in as_json(choices)} == {"ddim", "heun"}
    assert len(as_table(choices).splitlines()) == 2 + len(settings)


def test_generation_leaves_the_global_generator_alone(tiny):
    state = torch.random.get_rng_state()
    generate(tiny, ["a cat"], [1], Sampling.of(tiny.config.preset))
    assert torch.equal(torch.random.get_rng_state(), state)
