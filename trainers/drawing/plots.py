"""Plots of a run: its curves as PNG, and a schedule for the terminal."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from trainers.drawing import pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#2d3748", "#a0aec0"
COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#c53030", "#718096")

MOST_POINTS = 2000  # of a line
NOISY = 60  # points from which a training curve is smoothed
FEW = 40  # points up to which each is marked
WIDE = 30  # times: a range of losses that needs a log scale


class Curve(NamedTuple):
    """The finite values of one metric over the steps of a run."""

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
    """Plot losses, accuracies and schedules over steps, one panel each; the first of `schedules` uses the left axis."""
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

    figure = figure_of(900, 260 * panels)
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
    pictures.write_picture(path, image_of(figure))


def sparkline(values: Sequence[float], width: int = 60, height: int = 8) -> str:
    """Values as text bars, with the maximum and minimum at the left: `height` lines, or one if all are equal."""
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
    """Every metric of the rows, in order of first appearance."""
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
            f"{value:.2f} %",
            (step, value),
            (-8 if late else 8, 7 if lower else -7),
            textcoords="offset points",
            ha="right" if late else "left",
            va="bottom" if lower else "top",
            color=colour,
            weight="bold",
            zorder=5,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
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
    """A tick label of an axis with a maximum of about 10 ** power; small numbers share the same power."""
    return f"{value:g}" if power > -4 or not value else f"{value / 10.0**power:g}e{power}"


def _draw(axes: Axes, curve: Curve, colour: str, note: str = "", smooth: bool = False) -> np.ndarray:
    """Draw a line and return its values; a noisy training curve is drawn lightly under its moving average."""
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
        handles=lines,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=max(1, 680 // widest),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        borderaxespad=0.2,
    )
    axes.grid(color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    for side in sides:
        side.tick_params(which="both", length=0, labelcolor=INK)
        side.spines[["top", "left", "right"]].set_visible(False)
        side.spines["bottom"].set_color(FAINT)


def figure_of(width: int, height: int) -> Figure:
    """An empty figure of this many pixels, without a window and not registered with pyplot."""
    from matplotlib.figure import Figure

    return Figure((width / 100, height / 100), dpi=100, layout="constrained")


def image_of(figure: Figure) -> Image.Image:
    """The figure in 256 colours, which makes the PNG a third of the size and looks the same."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
    with warnings.catch_warnings(action="ignore"):  # of characters missing in all fonts, drawn as boxes
        canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return image.quantize(256, dither=Image.Dither.NONE)
