"""The figures: one function each, drawn with matplotlib (extra ``plot``), returned and neither shown nor stored.

``figure.savefig("x.png")`` stores one. Colours are Okabe & Ito's (2008) and maps cividis, both readable to the
colour-blind; signed values go from blue over white to orange. Widths are a notebook's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffuscope.diffusion.guidance_variants import Scale
from diffuscope.errors import InputError
from diffuscope.lens.ablation import Effect
from diffuscope.lens.attention_maps import AttentionMaps
from diffuscope.lens.latent_preview import preview
from diffuscope.lens.plotting import BLUE, GREEN, GREY, MAP, ORANGE, PURPLE, WIDTH, axes, show
from diffuscope.pipeline import Pipeline
from diffuscope.types import Levels, Step

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def schedule(levels: Mapping[str, Levels] | Levels) -> Figure:
    """Noise level and network time against the sampling step; of several runs by name, one line each.

    Raises:
        InputError: nothing to draw, or matplotlib is not there.
    """
    runs = {"": levels} if isinstance(levels, Levels) else dict(levels)
    figure, (left, right) = axes(1, 2, 3.4, some=bool(runs))
    for number, (name, each) in enumerate(runs.items()):
        style = {
            "color": (BLUE, ORANGE, GREEN, PURPLE)[number % 4],
            "marker": "osD^v<"[number % 6],
            "markersize": 3,
            "label": name or None,
        }
        left.plot([sigma if sigma > 0 else float("nan") for sigma in each.sigmas], **style)
        right.plot(each.times, **style)
    left.set_yscale("log")
    left.set(title="Noise schedule", xlabel="sampling step", ylabel="noise level σ (0 left out)")
    right.set(title="Network time", xlabel="sampling step", ylabel="training time step")
    for panel in (left, right):
        panel.grid(alpha=0.3)
        if any(runs):
            panel.legend(fontsize=8)
    return figure


def trajectory(pipe: Pipeline, steps: Sequence[Step], *, columns: int = 6, image: int = 0) -> Figure:
    """Noisy latents x_t above, the clean estimate x0 below, decoded, at ``columns`` steps from the first to the last.

    Args:
        pipe: decodes.
        steps: kept of a run, such as ``list(pipe.steps(...))``.
        columns: how many of them to draw.
        image: which row.

    Raises:
        InputError: no steps, or fewer than one column.
    """
    chosen = _spread(steps, columns)
    figure, panels = axes(2, len(chosen), 2 * WIDTH / max(len(chosen), 3) + 0.5, some=bool(chosen))
    for panel, step in zip(panels[: len(chosen)], chosen, strict=True):
        show(panel, pipe.decode(step.x[image : image + 1])[0], f"step {step.index + 1}, σ {step.sigma:.2f}")
    for panel, step in zip(panels[len(chosen) :], chosen, strict=True):
        show(panel, pipe.decode(step.x0[image : image + 1])[0], "")
    panels[0].set_ylabel("noisy, x")
    panels[len(chosen)].set_ylabel("estimate, x0")
    return figure


def latent_channels(latents: Tensor) -> Figure:
    """Each channel of one picture's latents [1,C,h,w] or [C,h,w], in grey, with its own scale beside it.

    Raises:
        InputError: latents of several pictures.
    """
    values = latents[0] if latents.ndim == 4 and len(latents) == 1 else latents
    if values.ndim != 3:
        raise InputError(f"latents have shape {list(latents.shape)}; give those of one picture, [C,h,w]")
    figure, panels = axes(1, len(values), 2.6)
    for channel, (panel, value) in enumerate(zip(panels, values.float().cpu(), strict=True)):
        shown = panel.imshow(value.numpy(), cmap=GREY)
        panel.set(title=f"channel {channel}", xlabel="latent column")
        figure.colorbar(shown, ax=panel, shrink=0.75)
    panels[0].set_ylabel("latent row")
    return figure


def attention(maps: AttentionMaps, picture: Image.Image, words: Sequence[str] | None = None) -> Figure:
    """The picture, then each word's map over it, brightest where the word was looked at, with how far it landed.

    Raises:
        InputError: a word that is not in the prompt.
    """
    landed = maps.peaks()
    chosen = list(landed) if words is None else list(words)
    overlays = {word: maps.overlay(word, picture) for word in chosen}
    columns = min(len(chosen) + 1, 5)
    rows = -(-(len(chosen) + 1) // columns)
    figure, panels = axes(rows, columns, rows * WIDTH / columns + 0.4)
    show(panels[0], picture, "the picture")
    for panel, (word, overlay) in zip(panels[1:], overlays.items(), strict=False):
        show(panel, overlay, f"{word} ({landed[word]:.2f})" if word in landed else word)
    for panel in panels[len(chosen) + 1 :]:
        panel.remove()
    figure.suptitle("Cross-attention of each word; in brackets how far it landed, 1 is an average word", fontsize=9)
    return figure


def guidance_parts(uncond: Tensor, cond: Tensor, scale: float, *, image: int = 0) -> Figure:
    """Predictions without and with the text, their difference, and the guided one, as pictures.

    The quick colours of latents serve the first three channels of any prediction too. The difference is shown by its
    size per place.

    Args:
        uncond: [B,C,h,w] prediction without the text: noise, v or x0.
        cond: [B,C,h,w] the same with it.
        scale: of the guidance.
        image: which row.
    """
    first, second = uncond[image].float().cpu(), cond[image].float().cpu()
    guided = torch.lerp(first, second, scale)
    low, high = float(guided.min()), float(guided.max())
    figure, panels = axes(1, 4, 2.8)
    for panel, value, title in (
        (panels[0], first, "without text"),
        (panels[1], second, "with text"),
        (panels[3], guided, f"guided, scale {scale:g}"),
    ):
        show(panel, preview(value[None], low, high)[0], title)
    shown = panels[2].imshow((second - first).norm(dim=0).numpy(), cmap=MAP)
    panels[2].set(title="length of the difference", xticks=[], yticks=[])
    figure.colorbar(shown, ax=panels[2], shrink=0.75)
    return figure


def difference_over_time(uncond: Sequence[Tensor], cond: Sequence[Tensor], sigmas: Sequence[float]) -> Figure:
    """How much the text changes the prediction at each noise level: ``||cond - uncond|| / ||uncond||``.

    Raises:
        InputError: not one prediction of each kind for each level.
    """
    if not len(uncond) == len(cond) == len(sigmas):
        raise InputError(f"{len(uncond)} and {len(cond)} predictions for {len(sigmas)} levels; give one of each")
    shares = [float((c - u).norm() / u.norm().clamp_min(1e-12)) for u, c in zip(uncond, cond, strict=True)]
    figure, (panel,) = axes(1, 1, 3.2, some=bool(shares))
    panel.plot(sigmas, shares, color=BLUE, marker="o", markersize=4)
    panel.set_xscale("log")
    panel.invert_xaxis()
    panel.set(title="What the text adds", xlabel="noise level σ, falling", ylabel="‖with − without‖ / ‖without‖")
    panel.grid(alpha=0.3)
    return figure


def guidance_scales(scales: Mapping[str, Scale], sigmas: Sequence[float]) -> Figure:
    """The scale of guidance at each step of a run, one line for each schedule; 1, which is none, is dotted.

    Args:
        scales: name -> scale by noise level.
        sigmas: the run's noise levels; an ending 0 is no step's.

    Raises:
        InputError: no schedule, or no level above 0.
    """
    levels = [sigma for sigma in sigmas if sigma > 0]
    figure, (panel,) = axes(1, 1, 3.2, some=bool(scales) and bool(levels))
    for number, (name, scale) in enumerate(scales.items()):
        color, marker = (BLUE, ORANGE, GREEN, PURPLE)[number % 4], "osD^v<"[number % 6]
        panel.plot([scale(sigma) for sigma in levels], color=color, marker=marker, markersize=5, label=name)
    panel.axhline(1, color="black", linestyle=":", linewidth=1)
    panel.set_xticks(range(len(levels)), [f"{number}\nσ {sigma:.3g}" for number, sigma in enumerate(levels, 1)])
    panel.set(title="Guidance over the run", xlabel="step, and the noise level it begins at", ylabel="guidance scale")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure


def losses(values: Mapping[str, Mapping[int, float]]) -> Figure:
    """A loss of the estimated picture against the step, one line for each run.

    Args:
        values: name -> loss by the step's index, counted from 0.

    Raises:
        InputError: no run, or one without a value.
    """
    figure, (panel,) = axes(1, 1, 3.2, some=bool(values) and all(values.values()))
    for number, (name, each) in enumerate(values.items()):
        color, marker = (BLUE, ORANGE, GREEN, PURPLE)[number % 4], "osD^v<"[number % 6]
        steps = [index + 1 for index in each]
        panel.plot(steps, list(each.values()), color=color, marker=marker, markersize=5, label=name)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.set(title="Loss of the estimated picture", xlabel="step", ylabel="loss", ylim=(0, None))
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure


def ablation_bars(effects: Sequence[Effect], *, most: int = 20) -> Figure:
    """The largest effects, on latents and on pixels, the largest above.

    Raises:
        InputError: there are none.
    """
    chosen = sorted(effects, key=lambda effect: effect.latents, reverse=True)[:most]
    figure, (left, right) = axes(1, 2, 0.9 + 0.26 * len(chosen), some=bool(chosen), sharey=True)
    names = [effect.name for effect in chosen]
    left.barh(names, [effect.latents for effect in chosen], color=BLUE)
    right.barh(names, [effect.pixels for effect in chosen], color=ORANGE, hatch="//", edgecolor="white")
    left.invert_yaxis()
    left.tick_params(axis="y", labelsize=7)
    left.set(title="Effect on the latents", xlabel="RMS difference / deviation")
    right.set(title="Effect on the picture", xlabel="RMS difference, pixels in [0,1]")
    for panel in (left, right):
        panel.grid(alpha=0.3, axis="x")
    return figure


def edit(before: Image.Image, after: Image.Image, mask: Tensor | None = None) -> Figure:
    """A picture before and after an edit, where it was allowed to change, and how far each pixel did.

    Args:
        before: the picture.
        after: of the same size.
        mask: [1,1,h,w], 1 where it was made anew; None leaves its panel out.

    Raises:
        InputError: the sizes differ.
    """
    if before.size != after.size:
        raise InputError(f"pictures of {before.size} and {after.size} pixels; give the same size")
    figure, panels = axes(1, 3 if mask is None else 4, 3.1 if mask is None else 2.5)
    show(panels[0], before, "before")
    show(panels[-2], after, "after")
    if mask is not None:
        panels[1].imshow(mask[0, 0].cpu().numpy(), cmap=MAP, vmin=0, vmax=1)
        panels[1].set(xlabel="latent column", ylabel="latent row")
        panels[1].set_title("made anew where yellow", fontsize=8)
    first, second = (torch.from_numpy(np.asarray(each.convert("RGB")) / 255.0) for each in (before, after))
    shown = panels[-1].imshow((second - first).square().mean(-1).sqrt().numpy(), cmap=MAP, vmin=0)
    panels[-1].set(xticks=[], yticks=[])
    panels[-1].set_title("change, pixels in [0,1]", fontsize=8)
    figure.colorbar(shown, ax=panels[-1], shrink=0.75)
    return figure


def sweep(pictures: Sequence[Image.Image], titles: Sequence[object], *, columns: int = 4) -> Figure:
    """Pictures in a grid, each with its title: a sweep of scales, layers, words or seeds.

    Raises:
        InputError: no picture, or not one title for each.
    """
    if len(pictures) != len(titles) or columns < 1:
        raise InputError(f"{len(pictures)} pictures and {len(titles)} titles; give one title for each picture")
    columns = min(columns, max(len(pictures), 1))
    rows = -(-len(pictures) // columns)
    figure, panels = axes(rows, columns, rows * (WIDTH / columns + 0.3), some=bool(pictures))
    for panel, picture, title in zip(panels, pictures, titles, strict=False):
        show(panel, picture, str(title))
    for panel in panels[len(pictures) :]:
        panel.remove()
    return figure


def strips(rows: Mapping[str, Sequence[Image.Image]], titles: Sequence[object]) -> Figure:
    """Pictures in named rows, one below the other: several views of the same things, such as the steps of a run.

    Args:
        rows: what stands at the left of the row -> its pictures; of any sizes.
        titles: of the columns.

    Raises:
        InputError: nothing to draw, or a row with another number of pictures than there are titles.
    """
    for name, pictures in rows.items():
        if len(pictures) != len(titles):
            raise InputError(f"{len(pictures)} pictures in row {name!r}, but {len(titles)} titles; give one for each")
    columns = max(len(titles), 1)
    height = len(rows) * WIDTH / max(columns, 3) + 0.3
    figure, panels = axes(len(rows), columns, height, some=bool(rows) and bool(titles))
    shown = [picture for pictures in rows.values() for picture in pictures]
    above = [str(title) for title in titles] + [""] * len(shown)
    for panel, picture, title in zip(panels, shown, above, strict=False):
        show(panel, picture, title)
    for panel, name in zip(panels[::columns], rows, strict=True):
        panel.set_ylabel(name, fontsize=9)
    return figure


def _spread(steps: Sequence[Step], count: int) -> list[Step]:
    """``count`` of the steps, evenly from the first to the last."""
    if count < 1:
        raise InputError(f"{count} columns; give at least 1")
    count = min(count, len(steps))
    if count <= 1:
        return list(steps[-1:])
    return [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)]
