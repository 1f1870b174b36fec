"""Figures: each draws, is labelled, and shows the values it was given; the fitted colours are the least squares."""

import io

import pytest
import torch
from PIL import Image

from diffuscope.lens import figures
from diffuscope.lens.ablation import Effect
from diffuscope.lens.attention_maps import AttentionMaps
from diffuscope.lens.latent_preview import fit_latent_rgb, preview
from diffuscope.pipeline import Pipeline
from diffuscope.types import Step
from refusals import refused

PICTURE = Image.new("RGB", (16, 16), "white")


def drawn(figure) -> tuple[int, int]:
    """That it renders, and at which size."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=40)
        return Image.open(file).size


def labels(figure) -> list[str]:
    return [text for panel in figure.axes for text in (panel.get_title(), panel.get_xlabel(), panel.get_ylabel())]


def test_schedules_show_their_levels(tiny: Pipeline) -> None:
    runs = {name: tiny.schedule.levels(6, sigmas=name) for name in ("model", "karras")}
    figure = figures.schedule(runs)
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["model", "karras"]
    assert lines[1].get_ydata()[:6] == pytest.approx(runs["karras"].sigmas[:6])
    assert figure.axes[1].get_lines()[0].get_ydata() == pytest.approx(runs["model"].timesteps)
    assert "sampling step" in labels(figure)
    assert drawn(figure)[0] == 360
    drawn(figures.schedule(runs["model"]))
    with refused("levels", {}):
        figures.schedule({})


def test_a_notebook_shows_a_figure_as_it_stands(tiny: Pipeline) -> None:
    shown = figures.schedule(tiny.schedule.levels(3))._repr_png_()
    with Image.open(io.BytesIO(shown)) as picture:
        assert (picture.format, picture.width) == ("PNG", 900)


def test_a_trajectory_shows_first_and_last_step(tiny: Pipeline) -> None:
    steps = [Step(s.index, s.sigma, s.x.clone(), s.x0) for s in tiny.steps("a fox", seed=1)]
    figure = figures.trajectory(tiny, steps, columns=3)
    assert len(figure.axes) == 6
    assert figure.axes[0].get_title().startswith("step 1,")
    assert figure.axes[2].get_title().startswith(f"step {len(steps)},")
    assert (
        figure.axes[5].get_images()[0].get_array()
        == torch.tensor(list(tiny.decode(steps[-1].x0)[0].tobytes())).reshape(32, 32, 3).numpy()
    ).all()
    drawn(figure)
    drawn(figures.trajectory(tiny, steps, columns=1))
    with refused("steps", []):
        figures.trajectory(tiny, [])
    with refused("columns", 0):
        figures.trajectory(tiny, steps, columns=0)


def test_each_latent_channel_is_shown() -> None:
    latents = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    figure = figures.latent_channels(latents)
    shown = [panel.get_images()[0].get_array() for panel in figure.axes if panel.get_title().startswith("channel")]
    assert len(shown) == 4
    assert (shown[2] == latents[0, 2].numpy()).all()
    drawn(figure)
    with refused("latents"):
        figures.latent_channels(torch.zeros(2, 4, 6, 6))


def test_attention_has_a_panel_for_each_word(tiny: Pipeline) -> None:
    tokens = torch.rand(77, 4, 4, generator=torch.Generator().manual_seed(0))
    figure = figures.attention(AttentionMaps(tokens, "a very small red fox", tiny.tokenizer), PICTURE)
    titles = [panel.get_title().split(" (")[0] for panel in figure.axes]
    assert titles == ["the image", "a", "very", "small", "red", "fox"]
    drawn(figure)
    assert len(figures.attention(AttentionMaps(tokens, "a red fox", tiny.tokenizer), PICTURE, ["fox"]).axes) == 2


def test_guidance_is_taken_apart() -> None:
    uncond, cond = torch.randn(2, 1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    figure = figures.guidance_parts(uncond, cond, 7.5)
    assert (figure.axes[2].get_images()[0].get_array() == (cond - uncond)[0].norm(dim=0).numpy()).all()
    drawn(figure)
    figure = figures.difference_over_time([uncond, cond], [cond, cond], [10.0, 1.0])
    assert figure.axes[0].get_lines()[0].get_ydata()[1] == 0
    drawn(figure)
    with refused("uncond"):
        figures.difference_over_time([uncond], [cond], [10.0, 1.0])


def test_bars_are_ranked() -> None:
    effects = [Effect("small", 0.1, 0.01, 1.0), Effect("large", 2.0, 0.3, 1.0)]
    figure = figures.ablation_bars(effects)
    assert [bar.get_width() for bar in figure.axes[0].patches] == [2.0, 0.1]
    assert [bar.get_width() for bar in figure.axes[1].patches] == [0.3, 0.01]
    drawn(figure)
    with refused("effects", []):
        figures.ablation_bars([])


def test_an_edit_shows_where_and_how_far() -> None:
    after = PICTURE.copy()
    after.putpixel((3, 5), (0, 0, 0))
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1, 0] = 1
    figure = figures.edit(PICTURE, after, mask)
    assert [panel.get_title() for panel in figure.axes][:3] == ["before", "edited area, in yellow", "after"]
    assert (figure.axes[1].get_images()[0].get_array() == mask[0, 0].numpy()).all()
    change = figure.axes[3].get_images()[0].get_array()
    assert (change.sum(), change[5, 3]) == (1.0, 1.0)
    drawn(figure)
    assert len(figures.edit(PICTURE, after).axes) == 4  # three panels and the scale of colours
    with refused("after"):
        figures.edit(PICTURE, after.resize((8, 8)))


def test_image_rows_name_their_rows_and_columns() -> None:
    figure = figures.image_rows({"noisy": [PICTURE] * 4, "small": [PICTURE.resize((2, 2))] * 4}, [0, 1.5, "x", "end"])
    assert [panel.get_title() for panel in figure.axes] == ["0", "1.5", "x", "end", "", "", "", ""]
    assert [panel.get_ylabel() for panel in figure.axes] == ["noisy", "", "", "", "small", "", "", ""]
    assert figure.axes[4].get_images()[0].get_array().shape == (2, 2, 3)
    drawn(figure)
    drawn(figures.image_rows({"one": [PICTURE]}, ["alone"]))
    with refused("rows", "2 images in 'x'"):
        figures.image_rows({"x": [PICTURE] * 2}, ["a"])
    with refused("rows", {}):
        figures.image_rows({}, [])
    with refused("titles", []):
        figures.image_rows({"x": []}, [])


def test_a_grid_has_a_title_for_each_picture() -> None:
    figure = figures.image_grid([PICTURE] * 5, [1.0, 3, "x", 7.5, 9], columns=3)
    assert [panel.get_title() for panel in figure.axes] == ["1.0", "3", "x", "7.5", "9"]
    drawn(figure)
    with refused("images", []):
        figures.image_grid([], [])
    with refused("titles"):
        figures.image_grid([PICTURE], [])
    with refused("columns", 0):
        figures.image_grid([PICTURE], ["alone"], columns=0)


def test_fitted_colours_are_exact_where_colours_are_linear() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 5, 5, generator=generator)
    matrix, offset = torch.randn(3, 4, generator=generator) / 9, torch.tensor([0.1, -0.2, 0.0])
    small = torch.einsum("rc,bchw->brhw", matrix, latents) + offset[:, None, None]
    found = fit_latent_rgb(latents, small.repeat_interleave(8, -1).repeat_interleave(8, -2))
    torch.testing.assert_close(found.matrix, matrix, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.offset, offset, atol=1e-5, rtol=0)
    assert found.error < 1e-5
    assert [picture.size for picture in found(latents)] == [(5, 5), (5, 5)]
    assert preview(latents)[0].size == (5, 5)
    with refused("pixels"):
        fit_latent_rgb(latents, small[:1])
    with refused("latents"):
        fit_latent_rgb(latents[:1, :, :1, :1], small[:1])
    with refused("latents"):
        preview(latents[:, :2])


def test_guidance_scales_stand_against_the_steps() -> None:
    sigmas = [14.0, 5.0, 1.0, 0.0]
    figure = figures.guidance_scales({"falls": lambda sigma: sigma / 2, "always": lambda _: 3.0}, sigmas)
    first, second, none = figure.axes[0].get_lines()
    assert list(first.get_ydata()) == [7.0, 2.5, 0.5]
    assert list(second.get_ydata()) == [3.0] * 3
    assert list(none.get_ydata()) == [1, 1]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1\nσ 14", "2\nσ 5", "3\nσ 1"]
    drawn(figure)
    with refused("scales", {}):
        figures.guidance_scales({}, sigmas)
    with refused("sigmas", []):
        figures.guidance_scales({"a": lambda _: 1.0}, [0.0])


def test_losses_stand_at_their_steps() -> None:
    figure = figures.losses({"cheap": {1: 4.0, 3: 2.0}, "exact": {1: 3.0}})
    lines = figure.axes[0].get_lines()
    assert (list(lines[0].get_xdata()), list(lines[0].get_ydata())) == ([2, 4], [4.0, 2.0])
    assert [line.get_label() for line in lines] == ["cheap", "exact"]
    drawn(figure)
    for empty in ({}, {"cheap": {}}):
        with refused("values"):
            figures.losses(empty)
