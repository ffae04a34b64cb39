"""What lies in a folder of images, before any is opened: files, classes, and parts to learn from and to evaluate on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from trainers.data.decoding import extensions
from trainers.engine.errors import SURROUNDINGS, TroupeError
from trainers.engine.paths import shown
from trainers.engine.problems import Problem

PARTS = {  # names of folders that are parts of a data set, and no classes
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "validation", "valid": "validation", "validation": "validation",
}  # fmt: skip


class Listed(NamedTuple):
    """An image of the folder; another size or time of change means that it has to be packed again."""

    path: str  # within the folder, with /
    size: int
    changed: int  # nanoseconds


class Found(NamedTuple):
    """What a folder holds."""

    images: list[Listed]
    passed: dict[str, int]  # files that are no images as far as their names tell, by the ends of those
    holds: dict[str, Counter[str]]  # the same for each folder of the first two levels


class Layout(NamedTuple):
    """How the images of a folder are arranged."""

    parts: dict[str, str]  # folders that are parts: train, and test or validation; {} where there are none
    classes: list[str]  # names of folders, in the order of the labels; [] for images without labels
    strays: list[str]  # images that lie beside folders of images, so that these are no classes
    bare: dict[str, str]  # folders of classes without an image, and what they hold instead


def look_through(root: Path) -> Found:
    """Every image below `root`, sorted, and what else is there; hidden files and folders are left out.

    Raises TroupeError (exit code 3) where a folder cannot be read: its images would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        reason, hint = f"cannot be read ({error.strerror})", "its images would be missing"
        raise TroupeError(Problem("not-read", shown(error.filename), reason, hint), SURROUNDINGS)

    known, listing, seen, passed = extensions(), [], set(), Counter[str]()
    holds: dict[str, Counter[str]] = {}
    for folder, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real in seen:  # links may lead in circles
            continue
        seen.add(real)
        within = Path(folder).relative_to(root)
        above = ["/".join(within.parts[:level]) for level in (1, 2) if len(within.parts) >= level]
        for place in above:
            holds.setdefault(place, Counter())
        for name in files:
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if name.lower().rpartition(".")[2] in known and path.is_file():
                state = path.stat()
                listing.append(Listed(path.relative_to(root).as_posix(), state.st_size, state.st_mtime_ns))
            else:
                kind = shown(f".{name.rpartition('.')[2].lower()}" if "." in name else name)
                passed[kind if path.is_file() else "broken links" if path.is_symlink() else "special files"] += 1
                for place in above:
                    holds[place][kind] += 1
    return Found(sorted(listing), dict(passed), holds)


def counted(kinds: Mapping[str, int]) -> str:
    """`12 .psd, 1 .txt`, the most first."""
    most = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join([f"{count} {kind}" for kind, count in most[:5]] + (["..."] if len(most) > 5 else []))


def arranged(found: Found, data: str) -> Layout:
    """Which folders are parts and which are classes.

    Raises TroupeError (exit code 3), with the `data` that named the folder, where parts have unlike classes.
    """
    paths = [image.path for image in found.images]
    parts = parts_of(paths)
    if not parts:
        classes, strays = _classes(paths)
        return Layout({}, classes, strays, _bare(found, ""))
    inside = {name: [path.partition("/")[2] for path in paths if path.startswith(f"{name}/")] for name in parts}
    every = {name: _classes(within) for name, within in inside.items()}
    strays = [f"{name}/{path}" for name, (_, beside) in every.items() for path in beside]
    if strays:
        return Layout(parts, [], strays, {})
    train = next(name for name, part in parts.items() if part == "train")
    if any(classes for classes, _ in every.values()):
        _refuse_unlike({name: {path.partition("/")[0] for path in within if "/" in path}
                        for name, within in inside.items()}, train, data)  # fmt: skip
    classes = every[train][0]
    return Layout(parts, classes, [], _bare(found, f"{train}/"))


def parts_of(paths: Iterable[str]) -> dict[str, str]:
    """The first-level folders that are parts, and which; {} unless all are, one of them to learn from."""
    first = {path.partition("/")[0] if "/" in path else "" for path in paths}
    parts = {name: PARTS.get(name.lower(), "") for name in sorted(first)}
    kinds = list(parts.values())
    whole = "" not in kinds and "train" in kinds and len(kinds) > 1 and len(set(kinds)) == len(kinds)
    return parts if whole else {}


def _classes(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """First-level folders, where every image lies in one and there are two or more; else the images beside those."""
    first = {PurePosixPath(path).parts[0] for path in paths if "/" in path}
    strays = [path for path in paths if "/" not in path]
    if len(first) < 2:
        return [], []
    return ([], strays) if strays else (sorted(first), [])


def _bare(found: Found, part: str) -> dict[str, str]:
    """Folders of a part (`train/`, or "" for all) that hold no image, where each image lies in some folder."""
    paths = [image.path.removeprefix(part) for image in found.images if image.path.startswith(part)]
    if any("/" not in path for path in paths):
        return {}
    filled = {path.partition("/")[0] for path in paths}
    kinds = {place.removeprefix(part): kinds for place, kinds in found.holds.items()
             if place.startswith(part) and place.count("/") == part.count("/")}  # fmt: skip
    return {
        shown(name): f"it holds {counted(held)}" if held else "it is empty"
        for name, held in kinds.items() if name not in filled
    }  # fmt: skip


def _refuse_unlike(classes: Mapping[str, set[str]], train: str, data: str) -> None:
    """Raise TroupeError where a part has other classes than the one to learn from, with what differs."""
    differ = []
    for name in classes.keys() - {train}:
        for where, only in ((train, classes[train] - classes[name]), (name, classes[name] - classes[train])):
            names = ", ".join([*map(shown, sorted(only)[:8]), *(["..."] if len(only) > 8 else [])])
            differ += [f"only its folder {where} has images of {names}"] if only else []
    if differ:
        reason, hint = "; ".join(sorted(differ)), "its parts must have the same classes"
        raise TroupeError(Problem("parts-differ", "data", reason, hint, data), SURROUNDINGS)
