"""Grids and timelapses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainers.drawing import pictures
from trainers.drawing.pictures import GAP


def flat(count: int, height: int, width: int, channels: int) -> np.ndarray:
    """Images of one shade each: 1, 2, 3, ..."""
    shades = np.arange(1, count + 1, dtype=np.uint8)
    return np.broadcast_to(shades[:, None, None, None], (count, height, width, channels)).copy()


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 2, 2), (5, 3, 2), (64, 8, 8), (65, 9, 8)]
)
def test_images_are_laid_out_on_a_square_as_near_as_can_be(count: int, columns: int, rows: int) -> None:
    height, width = 5, 4
    sheet = np.asarray(pictures.grid(flat(count, height, width, 1)))
    assert sheet.shape == (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP)
    for place in range(rows * columns):
        top = GAP + place // columns * (height + GAP)
        left = GAP + place % columns * (width + GAP)
        cell = sheet[top : top + height, left : left + width]
        assert (cell == (place + 1 if place < count else 0)).all()
        sheet = sheet.copy()
        sheet[top : top + height, left : left + width] = 0
    assert not sheet.any()  # nothing between the cells


def test_grey_images_give_a_grey_grid_and_colour_images_one_in_colour() -> None:
    assert pictures.grid(flat(4, 3, 3, 1)).mode == "L"
    colours = flat(4, 3, 3, 3)
    colours[..., 1] = 77
    sheet = pictures.grid(colours)
    assert sheet.mode == "RGB"
    assert sheet.getpixel((GAP, GAP)) == (1, 77, 1)


def test_a_grid_is_written_as_png_with_every_pixel_magnified(tmp_path: Path) -> None:
    sheet = pictures.grid(flat(4, 3, 3, 1))
    pictures.write_picture(tmp_path / "plain.png", sheet)
    pictures.write_picture(tmp_path / "large.png", sheet, magnify=3)
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "large.png") as large:
        assert plain.format == large.format == "PNG"
        assert np.array_equal(np.asarray(plain), np.asarray(sheet))
        assert np.array_equal(np.asarray(large), np.asarray(sheet).repeat(3, 0).repeat(3, 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.png", "plain.png"]


def test_a_png_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = pictures.grid(flat(1, 3, 3, 1))
    pictures.write_picture(tmp_path / "grid.png", sheet)
    before = (tmp_path / "grid.png").read_bytes()

    def broken(self: Image.Image, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="no space"):
        pictures.write_picture(tmp_path / "grid.png", sheet)
    assert (tmp_path / "grid.png").read_bytes() == before


def frames_of(path: Path) -> tuple[list[int], list[int]]:
    """(shade of the first cell, milliseconds) of each frame."""
    shades, durations = [], []
    with Image.open(path) as film:
        assert film.format == "GIF"
        assert film.info["loop"] == 0  # endless
        for place in range(getattr(film, "n_frames", 1)):
            film.seek(place)
            shades.append(int(np.asarray(film.convert("L"))[GAP, GAP]))
            durations.append(int(film.info["duration"]))
    return shades, durations


def sheets(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"step_{number:08d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pictures.write_picture(path, pictures.grid(np.full((1, 4, 4, 1), 10 + number, np.uint8)))
    return paths


@pytest.mark.parametrize(("count", "each"), [(2, 400), (40, 150)])
def test_a_timelapse_shows_every_grid_and_rests_on_the_last(tmp_path: Path, count: int, each: int) -> None:
    pictures.write_timelapse(tmp_path / "timelapse.gif", sheets(tmp_path, count))
    shades, durations = frames_of(tmp_path / "timelapse.gif")
    assert shades == list(range(10, 10 + count))
    assert durations == [each] * (count - 1) + [1500]


def test_a_timelapse_of_one_grid_is_a_picture(tmp_path: Path) -> None:
    pictures.write_timelapse(tmp_path / "timelapse.gif", sheets(tmp_path, 1))
    with Image.open(tmp_path / "timelapse.gif") as film:
        assert getattr(film, "n_frames", 1) == 1


@pytest.mark.parametrize("count", [20, 21, 25, 30, 41])
def test_a_timelapse_of_many_grids_takes_some_and_always_the_last(tmp_path: Path, count: int) -> None:
    pictures.write_timelapse(tmp_path / "timelapse.gif", sheets(tmp_path, count), most=20)
    shades, _ = frames_of(tmp_path / "timelapse.gif")
    assert 10 <= len(shades) <= 20
    assert shades[-1] == 10 + count - 1
    assert len(set(np.diff(shades))) == 1  # at even distances


def test_there_is_no_timelapse_of_nothing(tmp_path: Path) -> None:
    pictures.write_timelapse(tmp_path / "timelapse.gif", [])
    assert list(tmp_path.iterdir()) == []
