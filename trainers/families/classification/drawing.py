"""Figures of a classifier's evaluation: the confusion matrix, and the most confident mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainers.drawing import fonts
from trainers.drawing.plots import FAINT, INK, figure_of, image_of

NUMBERED = 20  # most classes with a number in each cell
NAMED = 99  # most classes with their names at the axes

SIDE = 96  # pixels of an image
COLUMN = 148  # pixels from one mistake to the next
LINE = 15  # pixels from one line of a caption to the next
MARGIN = 12
PER_ROW = 6


def draw_confusion(counts: np.ndarray, names: Sequence[str]) -> Image.Image:
    """How often each true class (row) was predicted as each class (column): `counts` is (classes, classes)."""
    from matplotlib.colors import PowerNorm
    from matplotlib.font_manager import FontProperties
    from matplotlib.ticker import PercentFormatter

    classes, total, right = len(counts), float(counts.sum()), float(np.trace(counts))
    of_class = counts.sum(1, keepdims=True)
    shares = counts / np.where(of_class > 0, of_class, 1)
    figure = figure_of(800, 720) if classes <= NUMBERED else figure_of(1000, 900)
    axes = figure.subplots()
    # a root scale, so that a few mistakes are visible beside many correct predictions
    picture = axes.imshow(shares, "Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    bar = figure.colorbar(
        picture, ax=axes, shrink=0.8, format=PercentFormatter(1, symbol=" %"), ticks=[0, 0.05, 0.2, 0.5, 1]
    )
    bar.set_label("share of the true class", color=INK)
    caption = f"Accuracy {100 * right / total:.2f} % ({right:,.0f} of {total:,.0f})" if total > 0 else "No samples"
    axes.set_title(caption, color=INK, fontsize=13, pad=12)
    axes.set_xlabel("predicted class", color=INK, fontsize=11)
    axes.set_ylabel("true class", color=INK, fontsize=11)
    for part in (axes, bar.ax):
        part.tick_params(length=0, labelcolor=INK)
        part.spines[:].set_color(FAINT)
    size = 12 if classes <= 4 else 10 if classes <= 12 else 8 if classes <= 45 else 5
    drawn = [fonts.drawable(_cut(_plain(name), 18, len)) for name in names] if classes <= NAMED else []
    shown = [text for _, text in drawn]
    axes.set_xticks(range(len(shown)), shown, rotation=0 if classes <= 4 else 90, parse_math=False)
    axes.set_yticks(range(len(shown)), shown, parse_math=False)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, (font, _) in zip(labels, drawn, strict=True):
            label.set_fontproperties(FontProperties(fname=font, size=size))
    if classes <= NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            number = f"{count:.0f}" if float(count).is_integer() else f"{count:.3g}"
            colour = FAINT if count == 0 else "white" if shares[row, column] > 0.35 else INK
            axes.text(
                column,
                row,
                number,
                color=colour,
                fontsize=size if classes <= 12 else 7,
                ha="center",
                va="center",
                in_layout=False,
            )
    return image_of(figure)


def draw_mistakes(images: np.ndarray, captions: Sequence[str]) -> Image.Image | None:
    """Images (count, height, width, channels), uint8, side by side, each at about 96 pixels over its caption."""
    if not len(images):
        return None
    bold = _font(fonts.default_font("DejaVuSans-Bold.ttf"), 13)
    texts = [_lines(caption) for caption in captions]
    columns, title = min(len(images), PER_ROW), "Most confident mistakes"
    width = max(columns * COLUMN, math.ceil(bold.getlength(title)) + 2 * MARGIN)
    left, top = (width - columns * COLUMN) // 2, MARGIN + 28
    row_height = SIDE + 6 + LINE * max(len(lines) for _, lines in texts) + MARGIN
    sheet = Image.new("RGB", (width, top + -(-len(images) // PER_ROW) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((width // 2, MARGIN), title, INK, bold, anchor="ma")
    for place, (image, (font, lines)) in enumerate(zip(images, texts, strict=True)):
        row, column = divmod(place, PER_ROW)
        middle, base = left + column * COLUMN + COLUMN // 2, top + row * row_height + SIDE
        cell = _at_side(Image.fromarray(image[:, :, 0] if image.shape[2] < 3 else image[:, :, :3]))
        sheet.paste(cell, (middle - cell.width // 2, base - cell.height))
        for number, line in enumerate(lines):
            draw.text((middle, base + 6 + number * LINE), line, INK, font, anchor="ma")
    return sheet


def _at_side(image: Image.Image) -> Image.Image:
    """Enlarged by a whole number to at most SIDE pixels, so that every pixel is visible; larger images are reduced."""
    longest = max(image.size)
    if longest > SIDE:
        width, height = (max(1, round(side * SIDE / longest)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BOX)
    factor = SIDE // longest
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """A font, `size` pixels high."""
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)  # the same with and without libraqm


def _lines(caption: str) -> tuple[ImageFont.FreeTypeFont, list[str]]:
    """A caption in one or two lines no wider than a column, and the font that has all of its characters."""
    path, text = fonts.drawable(_plain(caption)[:200].replace(" %", "\u00a0%"))
    font = _font(path, 11)
    first, *words = text.split(" ")
    lines = [first]
    for word in words:
        if font.getlength(f"{lines[-1]} {word}") <= COLUMN - 8:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return font, [_cut(line, COLUMN - 8, font.getlength) for line in (lines[0], " ".join(lines[1:])) if line]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, most: float, length: Callable[[str], float]) -> str:
    """The text, or its start and an ellipsis if it is too long."""
    if length(text) <= most:
        return text
    while text and length(f"{text}…") > most:
        text = text[:-1]
    return f"{text.rstrip()}…"
