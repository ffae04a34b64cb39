"""Plots of a run: its curves, its confusions and its worst mistakes as PNG, and a schedule for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainers.engine import pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#2d3748", "#a0aec0"
COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#c53030", "#718096")

MOST_POINTS = 2000  # of a line
NOISY = 60  # points from which a training curve is smoothed
FEW = 40  # points up to which each is marked
WIDE = 30  # times: a range of losses that needs a log scale

NUMBERED = 20  # classes at most that have a number in each cell
NAMED = 99  # classes at most that have their names at the axes

SIDE = 96  # pixels of a mistaken image
COLUMN = 148  # pixels from one mistake to the next
LINE = 15  # pixels from one line of a caption to the next
MARGIN = 12
PER_ROW = 6


class Curve(NamedTuple):
    """One metric over the run's steps, where it is finite."""

    name: str
    steps: np.ndarray
    values: np.ndarray

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")

    @property
    def is_loss(self) -> bool:
        return "loss" in self.name.split("_")

    @property
    def is_evaluation(self) -> bool:
        return self.name.startswith("eval_")

    @property
    def is_share(self) -> bool:
        named = self.is_evaluation or "accuracy" in self.name
        return named and not self.is_loss and self.values.min() >= 0 and self.values.max() <= 1


def write_curves(
    path: Path, rows: Sequence[Mapping[str, float]], schedules: Sequence[str] = ("learning_rate", "momentum")
) -> None:
    """Losses, accuracies and schedules over steps, a panel each; the first of `schedules` has the left axis."""
    curves = _curves(rows)
    losses = [curve for curve in curves if curve.is_loss]
    shares = [curve for curve in curves if curve.is_share]
    left, right = (
        [curve for curve in curves for name in names if f"_{curve.name}".endswith(f"_{name}")]
        for names in (schedules[:1], schedules[1:])
    )
    panels = sum(map(bool, (losses, shares, left + right)))
    if not panels:
        return
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure = _figure(900, 260 * panels)
    axes = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
    axes[-1].set_xlabel("step", color=INK)
    axes[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if losses:
        _draw_losses(axes.pop(0), losses)
    if shares:
        _draw_shares(axes.pop(0), shares)
    if axes:
        _draw_schedules(axes.pop(0), left, right)
    _write(path, figure)


def write_confusion(path: Path, counts: np.ndarray, names: Sequence[str]) -> None:
    """How often each true class (row) was taken for each class (column): `counts` is (classes, classes)."""
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import PercentFormatter

    classes, total, right = len(counts), float(counts.sum()), float(np.trace(counts))
    of_class = counts.sum(1, keepdims=True)
    shares = counts / np.where(of_class > 0, of_class, 1)
    figure = _figure(800, 720) if classes <= NUMBERED else _figure(1000, 900)
    axes = figure.subplots()
    # a root scale, so that a few mistakes are seen beside many right answers
    picture = axes.imshow(shares, "Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    bar = figure.colorbar(
        picture, ax=axes, shrink=0.8, format=PercentFormatter(1, symbol=" %"), ticks=[0, 0.05, 0.2, 0.5, 1]
    )
    bar.set_label("share of the true class", color=INK)
    told = f"Accuracy {100 * right / total:.2f} % ({right:,.0f} of {total:,.0f})" if total > 0 else "No samples"
    axes.set_title(told, color=INK, fontsize=13, pad=12)
    axes.set_xlabel("predicted class", color=INK, fontsize=11)
    axes.set_ylabel("true class", color=INK, fontsize=11)
    for part in (axes, bar.ax):
        part.tick_params(length=0, labelcolor=INK)
        part.spines[:].set_color(FAINT)
    size = 12 if classes <= 4 else 10 if classes <= 12 else 8 if classes <= 45 else 5
    shown = [_cut(_plain(name), 18, len) for name in names] if classes <= NAMED else []
    axes.set_xticks(range(len(shown)), shown, rotation=0 if classes <= 4 else 90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(shown)), shown, fontsize=size, parse_math=False)
    if classes <= NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            number = f"{count:.0f}" if float(count).is_integer() else f"{count:.3g}"
            colour = FAINT if count == 0 else "white" if shares[row, column] > 0.35 else INK
            axes.text(
                column, row, number, color=colour, fontsize=size if classes <= 12 else 7, ha="center", va="center"
            )
    _write(path, figure)


def write_mistakes(path: Path, images: np.ndarray, captions: Sequence[str]) -> None:
    """Images (count, height, width, channels), uint8, side by side, each at about 96 pixels over its caption."""
    if not len(images):
        return
    font, bold = _font("DejaVuSans.ttf", 11), _font("DejaVuSans-Bold.ttf", 13)
    texts = [_lines(caption, font) for caption in captions]
    columns, title = min(len(images), PER_ROW), "Most confident mistakes"
    width = max(columns * COLUMN, math.ceil(bold.getlength(title)) + 2 * MARGIN)
    left, top = (width - columns * COLUMN) // 2, MARGIN + 28
    row_height = SIDE + 6 + LINE * max(map(len, texts)) + MARGIN
    sheet = Image.new("RGB", (width, top + -(-len(images) // PER_ROW) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((width // 2, MARGIN), title, INK, bold, anchor="ma")
    for place, (image, lines) in enumerate(zip(images, texts, strict=True)):
        row, column = divmod(place, PER_ROW)
        middle, base = left + column * COLUMN + COLUMN // 2, top + row * row_height + SIDE
        cell = _at_side(Image.fromarray(image[:, :, 0] if image.shape[2] < 3 else image[:, :, :3]))
        sheet.paste(cell, (middle - cell.width // 2, base - cell.height))
        for number, line in enumerate(lines):
            draw.text((middle, base + 6 + number * LINE), line, INK, font, anchor="ma")
    pictures.write_png(path, sheet)


def sparkline(values: Sequence[float], width: int = 60, height: int = 8) -> str:
    """Values as bars of text, largest and smallest at the left: `height` lines, or one where all are the same."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return ""
    low, high = min(values), max(values)
    height = max(2, height) if high > low else 1
    labels = [f"{high:.3g}", *[""] * (height - 2), *[f"{low:.3g}"] * (height > 1)]
    space = max(map(len, labels))
    chosen = [values[round(column * (len(values) - 1) / max(1, width - 1))] for column in range(width)]
    shares = [(value - low) / (high - low) if high > low else 0.5 for value in chosen]
    eighths = [max(1, round(8 * height * share)) for share in shares]
    return "\n".join(
        f"{label:>{space}} ┤" + "".join(" ▁▂▃▄▅▆▇█"[min(8, max(0, filled - 8 * floor))] for filled in eighths).rstrip()
        for label, floor in zip(labels, reversed(range(height)), strict=True)
    )


# Curves


def _curves(rows: Sequence[Mapping[str, float]]) -> list[Curve]:
    """Every metric of the rows, in the order of their first appearance."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, (int, float)) and math.isfinite(value) and name != "step" and "step" in row:
                points.setdefault(name, []).append((row["step"], value))
    return [Curve(name, *np.array(pairs, np.float64).T) for name, pairs in points.items()]


def _draw_losses(axes: Axes, losses: Sequence[Curve]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    lines = [_draw(axes, curve, colour, smooth=True) for colour, curve in zip(cycle(COLOURS), losses, strict=False)]
    lowest, high = min(curve.values.min() for curve in losses), max(curve.values.max() for curve in losses)
    wide = lowest > 0 and high / lowest > WIDE
    if wide:
        axes.set_yscale("log")
        low = max(0.8 * lowest, min(line.min() for line in lines) / 5)  # one tiny value does not flatten the rest
        axes.set_ylim(bottom=low)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 500 else (1,)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    _finish(axes, "loss, log scale" if wide else "loss")


def _draw_shares(axes: Axes, shares: Sequence[Curve]) -> None:
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import StrMethodFormatter

    middle = (min(curve.steps[0] for curve in shares) + max(curve.steps[-1] for curve in shares)) / 2
    for colour, curve in zip(cycle(COLOURS), shares, strict=False):
        curve = curve._replace(values=100 * curve.values)
        if not curve.is_evaluation:
            _draw(axes, curve, colour, smooth=True)
            continue
        lower = curve.name.endswith("error")
        best = int(curve.values.argmin() if lower else curve.values.argmax())
        step, value = float(curve.steps[best]), float(curve.values[best])
        _draw(axes, curve, colour, f", best {value:.2f} % at step {step:,.0f}")
        axes.plot(step, value, "o", color=colour, markersize=8, markerfacecolor="white", markeredgewidth=2, zorder=4)
        late = step >= middle
        axes.annotate(
            f"{value:.2f} %", (step, value), (-8 if late else 8, 7 if lower else -7), textcoords="offset points",
            ha="right" if late else "left", va="bottom" if lower else "top", color=colour, weight="bold", zorder=5,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g} %"))
    _finish(axes, "accuracy" if all("accuracy" in curve.name for curve in shares) else "share")


def _draw_schedules(axes: Axes, left: Sequence[Curve], right: Sequence[Curve]) -> None:
    from matplotlib.ticker import FuncFormatter

    colours = cycle(COLOURS)
    second = axes.twinx() if left and right else axes
    for curve in left:
        _draw(axes, curve, next(colours))
    for curve in right:
        _draw(second, curve, next(colours), " (right)" if left else "")
    if left and min(curve.values.min() for curve in left) >= 0:
        axes.set_ylim(bottom=0)
    for side in (axes, second):
        power = math.floor(math.log10(max(map(abs, side.get_ylim()))))
        side.yaxis.set_major_formatter(FuncFormatter(partial(_number, power)))
    _finish(axes, "schedule", second)


def _number(power: int, value: float, place: int | None = None) -> str:
    """A number of an axis that goes to about 10 ** power: all with the same power where they are small."""
    return f"{value:g}" if power > -4 or not value else f"{value / 10.0**power:g}e{power}"


def _draw(axes: Axes, curve: Curve, colour: str, note: str = "", smooth: bool = False) -> np.ndarray:
    """A line, and its values; a noisy one of training may be light with its moving average over it."""
    count = len(curve.values)
    thin = np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))
    values, marker = curve.values, "o" if count <= FEW else None
    if smooth and count >= NOISY and not curve.is_evaluation:
        axes.plot(curve.steps[thin], values[thin], color=colour, alpha=0.25, linewidth=0.8, zorder=1.5)
        window = np.ones(count // 30 | 1)
        values = np.convolve(values, window, "same") / np.convolve(np.ones(count), window, "same")
        note += ", smoothed"
    axes.plot(curve.steps[thin], values[thin], color=colour, marker=marker, markersize=3.5, label=curve.title + note)
    return values


def _finish(axes: Axes, title: str, second: Axes | None = None) -> None:
    """Title, legend and grid lines of a panel."""
    sides = list(dict.fromkeys((axes, second or axes)))
    lines = [line for side in sides for line in side.get_legend_handles_labels()[0]]
    widest = max(45 + 7 * len(str(line.get_label())) for line in lines)  # pixels
    axes.set_title(title, loc="left", color=INK, fontsize=11, weight="bold")
    axes.legend(
        handles=lines, loc="lower right", bbox_to_anchor=(1, 1), ncols=max(1, 680 // widest), frameon=False,
        fontsize=9, labelcolor=INK, borderaxespad=0.2,
    )  # fmt: skip
    axes.grid(color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    for side in sides:
        side.tick_params(which="both", length=0, labelcolor=INK)
        side.spines[["top", "left", "right"]].set_visible(False)
        side.spines["bottom"].set_color(FAINT)


def _figure(width: int, height: int) -> Figure:
    """An empty figure of so many pixels, that belongs to no window and to no list of figures."""
    from matplotlib.figure import Figure

    return Figure((width / 100, height / 100), dpi=100, layout="constrained")


def _write(path: Path, figure: Figure) -> None:
    """As PNG of 256 colours, which has a third of the bytes and looks the same."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    pictures.write_png(path, image.quantize(256, dither=Image.Dither.NONE))


# Mistakes and names


def _at_side(image: Image.Image) -> Image.Image:
    """Magnified by a whole number to SIDE pixels at most, so that every pixel is seen; made smaller where larger."""
    longest = max(image.size)
    if longest > SIDE:
        width, height = (max(1, round(side * SIDE / longest)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BOX)
    factor = SIDE // longest
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """The font of the other plots, `size` pixels high."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)  # the same with and without libraqm


def _lines(caption: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """A caption in one line or two that are no wider than a column."""
    first, *words = _plain(caption)[:200].replace(" %", "\u00a0%").split(" ")
    lines = [first]
    for word in words:
        if font.getlength(f"{lines[-1]} {word}") <= COLUMN - 8:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [_cut(line, COLUMN - 8, font.getlength) for line in (lines[0], " ".join(lines[1:])) if line]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, most: float, length: Callable[[str], float]) -> str:
    """The text, or its start and an ellipsis where it is too long."""
    if length(text) <= most:
        return text
    while text and length(f"{text}…") > most:
        text = text[:-1]
    return f"{text.rstrip()}…"
