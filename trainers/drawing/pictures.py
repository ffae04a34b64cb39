"""Grids of images as PNG, and a timelapse of them as GIF."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from trainers.storage import atomic_files

GAP = 2  # pixels between cells
FORMATS = {
    "": "PNG",
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}


def grid(images: np.ndarray, columns: int = 0) -> Image.Image:
    """Lay out images (count, height, width, channels), uint8, row by row; by default as square as possible."""
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    sheet = np.zeros((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), np.uint8)
    for place, image in enumerate(images):
        top, left = (
            GAP + part * (side + GAP) for part, side in zip(divmod(place, columns), (height, width), strict=True)
        )
        sheet[top : top + height, left : left + width] = image
    return Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet[:, :, :3])


def write_picture(path: Path, image: Image.Image, magnify: int = 1) -> None:
    """Write an image atomically, in the format of its suffix; PNG if it has none."""
    if magnify > 1:
        image = image.resize((image.width * magnify, image.height * magnify), Image.Resampling.NEAREST)
    kind = FORMATS[path.suffix.lower()]
    with atomic_files.replacing(path) as temporary:
        # `optimize` makes a PNG only a little smaller, and takes several times as long
        image.save(temporary, format=kind, optimize=kind != "PNG", quality=95)


def write_grid(path: Path, images: np.ndarray, columns: int = 0) -> None:
    """Write a grid of images; small images are magnified for display."""
    write_picture(path, grid(images, columns), magnify=2 if images.shape[1] <= 32 else 1)


def write_named(folder: Path, drawn: Mapping[str, Image.Image | None]) -> list[Path]:
    """Write images by name, except those that are None; returns their paths."""
    paths = {folder / f"{name}.png": picture for name, picture in drawn.items()}
    for path, picture in paths.items():
        if picture is not None:
            write_picture(path, picture)
    return [path for path, picture in paths.items() if picture is not None]


def sheet_of_texts(texts: Sequence[str]) -> str:
    """Numbered texts, one after the other."""
    return "".join(f"--- {number}\n{text}\n" for number, text in enumerate(texts, start=1))


def write_timelapse(
    path: Path,
    grids: Sequence[Path],
    heartbeat: Callable[[], None] = lambda: None,
    notify: Callable[[str], None] = lambda line: None,
    seconds: float = 6.0,
    most: int = 120,
) -> bool:
    """Write a looping GIF of at most `most` grids in `seconds`, with a pause on the last one; calls `heartbeat` for
    each.

    A damaged grid is omitted and reported. Returns whether there are any frames.
    """
    step = -(-len(grids) // most)
    frames = []
    for grid in list(grids[::-1][:: step or 1])[::-1]:  # always includes the last
        try:
            with Image.open(grid) as opened:
                frames.append(opened.convert("P", palette=Image.Palette.ADAPTIVE))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged PNGs
            notify(f"{grid.parent.name}/{grid.name}: damaged ({type(error).__name__}); the timelapse omits it")
        heartbeat()
    if not frames:
        return False
    each = max(40, min(400, round(1000 * seconds / len(frames))))
    with atomic_files.replacing(path) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            loop=0,
            duration=[each] * (len(frames) - 1) + [1500],
        )
    return True
