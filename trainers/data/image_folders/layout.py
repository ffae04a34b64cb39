"""The contents of a folder of images, before any is opened: its files, and which folders are classes or splits."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.base.paths import printable
from trainers.base.problems import Problem
from trainers.data.image_folders.ambiguous import (
    either,
    is_complete,
    names_of,
    refuse_ambiguous,
    refuse_ambiguous_classes,
    splits_of,
)
from trainers.data.image_folders.decoding import extensions, is_image_format
from trainers.data.image_folders.folder_names import TRAIN, of_system, part_kinds, perhaps_of_system, placed, text_of

EVICTED = "not downloaded from iCloud"  # such a file is replaced by a hidden `.NAME.icloud`
BROKEN, SPECIAL = "broken links", "special files"


class ImageFile(NamedTuple):
    """An image of the folder; it is packed again if its size or time of change differs."""

    path: str  # within the folder, with /
    size: int
    changed: int  # nanoseconds

    @property
    def text(self) -> str:
        """The path as text that is the same on every disk."""
        return text_of(self.path)


class ScanResult(NamedTuple):
    """The contents of a folder. Paths are texts that are the same on every disk, except those of images."""

    images: list[ImageFile]
    passed: dict[str, int]  # number of files that are not images by their names, by extension
    holds: dict[str, Counter[str]]  # the same for each folder of the first two levels
    links: dict[str, str]  # links to folders that were found in another place, and that place
    system: set[str]  # names of system folders, which were skipped


class Layout(NamedTuple):
    """How the images of a folder are arranged."""

    images: list[ImageFile]  # for training or evaluation
    parts: dict[str, str]  # folders that are splits: train, and test or validation; {} if there are none
    classes: list[str]  # names of folders, in the order of the labels; [] for images without labels
    strays: list[str]  # images next to folders of images, which are therefore not classes
    bare: dict[str, str]  # class folders without an image, and what they contain instead
    links: list[str]  # `val -> train`, if both should be separate splits or classes
    left_out: dict[str, int]  # folders used neither for training nor for evaluation, and their number of images


def scan_folder(root: Path) -> ScanResult:
    """Every image below `root`, sorted, and what else is there, without hidden and system files.

    Links are followed after all folders: images that a folder and a link lead to have the path in the folder.
    Raises TroupeError (exit code 3) if a folder cannot be read: its images would be missing silently.
    """
    scanner = _Scanner(root)
    scanner.through(root)
    while scanner.waiting:
        scanner.waiting.sort(key=text_of)
        scanner.follow(Path(scanner.waiting.pop(0)))
    images = sorted(scanner.images, key=lambda image: (image.text, image.path))
    return ScanResult(images, dict(scanner.passed), scanner.holds, scanner.links, scanner.system)


class _Scanner:
    """One scan of a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: list[ImageFile] = []
        self.passed, self.system = Counter[str](), set[str]()
        self.holds: dict[str, Counter[str]] = {}
        self.seen: dict[str, str] = {}  # real paths of folders, and the text of the path by which they were found
        self.links: dict[str, str] = {}
        self.waiting: list[str] = []  # links to folders

    def through(self, top: Path) -> None:
        """Record the files in and below a folder, and the links to folders."""
        for folder, folders, files in os.walk(top, onerror=_refuse):
            real = os.path.realpath(folder)
            if real in self.seen:
                folders.clear()
                continue
            parts = Path(folder).relative_to(self.root).parts
            self.seen[real] = text_of("/".join(parts))
            self.system.update(text_of(name) for name in folders if not name.startswith(".") and of_system(name, True))
            visible = [name for name in folders if not of_system(name, True)]
            self.waiting += [link for name in visible if os.path.islink(link := os.path.join(folder, name))]
            folders[:] = [name for name in visible if not os.path.islink(os.path.join(folder, name))]
            above = [text_of("/".join(parts[:level])) for level in (1, 2) if len(parts) >= level]
            for parent in above:
                self.holds.setdefault(parent, Counter())
            for name in files:
                self._file(Path(folder, name), above)

    def _file(self, path: Path, above: Sequence[str]) -> None:
        name = path.name
        if name.startswith(".") and name.endswith(".icloud"):
            kind = EVICTED
        elif of_system(name, False):
            return
        elif name.lower().rpartition(".")[2] in extensions() and path.is_file():
            state = path.stat()
            self.images.append(ImageFile(path.relative_to(self.root).as_posix(), state.st_size, state.st_mtime_ns))
            return
        else:
            kind = printable(f".{name.rpartition('.')[2].lower()}" if "." in name else name)
        if kind != EVICTED and not path.is_file():
            kind = BROKEN if path.is_symlink() else SPECIAL
        self.passed[kind] += 1
        for parent in above:
            self.holds[parent][kind] += 1

    def follow(self, link: Path) -> None:
        """Record what a link leads to, unless it is known; circular links are ignored."""
        real, parent = Path(os.path.realpath(link)), Path(os.path.realpath(link.parent))
        if str(real) not in self.seen:
            self.through(link)
        elif not parent.is_relative_to(real):
            self.links[text_of(link.relative_to(self.root).as_posix())] = self.seen[str(real)]


def _refuse(error: OSError) -> None:
    reason, hint = f"cannot be read ({error.strerror})", "its images would be missing"
    raise TroupeError(Problem("not-read", printable(error.filename), reason, hint), ENVIRONMENT)


def count_by_kind(kinds: Mapping[str, int], most: int = 5) -> str:
    """`12 .txt, 3 .psd, 1 broken links`, the most frequent first: all reasons why images are left out, and the most
    frequent of other files."""
    order = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    others = [kind for kind, _ in order if kind not in (EVICTED, BROKEN, SPECIAL) and not is_image_format(kind)]
    hidden = set(others[most:]) if len(others) > most + 1 else set()
    rest = [f"{sum(kinds[kind] for kind in hidden)} others"] if hidden else []
    return ", ".join([f"{count} {kind}" for kind, count in order if kind not in hidden] + rest)


def arranged(scan: ScanResult, data: str, folders: str = "auto") -> Layout:
    """Which folders are splits and which are classes, by their names or by the setting `folders`.

    Raises TroupeError (exit code 3), with the `data` that named the folder, if they may be either, or if splits have
    different classes.
    """
    texts = [image.text for image in scan.images]
    parts, left_out = _parts(texts, data, folders)
    kept = [image for image in scan.images if _first_folder(image.text) not in left_out]
    if not parts:
        classes, strays = _classes(texts)
        return Layout(kept, {}, classes, strays, _bare(scan, texts, "", folders), _links(scan, {}), left_out)
    inside = {name: [path.partition("/")[2] for path in texts if path.startswith(f"{name}/")] for name in parts}
    every = {name: _classes(paths_inside) for name, paths_inside in inside.items()}
    strays = [f"{name}/{path}" for name, (_, beside) in every.items() for path in beside]
    if strays:
        return Layout(kept, parts, [], strays, {}, _links(scan, parts), left_out)
    train = next(name for name, part in parts.items() if part == TRAIN)
    if folders == "auto":
        for name, (classes, _) in every.items():
            refuse_ambiguous_classes(name, classes, data)
    if any(classes for classes, _ in every.values()):
        _refuse_unlike(
            {
                name: {path.partition("/")[0] for path in paths_inside if "/" in path}
                for name, paths_inside in inside.items()
            },
            train,
            data,
        )
    bare = _bare(scan, texts, f"{train}/", folders)
    return Layout(kept, parts, every[train][0], [], bare, _links(scan, parts), left_out)


def _parts(paths: Sequence[str], data: str, folders: str) -> tuple[dict[str, str], dict[str, int]]:
    """The first-level folders that are splits, and which; and those that are left out, with their number of images.

    Raises TroupeError if their names do not show what they are.
    """
    counts = Counter(map(_first_folder, paths))
    kinds = placed(part_kinds(sorted(name for name in counts if name), short=folders == "parts"))
    if "" in counts:
        kinds[""] = ""  # images beside all folders
    if folders == "classes":
        return {}, {}
    if folders == "auto":
        refuse_ambiguous(paths, kinds, data)
        if "" in kinds.values() or len(kinds) < 2:
            return {}, {}
    parts = splits_of(kinds)
    instead = "leave folders=parts out" if folders == "parts" else "use folders=classes if all are classes"
    for kind in parts.values():
        if len(same := [other for other in parts if parts[other] == kind]) > 1:
            raise either(f"{names_of(same)} have names of the same split", f"merge them, or {instead}", data)
    if TRAIN not in parts.values():
        raise either(f"{names_of(kinds)} include no training split", instead, data)
    if not is_complete(parts):
        (name,) = parts
        hint = f"use data={data}/{printable(name)}, which holds out a tenth, or {instead}"
        raise either(f"{names_of(kinds)} include no test or validation split", hint, data)
    return parts, {name: counts[name] for name in kinds if name not in parts}


def _first_folder(path: str) -> str:
    """The first-level folder of a file, "" for one that is in none."""
    return path.partition("/")[0] if "/" in path else ""


def parts_or_classes(paths: Sequence[str]) -> bool:
    """Whether images with such paths have labels, or splits, by their folders."""
    return bool(_classes([text_of(path) for path in paths])[0])


def _classes(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """First-level folders, if every image is in one and there are two or more; else the images next to those."""
    first = {PurePosixPath(path).parts[0] for path in paths if "/" in path}
    strays = [path for path in paths if "/" not in path]
    if len(first) < 2:
        return [], []
    return ([], strays) if strays else (sorted(first), [])


def _bare(scan: ScanResult, texts: Sequence[str], part: str, folders: str) -> dict[str, str]:
    """Folders of a split (`train/`, or "" for all) that contain no image, if each image is in some folder; without
    those that a system may have made."""
    paths = [path.removeprefix(part) for path in texts if path.startswith(part)]
    if any("/" not in path for path in paths):
        return {}
    filled = {path.partition("/")[0] for path in paths}
    kinds = {
        folder.removeprefix(part): kinds
        for folder, kinds in scan.holds.items()
        if folder.startswith(part) and folder.count("/") == part.count("/")
    }
    ignored = filled if folders == "classes" else filled.union(perhaps_of_system(kinds))
    return {
        printable(name): f"it holds {count_by_kind(content)}" if content else "it is empty"
        for name, content in kinds.items()
        if name not in ignored
    }


def _links(scan: ScanResult, parts: Mapping[str, str]) -> list[str]:
    """Links in the place of splits or classes that lead to another of these; a link for another name of the same split
    is harmless."""
    lines = []
    for link, target in sorted(scan.links.items()):
        name, other = PurePosixPath(link).name, PurePosixPath(target).name
        kinds = part_kinds({name, other})
        level = 2 if link.partition("/")[0] in parts else 1
        if link.count("/") < level and not (kinds[name] and kinds[name] == kinds[other]):
            lines.append(f"{printable(link)} -> {printable(target)}")
    return lines


def _refuse_unlike(classes: Mapping[str, set[str]], train: str, data: str) -> None:
    """Raise TroupeError, with the differences, if a split has other classes than the training split."""
    differ = []
    for name in classes.keys() - {train}:
        for where, only in ((train, classes[train] - classes[name]), (name, classes[name] - classes[train])):
            names = ", ".join([*map(printable, sorted(only)[:8]), *(["..."] if len(only) > 8 else [])])
            differ += [f"only its folder {where} has images of {names}"] if only else []
    if differ:
        reason = "; ".join(sorted(differ))
        hint = f"its splits must have the same classes; or use data={data}/{printable(train)}, which holds out a tenth"
        raise TroupeError(Problem("parts-differ", "data", reason, hint, data), ENVIRONMENT)
