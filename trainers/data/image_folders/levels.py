"""Finds the labels of a folder of images that has none: some levels below it, or above."""

from __future__ import annotations

import os
from pathlib import Path

from trainers.base.errors import TroupeError
from trainers.base.paths import printable
from trainers.data.image_folders.decoding import extensions
from trainers.data.image_folders.folder_names import TRAIN, of_system, part_kinds
from trainers.data.image_folders.layout import ScanResult, parts_or_classes, scan_folder

SCAN_LIMIT = 2000  # files and folders of a neighbour to check, at most, before it counts as one without images


def where_labels_are(data: str) -> str:
    """What to use instead of this `data=imagefolder:PATH`, which has no labels; "" if nothing is found."""
    name, _, path = data.partition(":")
    root = Path(path)
    try:
        scan = scan_folder(root)
    except TroupeError:
        return ""
    if below := level_below(scan):
        return f"use data={name}:{printable(root / below)}"
    if deeper := _parts_below_parts(scan):
        return f"its classes are one level deeper, in {deeper}: move them up"
    if above := _above(root):
        return f"if it is one of several classes, use data={name}:{printable(above)}"
    return ""


def level_below(scan: ScanResult) -> str:
    """The only folder that has images, or the only one in that, and so on, down to one with splits or classes; "" if
    there is none."""
    paths, nested = [image.path for image in scan.images], list[str]()
    while paths and all("/" in path for path in paths) and len({path.partition("/")[0] for path in paths}) == 1:
        nested.append(paths[0].partition("/")[0])
        paths = [path.partition("/")[2] for path in paths]
    return "/".join(nested) if nested and parts_or_classes(paths) else ""


def _parts_below_parts(scan: ScanResult) -> str:
    """`train/train`, if each split contains only one folder, which has classes."""
    parts = [image.text.partition("/") for image in scan.images]
    first = {part for part, _, _ in parts}
    single = {part: {rest.partition("/")[0] for name, _, rest in parts if name == part} for part in first}
    if TRAIN not in part_kinds(sorted(first)).values() or any(len(inside) != 1 for inside in single.values()):
        return ""
    return " and ".join(sorted(f"{printable(part)}/{printable(*inside)}" for part, inside in single.items()))


def _above(folder: Path) -> Path | None:
    """The parent folder, if it has several folders with images that are classes by their names; if that is one of
    several splits, the folder of these."""
    above = folder.parent
    names = _with_images(above)
    if folder.name not in names or len(names) < 2 or all(part_kinds(names).values()):
        return None
    parts = part_kinds(_with_images(above.parent)) if part_kinds([above.name])[above.name] else {}
    complete = TRAIN in parts.values() and all(parts.values()) and len(parts) > 1
    return above.parent if complete else above


def _with_images(folder: Path) -> list[str]:
    """The folders in a folder that hold images."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not of_system(entry.name, True))
    except OSError:
        return []
    return [name for name in names[:SCAN_LIMIT] if _has_images(folder / name)]


def _has_images(folder: Path) -> bool:
    remaining = SCAN_LIMIT
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not of_system(name, True)]
        if any(_is_image(name) for name in files):
            return True
        remaining -= len(folders) + len(files)
        if remaining < 0:
            break
    return False


def _is_image(name: str) -> bool:
    return name.lower().rpartition(".")[2] in extensions() and not of_system(name, False)
