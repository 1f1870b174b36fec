"""Figures of runs, images and experiments, drawn with matplotlib and returned, not shown or saved.

``figure.savefig("x.png")`` saves one. Line colours are Okabe & Ito's (2008) and maps cividis, readable to the
colour-blind; signed values are blue, white and orange.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffuscope.diffusion.guidance import Scale
from diffuscope.errors import InputError, Unquoted
from diffuscope.lens.ablation import Effect
from diffuscope.lens.attention_maps import AttentionMaps
from diffuscope.lens.latent_preview import preview
from diffuscope.lens.plotting import BLUE, GREY, ORANGE, WIDTH, Points, axes, check_some, grid, heat_map, lines, show
from diffuscope.pipeline import Pipeline
from diffuscope.types import Levels, Step

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def schedule(levels: Mapping[str, Levels] | Levels) -> Figure:
    """Noise level and training time step of each sampling step, one line for each named run."""
    runs = {"": levels} if isinstance(levels, Levels) else dict(levels)
    check_some("levels", runs)
    figure, (left, right) = axes(1, 2, 3.4)
    sigmas: dict[str, Points] = {}
    times: dict[str, Points] = {}
    for name, run in runs.items():
        sigmas[name] = range(len(run.sigmas)), [sigma if sigma > 0 else float("nan") for sigma in run.sigmas]
        times[name] = range(len(run.timesteps)), run.timesteps
    lines(left, sigmas)
    lines(right, times)
    left.set_yscale("log")
    left.set(title="Noise schedule", xlabel="sampling step", ylabel="noise level σ (without 0)")
    right.set(title="Time input of the U-Net", xlabel="sampling step", ylabel="training time step")
    return figure


def trajectory(pipe: Pipeline, steps: Sequence[Step], *, columns: int = 6, image: int = 0) -> Figure:
    """Noisy latents x above, denoised x0 below, decoded, at some steps from the first to the last.

    Args:
        pipe: decodes.
        steps: of a run: ``snapshots(pipe.steps(...))``.
        columns: how many steps to draw, at least 1.
        image: number in the batch.

    Raises:
        InputError: no steps, or no columns.
    """
    check_some("steps", steps)
    if columns < 1:
        raise InputError("columns", columns, "at least 1")
    count = min(columns, len(steps))
    drawn = [steps[round(i * (len(steps) - 1) / max(count - 1, 1))] for i in range(count)] if count > 1 else steps[-1:]
    rows: dict[str, list[Image.Image]] = {"noisy, x": [], "denoised, x0": []}
    for step in drawn:
        for row, latents in zip(rows.values(), (step.x, step.x0), strict=True):
            row += pipe.decode(latents[image : image + 1])
    return image_rows(rows, [f"step {step.index + 1}, σ {step.sigma:.2f}" for step in drawn])


def latent_channels(latents: Tensor) -> Figure:
    """Each channel of one image's latents [1,C,h,w] or [C,h,w] in grey, with a colour bar of its own."""
    values = latents[0] if latents.ndim == 4 and len(latents) == 1 else latents
    if values.ndim != 3:
        raise InputError("latents", latents, "those of one image, [1,C,h,w] or [C,h,w]")
    figure, panels = axes(1, len(values), 2.6)
    for channel, (panel, value) in enumerate(zip(panels, values.float().cpu(), strict=True)):
        heat_map(panel, value.numpy(), cmap=GREY, ticks=True)
        panel.set(title=f"channel {channel}", xlabel="latent column")
    panels[0].set_ylabel("latent row")
    return figure


def attention(maps: AttentionMaps, image: Image.Image, words: Sequence[str] | None = None) -> Figure:
    """The image, then the attention map of each word over it, with its peak.

    Args:
        maps: of the image.
        image: RGB.
        words: of the prompt; None is all.

    Raises:
        InputError: a word that is not in the prompt.
    """
    peaks = maps.peaks()
    overlays = {word: maps.overlay(word, image) for word in (peaks if words is None else words)}
    figure, panels = grid(len(overlays) + 1, 5)
    show(panels[0], image, "the image")
    for panel, (word, overlay) in zip(panels[1:], overlays.items(), strict=True):
        show(panel, overlay, f"{word} ({peaks[word]:.2f})" if word in peaks else word)
    figure.suptitle("Cross-attention of each word (peak relative to the mean over all words)", fontsize=9)
    return figure


def guidance_parts(uncond: Tensor, cond: Tensor, scale: float, *, image: int = 0) -> Figure:
    """Unconditional and conditional prediction, the size of their difference, and the guided prediction.

    Args:
        uncond: [B,C,h,w] prediction without the prompt: noise, v or x0. Three channels are drawn as RGB.
        cond: [B,C,h,w] the same with the prompt.
        scale: of the guidance.
        image: number in the batch.
    """
    first, second = uncond[image].float().cpu(), cond[image].float().cpu()
    guided = torch.lerp(first, second, scale)
    low, high = float(guided.min()), float(guided.max())
    figure, panels = axes(1, 4, 2.8)
    for panel, value, title in (
        (panels[0], first, "unconditional"),
        (panels[1], second, "conditional"),
        (panels[3], guided, f"guided, scale {scale:g}"),
    ):
        show(panel, preview(value[None], low, high)[0], title)
    heat_map(panels[2], (second - first).norm(dim=0).numpy())
    panels[2].set_title("norm of the difference", fontsize=8)
    return figure


def difference_over_time(uncond: Sequence[Tensor], cond: Sequence[Tensor], sigmas: Sequence[float]) -> Figure:
    """How much the prompt changes the prediction at each noise level: ``||cond - uncond|| / ||uncond||``."""
    check_some("sigmas", sigmas)
    for name, predictions in (("uncond", uncond), ("cond", cond)):
        if len(predictions) != len(sigmas):
            got = Unquoted(f"{len(predictions)} predictions")
            raise InputError(name, got, f"one for each of {len(sigmas)} noise levels")
    shares = [float((c - u).norm() / u.norm().clamp_min(1e-12)) for u, c in zip(uncond, cond, strict=True)]
    figure, (panel,) = axes(1, 1, 3.2)
    lines(panel, {"": (sigmas, shares)})
    panel.set_xscale("log")
    panel.invert_xaxis()
    panel.set(title="Effect of the prompt", xlabel="noise level σ, falling", ylabel="‖cond − uncond‖ / ‖uncond‖")
    return figure


def guidance_scales(scales: Mapping[str, Scale], sigmas: Sequence[float]) -> Figure:
    """The guidance scale at each step of a run, one line for each schedule; the dotted line, 1, is no guidance.

    Args:
        scales: name -> scale by noise level.
        sigmas: the run's noise levels; a last 0 is left out.
    """
    levels = [sigma for sigma in sigmas if sigma > 0]
    check_some("scales", scales)
    check_some("sigmas", levels)
    figure, (panel,) = axes(1, 1, 3.2)
    lines(panel, {name: (range(len(levels)), [scale(sigma) for sigma in levels]) for name, scale in scales.items()})
    panel.axhline(1, color="black", linestyle=":", linewidth=1)
    panel.set_xticks(range(len(levels)), [f"{number}\nσ {sigma:.3g}" for number, sigma in enumerate(levels, 1)])
    panel.set(title="Guidance schedule", xlabel="step and its noise level", ylabel="guidance scale")
    return figure


def losses(values: Mapping[str, Mapping[int, float]]) -> Figure:
    """A guidance loss at each step, one line for each run.

    Args:
        values: name -> step index from 0 -> loss.
    """
    check_some("values", values)
    for run in values.values():
        check_some("values", run)
    figure, (panel,) = axes(1, 1, 3.2)
    lines(panel, {name: ([index + 1 for index in run], list(run.values())) for name, run in values.items()})
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.set(title="Loss of the denoised image", xlabel="step", ylabel="loss", ylim=(0, None))
    return figure


def ablation_bars(effects: Sequence[Effect], *, limit: int = 20) -> Figure:
    """The ``limit`` largest effects, on latents and on pixels."""
    check_some("effects", effects)
    largest = sorted(effects, key=lambda effect: effect.latents, reverse=True)[:limit]
    figure, (left, right) = axes(1, 2, 0.9 + 0.26 * len(largest), sharey=True)
    names = [effect.name for effect in largest]
    left.barh(names, [effect.latents for effect in largest], color=BLUE)
    right.barh(names, [effect.pixels for effect in largest], color=ORANGE, hatch="//", edgecolor="white")
    left.invert_yaxis()
    left.tick_params(axis="y", labelsize=7)
    left.set(title="Effect on the latents", xlabel="RMS difference / standard deviation")
    right.set(title="Effect on the image", xlabel="RMS difference, pixels in [0,1]")
    for panel in (left, right):
        panel.grid(alpha=0.3, axis="x")
    return figure


def edit(before: Image.Image, after: Image.Image, mask: Tensor | None = None) -> Figure:
    """An image before and after an edit, the mask, and the change of each pixel.

    Args:
        before: the image.
        after: of the same size.
        mask: [1,1,h,w], 1 in the edited area; None leaves its panel out.

    Raises:
        InputError: the sizes differ.
    """
    if before.size != after.size:
        raise InputError("after", Unquoted(f"{after.size} pixels"), f"the size before, {before.size}")
    figure, panels = axes(1, 3 if mask is None else 4, 3.1 if mask is None else 2.5)
    show(panels[0], before, "before")
    show(panels[-2], after, "after")
    if mask is not None:
        heat_map(panels[1], mask[0, 0].cpu().numpy(), bar=False, ticks=True, vmin=0, vmax=1)
        panels[1].set(xlabel="latent column", ylabel="latent row")
        panels[1].set_title("edited area, in yellow", fontsize=8)
    first, second = (torch.from_numpy(np.asarray(image.convert("RGB")) / 255.0) for image in (before, after))
    heat_map(panels[-1], (second - first).square().mean(-1).sqrt().numpy(), vmin=0)
    panels[-1].set_title("change, pixels in [0,1]", fontsize=8)
    return figure


def image_grid(images: Sequence[Image.Image], titles: Sequence[object], *, columns: int = 4) -> Figure:
    """Images with titles, in rows of ``columns``: a sweep of scales, layers, words or seeds."""
    check_some("images", images)
    if len(images) != len(titles):
        raise InputError("titles", Unquoted(f"{len(titles)} titles"), f"one for each of {len(images)} images")
    if columns < 1:
        raise InputError("columns", columns, "at least 1")
    figure, panels = grid(len(images), columns)
    for panel, image, title in zip(panels, images, titles, strict=True):
        show(panel, image, str(title))
    return figure


def image_rows(rows: Mapping[str, Sequence[Image.Image]], titles: Sequence[object]) -> Figure:
    """Named rows of images, one below the other: several views of the same steps of a run.

    Args:
        rows: name -> its images, of any sizes.
        titles: of the columns.

    Raises:
        InputError: nothing to draw, or a row with another number of images than there are titles.
    """
    check_some("rows", rows)
    check_some("titles", titles)
    for name, images in rows.items():
        if len(images) != len(titles):
            raise InputError(
                "rows", Unquoted(f"{len(images)} images in {name!r}"), f"one for each of {len(titles)} titles"
            )
    columns = len(titles)
    figure, panels = axes(len(rows), columns, len(rows) * WIDTH / max(columns, 3) + 0.4)
    for number, (name, images) in enumerate(rows.items()):
        row = panels[number * columns : (number + 1) * columns]
        for panel, image, title in zip(row, images, titles, strict=True):
            show(panel, image, "" if number else str(title))
        row[0].set_ylabel(name, fontsize=9)
    return figure
