"""A model on pixels from nothing to its exam, as the commands run it, but for the number of pictures and steps."""

import json
from dataclasses import replace

import pytest
import torch

from diffuscope.data.digits import load_digits, split
from diffuscope.recipes.digits import EXAM, digits, examine, fashion, load, of_length, train_pixels
from diffuscope.training.pixels import PixelTraining
from refusals import refused

CPU = torch.device("cpu")


@pytest.mark.slow
def test_a_run_goes_on_as_it_began_and_is_examined(tmp_path):
    learned, held_out = split(load_digits(), 1000)
    learned, held_out = learned[torch.arange(0, 4000, 20)], held_out[torch.arange(0, 1000, 10)]
    whole = train_pixels(of_length(digits(), steps=4), learned, held_out, tmp_path / "whole", CPU)
    with refused("loop.steps", 5):
        train_pixels(of_length(digits(), steps=5), learned, held_out, tmp_path / "whole", CPU)
    again = train_pixels(of_length(digits(), steps=4), learned, held_out, tmp_path / "whole", CPU)
    assert all(map(torch.equal, again.unet.parameters(), whole.unet.parameters()))
    exam = examine(whole, learned, held_out, tmp_path / "whole", 20)
    document = json.loads((tmp_path / "whole" / EXAM).read_text())
    assert document["as_asked"]["pictures"] == 20
    assert document["real"]["value"] == exam.real.value > 0.6
    assert exam.distance > 10 * abs(exam.distance_real)  # four steps make no digits
    assert (tmp_path / "whole" / "sheet.png").exists()
    again = load(tmp_path / "whole")
    torch.testing.assert_close(again.sample([1], seed=2), whole.sample([1], seed=2))


@pytest.mark.slow
def test_the_recipe_for_a_gpu_trains_on_a_cpu_too(tmp_path):
    images = load_digits()[torch.arange(0, 5000, 500)]
    recipe = replace(of_length(fashion(), steps=1), training=PixelTraining(batch_size=2, rotation=0.0))
    model = train_pixels(recipe, images, images, tmp_path, CPU)
    assert model.config.classes[9] == "ankle boot"
    assert model.sample([9], num_inference_steps=2).shape == (1, 1, 28, 28)


def test_a_length_is_one_of_two():
    assert of_length(digits()).loop.seconds == 180
    assert of_length(digits(), steps=7).loop.steps == 7
    with refused("steps"):
        of_length(digits(), steps=7, seconds=3.0)
