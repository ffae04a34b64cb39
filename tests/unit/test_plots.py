"""Curves, confusions and mistakes as PNG, and the sparkline."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiers import slow

from trainers.drawing import fonts, pictures, plots
from trainers.families.classification import drawing

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PANEL = 260


def classifier_rows(count: int = 300) -> list[dict[str, float]]:
    """Rows of a classifier with one-cycle learning rate and momentum, and an evaluation after every 15th."""
    draws, rows = np.random.default_rng(0), []
    for row in range(1, count + 1):
        done = row / count
        rise = done / 0.3 if done < 0.3 else (1 - done) / 0.7
        loss = 2.3 * math.exp(-4 * done + 0.25 * draws.standard_normal()) + 0.04
        rows.append(
            {"step": 10 * row, "seconds": row / 9, "classify_loss": loss, "learning_rate": 0.4 * rise,
             "momentum": 0.95 - 0.1 * rise, "samples_per_second": 5000.0}
        )  # fmt: skip
        if row % 15 == 0:
            share = 0.94 - 0.6 * math.exp(-5 * done)
            rows.append({"step": 10 * row, "seconds": row / 9, "eval_accuracy": share, "eval_loss": 2 - 1.8 * share})
    return rows


def confusion(classes: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 9, (classes, classes)) + 90 * np.eye(classes, dtype=np.int64)


def photos(count: int, side: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, side, side, channels), np.uint8)


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a PNG, in pixels, that is whole, has no metadata, and nothing else beside it."""
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert set(image.info) <= {"transparency"}
        return image.size


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plot.png"


def panels_of(path: Path, rows: list[dict[str, float]]) -> float:
    plots.write_curves(path, rows)
    width, height = size_of(path)
    assert width == 900
    return height / PANEL


def test_curves_have_a_panel_for_each_kind_of_metric_that_there_is(path: Path) -> None:
    rows = classifier_rows()
    assert panels_of(path, rows) == 3
    assert path.stat().st_size < 150_000
    assert panels_of(path, [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}]) == 1
    assert panels_of(path, [{"step": 1, "eval_accuracy": 0.5}]) == 1
    assert panels_of(path, [{"step": 1, "momentum": 0.9}]) == 1


def test_schedules_may_have_other_names_and_one_for_each_network(path: Path) -> None:
    rows = [{"step": step, "generator_lr": 2e-4, "discriminator_lr": 1e-4, "beta": 0.5} for step in (1, 2)]
    assert not path.exists()
    plots.write_curves(path, rows)
    assert not path.exists()
    plots.write_curves(path, rows, schedules=("lr", "beta"))
    assert size_of(path) == (900, PANEL)


def test_curves_of_a_long_gan_with_several_losses_are_thinned(path: Path) -> None:
    draws = np.random.default_rng(0).standard_normal((12_000, 3))
    names = ("generator_loss", "discriminator_loss", "gradient_penalty_loss")
    rows = [{"step": step, **dict(zip(names, row.tolist(), strict=True))} for step, row in enumerate(draws)]
    assert panels_of(path, rows) == 1
    assert path.stat().st_size < 150_000


@pytest.mark.parametrize(
    "row",
    [
        {"step": 10, "classify_loss": 2.3, "learning_rate": 0.1, "momentum": 0.9},
        *slow(
            {"step": 0, "loss": 0.0, "learning_rate": 0.0},
            {"step": 7, "loss": -3.0},
            {"step": 7, "eval_accuracy": 1.0},
            {"step": 7, "eval_error": 0.0},
        ),
    ],
)
def test_one_row_is_drawn(path: Path, row: dict[str, float]) -> None:
    assert panels_of(path, [row]) >= 1


@pytest.mark.parametrize(
    "rows",
    [[], [{}], [{"loss": 1.0}], [{"step": 1, "loss": math.nan}], [{"step": 1, "eval_fid": 40.0}],
     [{"step": 1, "seconds": 0.5, "samples_per_second": 9.0}]],
)  # fmt: skip
def test_without_anything_to_draw_no_curves_are_written(path: Path, rows: list[dict[str, float]]) -> None:
    plots.write_curves(path, rows)
    assert list(path.parent.iterdir()) == []


def test_what_is_not_finite_is_left_out(path: Path) -> None:
    rows: list[dict[str, float]] = [{"step": step, "classify_loss": 1 / step, "eval_loss": 0.5} for step in (1, 2, 3)]
    plots.write_curves(path, rows)
    expected = path.read_bytes()
    broken = [math.nan, math.inf, -math.inf]
    plots.write_curves(path, [*rows, *({"step": 9999, "classify_loss": value, "eval_loss": value} for value in broken)])
    assert path.read_bytes() == expected


def test_a_wide_range_of_losses_has_a_log_scale(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = []
    finish = plots._finish
    monkeypatch.setattr(plots, "_finish", lambda axes, title, *rest: (titles.append(title), finish(axes, title, *rest)))
    for last in (0.04, 0.03, 0.0, -1.0):
        plots.write_curves(path, [{"step": 1, "loss": 1.0}, {"step": 2, "loss": last}])
    assert titles == ["loss", "loss, log scale", "loss", "loss"]


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("eval_accuracy", (0.2, 0.7125, 0.5), "71.25 % at step 2"),
        *slow(("eval_error", (0.2, 0.1, 0.5), "10.00 % at step 2")),
    ],
)
def test_the_best_evaluation_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, values: tuple[float, ...], best: str
) -> None:
    labels = []
    finish = plots._finish

    def listen(axes: object, title: str) -> None:
        labels.extend(axes.get_legend_handles_labels()[1])  # type: ignore[attr-defined]
        finish(axes, title)  # type: ignore[arg-type]

    monkeypatch.setattr(plots, "_finish", listen)
    plots.write_curves(path, [{"step": step, name: value} for step, value in enumerate(values, 1)])
    assert labels == [f"{name.replace('_', ' ')}, best {best}"]


def written(path: Path, draw: Any, *words: Any) -> None:
    """What `draw` draws, as the engine writes it."""
    pictures.write_named(path.parent, {path.stem: draw(*words)})


@pytest.mark.parametrize(
    ("classes", "size"), [(20, (800, 720)), (21, (1000, 900)), *slow((1, (800, 720)), (120, (1000, 900)))]
)
def test_a_confusion_is_drawn_for_few_and_for_many_classes(path: Path, classes: int, size: tuple[int, int]) -> None:
    written(path, drawing.draw_confusion, confusion(classes), [f"class {number}" for number in range(classes)])
    assert size_of(path) == size


def test_a_confusion_takes_shares_empty_classes_and_odd_names(path: Path) -> None:
    counts = np.array([[0.5, 0.25], [0, 0]])
    written(path, drawing.draw_confusion, counts, ["$5 and $", "a name\nthat is much too long to be shown whole"])
    written(path, drawing.draw_confusion, np.zeros((2, 2), np.int64), ["cat", "dog"])
    assert size_of(path) == (800, 720)


@pytest.mark.parametrize(("count", "columns", "rows"), [(2, 2, 1), (6, 6, 1), (7, 6, 2), (13, 6, 3)])
def test_mistakes_are_laid_out_six_in_a_row(path: Path, count: int, columns: int, rows: int) -> None:
    written(path, drawing.draw_mistakes, photos(count), ["ship, not car 99.8 %"] * count)
    row = drawing.SIDE + 6 + drawing.LINE + drawing.MARGIN
    assert size_of(path) == (columns * drawing.COLUMN, drawing.MARGIN + 28 + rows * row)


@pytest.mark.parametrize(("side", "shown"), [(8, 96), (28, 84), (32, 96), (64, 64), (224, 96)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_mistake_is_magnified_pixel_by_pixel(path: Path, side: int, shown: int, channels: int) -> None:
    images = photos(2, side, channels)
    written(path, drawing.draw_mistakes, images, ["cat, not dog 99 %", "dog, not cat 98 %"])
    left, base = (drawing.COLUMN - shown) // 2, drawing.MARGIN + 28 + drawing.SIDE
    with Image.open(path) as sheet:
        cell = np.asarray(sheet)[base - shown : base, left : left + shown]
    if side <= shown:
        assert np.array_equal(
            cell, np.broadcast_to(images[0].repeat(shown // side, 0).repeat(shown // side, 1), cell.shape)
        )
    else:
        assert abs(cell.mean() - images[0].mean()) < 1


def test_without_mistakes_nothing_is_written(path: Path) -> None:
    written(path, drawing.draw_mistakes, photos(0), [])
    assert list(path.parent.iterdir()) == []


def test_captions_are_cut_to_two_lines_of_a_column() -> None:
    assert drawing._lines("ship, not car 99.8 %")[1] == ["ship, not car 99.8\u00a0%"]
    assert drawing._lines("airplane, not automobile 99.8 %")[1] == ["airplane, not automobile", "99.8\u00a0%"]
    assert drawing._lines(" ")[1] == []
    for caption in ("W" * 1000, "short-haired pointer, not ridgeback " * 9, "a " * 500):
        font, lines = drawing._lines(caption)
        assert lines[-1].endswith("…")
        assert len(lines) <= 2
        assert all(font.getlength(line) <= drawing.COLUMN for line in lines)


def small_font(path: Path, text: str) -> Path:
    """A font of squares that has these characters, and nothing else."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for move, place in ((pen.moveTo, (0, 0)), (pen.lineTo, (0, 700)), (pen.lineTo, (700, 700)), (pen.lineTo, (700, 0))):
        move(place)
    pen.closePath()
    square, names = pen.glyph(), {character: f"u{ord(character):x}" for character in sorted(set(text))}
    font = FontBuilder(1000)
    font.setupGlyphOrder([".notdef", *names.values()])
    font.setupCharacterMap({ord(character): name for character, name in names.items()})
    font.setupGlyf(dict.fromkeys([".notdef", *names.values()], square))
    font.setupHorizontalMetrics(dict.fromkeys([".notdef", *names.values()], (800, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Small", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return path


@pytest.fixture
def machine_fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of this machine's fonts: what lies there when one is asked for first, and nothing else."""
    folder = tmp_path / "fonts"
    folder.mkdir()
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(file) for file in folder.iterdir()])
    fonts._others.cache_clear()
    yield folder
    fonts._others.cache_clear()


def test_a_name_in_another_script_is_drawn_with_a_font_that_has_it(machine_fonts: Path) -> None:
    (machine_fonts / "broken.ttf").write_bytes(b"no font")
    small_font(machine_fonts / "LastResort.otf", "狗猫")  # a box for everything
    small_font(machine_fonts / "half.ttf", "狗")
    whole = small_font(machine_fonts / "small.ttf", "狗猫,is (.%)0123456789")
    for text in ("狗", "狗 猫", "狗 (93.1%), is 猫"):
        assert fonts.drawable(text) == ((machine_fonts / "half.ttf") if text == "狗" else whole, text)
    assert fonts.drawable("Größe, собака, σκύλος") == (fonts.default_font(), "Größe, собака, σκύλος")
    font, lines = drawing._lines("狗 (93.1%), is 猫")
    assert font.getname() == ("Small", "Regular")
    assert "".join(lines) == "狗 (93.1%), is 猫"


def test_a_name_that_no_font_has_is_written_in_ascii_and_not_as_boxes(
    machine_fonts: Path, recwarn: pytest.WarningsRecorder
) -> None:
    assert fonts.drawable("狗 dog") == (fonts.default_font(), "\\u72d7 dog")
    image = drawing.draw_confusion(np.eye(2), ["狗", "猫"])
    assert np.array_equal(np.asarray(image), np.asarray(drawing.draw_confusion(np.eye(2), ["\\u72d7", "\\u732b"])))
    mistakes = drawing.draw_mistakes(photos(1), ["狗 (93.1%), is 猫"])
    assert mistakes is not None
    assert np.array_equal(
        np.asarray(mistakes), np.asarray(drawing.draw_mistakes(photos(1), ["\\u72d7 (93.1%), is \\u732b"]))
    )
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]


def test_a_confusion_uses_the_font_that_has_the_name(machine_fonts: Path, recwarn: pytest.WarningsRecorder) -> None:
    small_font(machine_fonts / "small.ttf", "狗猫")
    image = np.asarray(drawing.draw_confusion(np.eye(2), ["狗", "dog"]))
    assert not np.array_equal(image, np.asarray(drawing.draw_confusion(np.eye(2), ["\\u72d7", "dog"])))
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: plots.write_curves(path, classifier_rows(70)),
        *slow(lambda path: written(path, drawing.draw_confusion, confusion(10), NAMES)),
        lambda path: written(path, drawing.draw_mistakes, photos(2), ["cat, not dog 99 %"] * 2),
    ],
    ids=["curves", "confusion", "mistakes"],
)
def test_the_same_input_gives_the_same_bytes_and_a_failure_leaves_them(
    path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    write(path)
    before = path.read_bytes()
    write(path)
    assert path.read_bytes() == before

    def broken(self: Image.Image, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="no space"):
        write(path)
    assert path.read_bytes() == before


def test_the_sparkline_of_one_cycle_is_a_triangle() -> None:
    values = [0.4 * (step / 8 if step < 8 else (16 - step) / 8) for step in range(17)]
    assert plots.sparkline(values, width=17, height=4).splitlines() == [
        "0.4 ┤       ▄█▄",
        "    ┤     ▄█████▄",
        "    ┤   ▄█████████▄",
        "  0 ┤▁▄█████████████▄▁",
    ]


@pytest.mark.parametrize("values", [[0.1] * 50, [0.1], [math.nan, 0.1, math.inf]])
def test_the_sparkline_of_one_value_is_level(values: list[float]) -> None:
    assert plots.sparkline(values, width=10) == "0.1 ┤▄▄▄▄▄▄▄▄▄▄"


@pytest.mark.parametrize("values", [[], [math.nan]])
def test_the_sparkline_of_nothing_is_empty(values: list[float]) -> None:
    assert plots.sparkline(values) == ""


@pytest.mark.parametrize("values", [[1.0, 2.0], [-1.23456e-5, -1.23456e-300], list(range(100_000))])
@pytest.mark.parametrize(("width", "height"), [(60, 8), (20, 3), (1, 1)])
def test_the_sparkline_stays_within_its_width_and_names_the_extremes(
    values: list[float], width: int, height: int
) -> None:
    lines = plots.sparkline(values, width, height).splitlines()
    assert len(lines) == max(2, height)
    assert all(len(line) <= width + 12 for line in lines)
    assert [float(line.split("┤")[0]) for line in (lines[0], lines[-1])] == pytest.approx(
        [max(values), min(values)], rel=0.01
    )


@pytest.mark.slow
def test_matplotlib_is_loaded_by_the_first_plot_without_windows_and_keeps_its_settings(path: Path) -> None:
    code = """if True:
        import pathlib, sys
        from trainers.drawing import plots
        plots.sparkline([1, 2])
        assert "matplotlib" not in sys.modules
        import matplotlib
        names = set(matplotlib.rcParams) - {"backend"}  # to read that one would choose it
        before = {name: matplotlib.rcParams[name] for name in names}
        plots.write_curves(pathlib.Path(sys.argv[1]), [{"step": 1, "loss": 2.0}])
        assert "matplotlib.pyplot" not in sys.modules
        assert {name: matplotlib.rcParams[name] for name in names} == before
    """
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[2], check=True)
    assert size_of(path) == (900, PANEL)
