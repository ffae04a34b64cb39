"""Figures of a verdict: each number beside the real one, the histogram of classes, and the closest pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from trainers.drawing.plots import FAINT, INK, figure_of, image_of

SHARES = ("precision", "recall", "density", "coverage", "memorization_rate")
GENERATED, REAL = "#3b6fb6", "#b9bec6"
SHOWN_CLASSES = 40


def draw_verdict(verdict: Mapping[str, Any]) -> Image.Image:
    """Shares as bars, distances as text, and the histogram of classes if there is one."""
    numbers, histogram = verdict["numbers"], verdict.get("histogram")
    figure = figure_of(1000, 420)
    left, right = figure.subplots(1, 2)
    names = [name for name in SHARES if name in numbers]
    positions = np.arange(len(names))
    for side, offset, colour in (("generated", -0.2, GENERATED), ("real", 0.2, REAL)):
        values = [numbers[name][side] for name in names]
        label = f"{side} ({verdict['samples']:,} {'samples' if side == 'generated' else 'held-out images'})"
        bars = left.barh(positions + offset, values, 0.38, color=colour, label=label)
        left.bar_label(bars, [f"{value:.3f}" for value in values], padding=3, color=INK, fontsize=8)
    left.set_yticks(positions, [name.replace("_", " ") for name in names], color=INK)
    left.invert_yaxis()
    left.set_xlim(0, max(1.25, 1.2 * max(max(numbers[name].values()) for name in names)))
    left.legend(loc="lower right", fontsize=8, frameon=False, labelcolor=INK)
    lines = [
        f"{label} {numbers[name]['generated']:.4g} (real: {numbers[name]['real']:.4g})"
        for name, label in (("frechet_distance", verdict["distance"]), ("kernel_distance", "KID"))
        if name in numbers
    ]
    left.set_title("\n".join(lines), color=INK, fontsize=10, loc="left")
    if histogram:
        classes = range(min(SHOWN_CLASSES, len(histogram["generated"])))
        for side, offset, colour in (("generated", -0.2, GENERATED), ("real", 0.2, REAL)):
            right.bar(np.arange(len(classes)) + offset, [histogram[side][one] for one in classes], 0.38, color=colour)
        covered = numbers["classes_covered"]["generated"]
        divergence = numbers["class_kl"]["generated"]
        title = f"{covered:.0f} of {verdict['classes']} classes, divergence {divergence:.3f}"
        right.set_title(title, color=INK, fontsize=10, loc="left")
        right.set_xlabel("class", color=INK)
    else:
        right.set_axis_off()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(length=0, labelcolor=INK, labelsize=9)
    figure.suptitle(f"Features: {verdict['features']}", color=INK, fontsize=11, x=0.02, ha="left")
    return image_of(figure)


def draw_pairs(generated: np.ndarray, real: np.ndarray, side: int = 64) -> Image.Image:
    """Generated images (count, height, width, channels), uint8, each above its nearest training image."""
    count, gap, title = len(generated), 4, 22
    sheet = Image.new("RGB", (count * (side + gap) + gap, title + 2 * (side + gap)), "white")
    ImageDraw.Draw(sheet).text((gap, 4), "closest: generated above, the nearest training image below", INK)
    for row, images in enumerate((generated, real)):
        for index, image in enumerate(images):
            cell = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image[:, :, :3])
            cell = cell.resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(cell, (gap + index * (side + gap), title + row * (side + gap)))
    return sheet
