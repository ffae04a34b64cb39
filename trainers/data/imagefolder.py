"""`imagefolder:PATH`: any folder of images, packed once into mapped files under the data folder.

<data_dir>/packed/KEY/   images.bin       uint8, images x size x size x channels
                         labels.npy       int64, 0 where the folder has none
                         parts.npy        uint8: the split of each image (splitting.py)
                         unreadable.txt   images that were skipped, and why
                         packed.json      the source, and facts about it
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainers.base.errors import CONFLICT, ENVIRONMENT, USAGE, TroupeError
from trainers.base.paths import expanded, in_utf8, printable
from trainers.base.problems import Problem
from trainers.data.image_folders import splitting, unreadable, values
from trainers.data.image_folders.decoding import decode, extensions, is_grey
from trainers.data.image_folders.layout import ImageFile, Layout, arranged, count_by_kind, scan_folder
from trainers.data.image_folders.levels import level_below
from trainers.data.images import ImageData, Part, Request, Source, fingerprint
from trainers.data.packed import read_array
from trainers.storage import atomic_files, ownership
from trainers.storage.file_locks import Lock, LockHeld

AUTO_SIZE = 64
WHAT, PARTIAL = "a packed folder of images", "a folder of images that is being packed"  # in the marks of folders
FILES = {"images.bin", "labels.npy", "parts.npy", "unreadable.txt", "packed.json"}
FACTS = {  # in packed.json, besides those that check its files
    "fingerprint", "class_names", "unreadable", "reasons", "lost", "values", "narrow_values", "value_range", "parts",
    "strays", "learned_too",
}  # fmt: skip


def open_folder(request: Request) -> ImageData:
    """Open a folder of images; pack it first if it is not packed, or has changed since."""
    value = f"imagefolder:{printable(request.argument)}"
    setting = f"data={value}"
    root, layout = expanded(request.argument).resolve(), None
    if not os.path.isdir(root):
        hint = "give the path of a folder"
        if os.path.exists(root):
            raise TroupeError(Problem("bad-value", "data", "is not a folder", hint, value), USAGE)
        raise TroupeError(Problem("missing-folder", "data", "no such folder", hint, value), ENVIRONMENT)
    size = request.image_size or AUTO_SIZE
    cache = request.data_dir / "packed" / _key(str(root), size, request.value_range)
    facts = _facts_of(cache)
    if facts is None or request.fingerprint is None or facts["fingerprint"] != request.fingerprint:
        layout = _layout_of(root, request, value)
        facts = _facts_of(cache, layout)
        if facts is None:
            facts = _packed(root, layout, size, cache, request, value)
    for line in _warnings(facts, cache, request.value_range):
        request.warn(f"{setting}: {line}")
    return _opened(cache, facts, layout, request.evaluate_on)


def _layout_of(root: Path, request: Request, value: str) -> Layout:
    """The contents of a folder; warns about what is left out."""
    scan = scan_folder(root)
    if not scan.images:
        others = [count_by_kind(scan.passed)] if scan.passed else []
        others += [f"the system folder {printable(name)}" for name in sorted(scan.system)]
        reason = f"contains no images (only {', '.join(others)})" if others else "contains no images"
        hint = f"known extensions are {', '.join(extensions())}"
        raise TroupeError(Problem("no-images", "data", reason, hint, value), ENVIRONMENT)
    layout = arranged(scan, value, request.folders)
    lines = [f"skipped files that are not images: {count_by_kind(scan.passed)}"] if scan.passed else []
    lines += [
        f"the {count} images of its folder {printable(name)} are left out: it is not a training or test split"
        if name
        else f"the {count} images beside its folders are left out: they are in no split"
        for name, count in layout.left_out.items()
    ]
    if scan.links:
        links = [f"{printable(link)} -> {printable(target)}" for link, target in sorted(scan.links.items())]
        links[3:] = ["..."] * (len(links) > 3)
        lines.append(f"skipped links to folders that are already in it: {', '.join(links)}")
    if not layout.parts and (below := level_below(scan)):
        lines.append(
            f"all of its images are in one folder; use data={value}/{printable(below)} for the folders in that"
        )
        layout = layout._replace(bare={})  # what is next to that folder is not a class
    for line in lines:
        request.warn(f"data={value}: {line}")
    return layout


def _packed(root: Path, layout: Layout, size: int, cache: Path, request: Request, value: str) -> dict[str, Any]:
    """Pack a folder, unless another process has packed it meanwhile."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with Lock(cache.with_suffix(".lock")):  # other processes wait, and find the folder packed
            return _facts_of(cache, layout) or _pack(root, layout, size, cache, request)
    except OSError as error:
        reason = f"cannot be packed under {cache.parent} ({error.strerror or error})"
        hint = "free space there, or set another folder with --data-dir"
        raise TroupeError(Problem("not-written", "data", reason, hint, value), ENVIRONMENT) from error


def _warnings(facts: Mapping[str, Any], cache: Path, value_range: values.Range) -> list[str]:
    """Notices for the user about packed images."""
    lines = []
    if count := facts["unreadable"]:
        skipped = "1 unreadable image was skipped" if count == 1 else f"{count} unreadable images were skipped"
        lists = f"{cache / 'unreadable.txt'} lists them"
        ways = [f"; {way}" for way in [unreadable.way_out(facts["reasons"])] if way]
        lines.append("".join([f"{unreadable.summary(facts['reasons'])}: {skipped}; {lists}", *ways]))
    if facts["learned_too"]:
        lines.append(f"{facts['learned_too']} images to evaluate on are also training images")
    return lines + values.lines(facts["values"], value_range) + values.mixed_lines(facts["narrow_values"])


def _opened(cache: Path, facts: Mapping[str, Any], layout: Layout | None, evaluate_on: str) -> ImageData:
    """A packed folder; `layout`, if the folder was scanned, lists class folders without an image."""
    shape = (facts["images"], facts["image_size"], facts["image_size"], facts["channels"])
    images = np.memmap(cache / "images.bin", np.uint8, "r", shape=shape)
    labels = read_array(cache / "labels.npy") if facts["class_names"] else None
    codes, parts = read_array(cache / "parts.npy"), facts["parts"]
    train_rows, held_out = splitting.rows_for(codes, evaluate_on, parts)
    if not len(train_rows):
        raise _none_read("none of the training images", facts["reasons"], facts["source"])
    lost = dict(layout.bare) if layout else {}
    if labels is not None:
        read = np.bincount(labels[codes != splitting.TEST], minlength=len(facts["class_names"]))
        lost |= {
            name: "; ".join(["none of its images can be read", *_reasons(facts["lost"].get(name, {}))])
            for name, count in zip(facts["class_names"], read, strict=True)
            if not count
        }
    everything = Part(images, labels)
    more: dict[str, Any] = {"own_validation": True} if splitting.has_own_validation(parts) else {}
    more |= {key: facts[key] for key in ("strays", "learned_too", "value_range") if facts[key]}
    if parts and facts["reasons"] and not len(held_out):
        more["unread_held_out"] = ", ".join(sorted(facts["reasons"]))
    if layout and layout.links:
        more["links"] = layout.links
    return ImageData(
        everything,
        everything,
        rows=(train_rows, held_out),
        fingerprint=facts["fingerprint"],
        class_names=facts["class_names"],
        lost_classes=lost,
        facts=more,
    )


def _reasons(reasons: Mapping[str, int]) -> list[str]:
    return [unreadable.summary(reasons)] if reasons else []


def _none_read(which: str, reasons: Mapping[str, int], source: object) -> TroupeError:
    why, value = "".join(f" ({cause})" for cause in _reasons(reasons)), f"imagefolder:{printable(str(source))}"
    reason = f"{which} can be read{why}"
    return TroupeError(Problem("no-images", "data", reason, unreadable.way_out(reasons), value), ENVIRONMENT)


SOURCES = {
    "imagefolder": Source(
        "imagefolder",
        "any folder of images, or of splits train and test; 64x64 unless image_size is set; use imagefolder:PATH",
        open_folder,
        takes_path=True,
    )
}


def cached(data_dir: Path) -> list[tuple[str, int, Path]]:
    """(source folder, bytes, path) of each packed folder."""
    entries = []
    packed = data_dir / "packed"
    for folder in sorted(packed.iterdir()) if os.path.isdir(packed) else ():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # renamed meanwhile, or a lock file
            count = sum(file.stat().st_size for file in folder.iterdir())
            entries.append((_source_of(folder), count, folder))
    return entries


def _source_of(folder: Path) -> str:
    """The folder that this one was packed from, if known."""
    try:
        return str(json.loads((folder / "packed.json").read_text(encoding="utf-8"))["source"])
    except FileNotFoundError:
        return "(unfinished)"
    except (OSError, ValueError, KeyError, TypeError):
        return "(damaged)"


def remove_packed_folder(folder: Path) -> None:
    """Remove a packed folder from `cached`. Raises TroupeError: exit code 4 for one that is being packed, or is not
    proved to be packed by this user's troupe; 3 if its disk fails."""
    try:
        with Lock(folder.with_suffix(".lock"), patience=0):
            if not _cleared(folder):
                raise _not_ours(folder)
    except LockHeld:
        reason, hint = "is currently being packed", "wait for that run"
        raise TroupeError(Problem("held", str(folder), reason, hint), CONFLICT) from None
    except OSError as error:
        reason = f"cannot be removed ({error.strerror or error})"
        raise TroupeError(Problem("not-written", str(folder), reason), ENVIRONMENT) from error


def _cleared(folder: Path) -> bool:
    """Remove a packed folder; returns whether nothing is left. Its mark proves that it is one, or, from an older
    troupe, a packed.json whose source and size match the folder's name."""
    if ownership.remove_marked(folder, WHAT):
        return True
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        facts = json.loads((folder / "packed.json").read_text(encoding="utf-8"))
        named = _key(facts["source"], facts["image_size"], "auto") == folder.name and facts["fingerprint"]
        if named and os.lstat(folder).st_uid == os.geteuid() and {*os.listdir(folder)} <= FILES:
            shutil.rmtree(folder, ignore_errors=True)
    return not os.path.lexists(folder)


def _not_ours(folder: Path) -> TroupeError:
    reason = "was not packed by troupe, or is damaged or another user's"
    return TroupeError(Problem("not-ours", str(folder), reason, "remove it manually"), CONFLICT)


def _key(root: str, size: int, value_range: values.Range) -> str:
    """The name of the packed folder of a folder of images at a size."""
    return fingerprint(in_utf8(root), size, *_besides(value_range))[:16]


def _besides(value_range: values.Range) -> list[Any]:
    """What a range of values adds to a name or a fingerprint: nothing for `auto`."""
    ends = value_range if isinstance(value_range, str) else [float(end) for end in value_range]
    return [] if ends == "auto" else [{"value_range": ends}]


def _digest(listing: Sequence[ImageFile]) -> str:
    return fingerprint([image._replace(path=in_utf8(image.path)) for image in listing])


def _facts_of(cache: Path, layout: Layout | None = None) -> dict[str, Any] | None:
    """The contents of packed.json, if its files are complete and, if a `layout` is given, were made from the same."""
    try:
        facts: dict[str, Any] = json.loads((cache / "packed.json").read_text(encoding="utf-8"))
        size = facts["images"] * facts["image_size"] ** 2 * facts["channels"]
        intact = (cache / "images.bin").stat().st_size == size and facts.keys() >= FACTS
        return facts if intact and (layout is None or _made_of(layout).items() <= facts.items()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or damaged: it is packed again
        return None


def _made_of(layout: Layout) -> dict[str, Any]:
    """The part of packed.json that describes a layout."""
    return {
        "listing": _digest(layout.images),
        "class_names": [printable(name) for name in layout.classes],
        "parts": layout.parts,
        "strays": [printable(path) for path in layout.strays[:3]] + (["..."] if len(layout.strays) > 3 else []),
    }


def _pack(root: Path, layout: Layout, size: int, cache: Path, request: Request) -> dict[str, Any]:
    """Pack the folder under another name, then rename it; first clear what a killed process left."""
    ownership.remove_stale(cache.parent, f"{cache.name}.partial-*", PARTIAL)
    with ownership.working_folder(cache.with_suffix(".partial"), PARTIAL) as partial:
        with warnings.catch_warnings(action="ignore"):  # Pillow's, about images that it still reads
            facts = _write(root, layout, size, partial, request)
        for file in (*partial.iterdir(), partial):  # else a power failure might leave zeros of the right size
            atomic_files.sync(file)
        if not _cleared(cache):
            raise _not_ours(cache)
        partial.rename(cache)
        ownership.unmark(cache)
        ownership.mark(cache, WHAT)
        atomic_files.sync(cache.parent)
    return facts


class _Lost(NamedTuple):
    """An image that cannot be read."""

    image: ImageFile
    reason: str
    error: str


def _write(root: Path, layout: Layout, size: int, target: Path, request: Request) -> dict[str, Any]:
    """Write the images one after another, with only one in memory."""
    listing, names, parts = layout.images, layout.classes, layout.parts
    channels = 1 if all(is_grey(root / image.path) for image in listing) else 3
    if shutil.disk_usage(target).free < len(listing) * size * size * channels:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    digests, lost, seen = list[tuple[str, str]](), list[_Lost](), values.Values()
    with open(target / "images.bin", "wb") as images:
        for done, listed in enumerate(listing, start=1):
            content = b""
            try:
                content = (root / listed.path).read_bytes()
                image = decode(content, size, channels, request.value_range, seen)
            except Exception as error:  # Pillow raises almost any exception for damaged images
                lost.append(
                    _Lost(listed, unreadable.reason_unreadable(error, content), f"{type(error).__name__}: {error}")
                )
            else:
                images.write(image.tobytes())
                digests.append((listed.text, hashlib.sha256(content).hexdigest()))
            request.progress(done, len(listing))
    reasons = Counter(one.reason for one in lost)
    if not digests:
        raise _none_read(f"none of its {len(listing)} images", reasons, root)
    level = 1 if parts else 0
    places = {name: place for place, name in enumerate(names)}
    labels = [places[path.split("/")[level]] for path, _ in digests] if names else [0] * len(digests)
    lost_of: dict[str, Counter[str]] = {}
    for one in lost if names else ():
        lost_of.setdefault(printable(one.image.text.split("/")[level]), Counter())[one.reason] += 1
    hashes = [digest for _, digest in digests]
    folders = [path.partition("/")[0] for path, _ in digests]
    codes = splitting.split(folders, hashes, labels if names else None, parts)
    made_of = _made_of(layout)
    how = [parts] if parts else ["a tenth of each class"] if names else []  # which images are held out
    facts = {
        **made_of,
        "source": str(root),
        "image_size": size,
        "channels": channels,
        "images": len(digests),
        "unreadable": len(lost),
        "reasons": reasons,
        "lost": lost_of,
        "values": seen.ranges(),
        "narrow_values": seen.narrow(request.value_range),
        "value_range": None if request.value_range == "auto" else request.value_range,
        "learned_too": splitting.count_in_both(codes, hashes, parts) if parts else 0,
        "fingerprint": fingerprint(
            digests, made_of["class_names"], channels, size, *how, *_besides(request.value_range)
        ),
    }
    np.save(target / "labels.npy", np.array(labels, np.int64))
    np.save(target / "parts.npy", codes)
    report = "".join(f"{printable(one.image.text)}\t{one.reason}\t{printable(one.error)}\n" for one in lost)
    (target / "unreadable.txt").write_text(report, encoding="utf-8")
    (target / "packed.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return facts
