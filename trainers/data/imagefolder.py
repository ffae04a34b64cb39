"""`imagefolder:PATH`: any folder of images, packed once into mapped files under the data folder.

<data_dir>/packed/KEY/   images.bin       uint8, images x size x size x channels
                         labels.npy       int64, 0 where the folder has none
                         parts.npy        uint8: what is learned from and what is held out (splitting.py)
                         unreadable.txt   images that were skipped, and why
                         packed.json      what it was made of
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainers.data import splitting
from trainers.data.decoding import decode, extensions, is_grey
from trainers.data.images import ImageData, Part, Request, Source, fingerprint
from trainers.data.listing import Layout, Listed, arranged, counted, look_through
from trainers.data.packed import read_array
from trainers.engine import durable, ownership
from trainers.engine.errors import CONFLICT, SURROUNDINGS, WORDS, TroupeError
from trainers.engine.locks import Held, Lock
from trainers.engine.paths import expanded, in_utf8, shown
from trainers.engine.problems import Problem

AUTO_SIZE = 64
WHAT, PARTIAL = "a packed folder of images", "a folder of images that is being packed"  # in the marks of folders
FILES = {"images.bin", "labels.npy", "parts.npy", "unreadable.txt", "packed.json"}
FACTS = {
    "fingerprint",
    "class_names",
    "unreadable",
    "parts",
    "strays",
    "learned_too",
}  # in packed.json, besides what checks its files


def open_folder(request: Request) -> ImageData:
    """Open a folder of images, packed first where it is not, or has changed since."""
    value = f"imagefolder:{shown(request.argument)}"
    words = f"data={value}"
    root, bare = expanded(request.argument).resolve(), dict[str, str]()
    if not os.path.isdir(root):
        hint = "give the path of one"
        if os.path.exists(root):
            raise TroupeError(Problem("bad-value", "data", "is no folder", hint, value), WORDS)
        raise TroupeError(Problem("missing-folder", "data", "no such folder", hint, value), SURROUNDINGS)
    size = request.image_size or AUTO_SIZE
    cache = request.data_dir / "packed" / _key(str(root), size)
    facts = _facts_of(cache)
    if facts is None or request.fingerprint is None or facts["fingerprint"] != request.fingerprint:
        found = look_through(root)
        if found.passed:
            request.warn(f"{words}: files that are no images were passed over: {counted(found.passed)}")
        if not found.images:
            hint = f"they are known by {', '.join(extensions())}"
            raise TroupeError(Problem("no-images", "data", "holds no images", hint, value), SURROUNDINGS)
        layout = arranged(found, value)
        bare, facts = layout.bare, _facts_of(cache, found.images)
    if facts is None:
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            with Lock(cache.with_suffix(".lock")):  # others that want the same folder wait, and find it made
                facts = _facts_of(cache, found.images) or _pack(
                    root, found.images, layout, size, cache, request.progress
                )
        except OSError as error:
            reason = f"cannot be packed under {cache.parent} ({error.strerror or error})"
            hint = "make room there, or give another folder with --data-dir"
            raise TroupeError(Problem("not-written", "data", reason, hint, value), SURROUNDINGS) from error
    if facts["unreadable"]:
        count = facts["unreadable"]
        skipped = "1 unreadable image was skipped" if count == 1 else f"{count} unreadable images were skipped"
        request.warn(f"{words}: {skipped}; {cache / 'unreadable.txt'} lists them")
    if facts["learned_too"]:
        request.warn(f"{words}: {facts['learned_too']} images to evaluate on lie among those to learn from as well")
    return _opened(cache, facts, bare, request.evaluate_on)


def _opened(cache: Path, facts: Mapping[str, Any], bare: Mapping[str, str], evaluate_on: str) -> ImageData:
    """A packed folder; `bare`: its class folders without an image, and why."""
    shape = (facts["images"], facts["image_size"], facts["image_size"], facts["channels"])
    images = np.memmap(cache / "images.bin", np.uint8, "r", shape=shape)
    labels = read_array(cache / "labels.npy") if facts["class_names"] else None
    codes, parts = read_array(cache / "parts.npy"), facts["parts"]
    learned, held_out = splitting.rows_for(codes, evaluate_on, parts)
    if not len(learned):
        reason, value = "none of the images to learn from can be read", f"imagefolder:{shown(facts['source'])}"
        raise TroupeError(Problem("no-images", "data", reason, value=value), SURROUNDINGS)
    lost = dict(bare)
    if labels is not None:
        read = np.bincount(labels[codes != splitting.TEST], minlength=len(facts["class_names"]))
        lost |= {name: "none of its images can be read"
                 for name, count in zip(facts["class_names"], read, strict=True) if not count}  # fmt: skip
    everything = Part(images, labels)
    more: dict[str, Any] = {"own_validation": True} if splitting.apart(parts) else {}
    more |= {key: facts[key] for key in ("strays", "learned_too") if facts[key]}
    return ImageData(
        everything, everything, rows=(learned, held_out), fingerprint=facts["fingerprint"],
        class_names=facts["class_names"], lost_classes=lost, facts=more,
    )  # fmt: skip


SOURCES = {
    "imagefolder": Source(
        "imagefolder",
        "any folder of images, or of its parts train and test; 64x64 unless image_size= says; say imagefolder:PATH",
        open_folder,
        takes_path=True,
    )
}


def cached(data_dir: Path) -> list[tuple[str, int, Path]]:
    """(folder it was made of, bytes, where it lies) of each packed folder."""
    found = []
    packed = data_dir / "packed"
    for folder in sorted(packed.iterdir()) if os.path.isdir(packed) else ():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # renamed meanwhile, or a lock file
            count = sum(file.stat().st_size for file in folder.iterdir())
            found.append((_source_of(folder), count, folder))
    return found


def _source_of(folder: Path) -> str:
    """The folder that this one was made of, as far as it tells."""
    try:
        return str(json.loads((folder / "packed.json").read_text(encoding="utf-8"))["source"])
    except FileNotFoundError:
        return "(unfinished)"
    except (OSError, ValueError, KeyError, TypeError):
        return "(damaged)"


def remove(folder: Path) -> None:
    """Remove a packed folder that `cached` gave. Raises TroupeError: exit code 4 for one that is being packed, and for
    what is not proved to be packed by this user's troupe, 3 where its disk refuses."""
    try:
        with Lock(folder.with_suffix(".lock"), patience=0):
            if not _cleared(folder):
                raise _not_ours(folder)
    except Held:
        reason, hint = "is being packed at this moment", "wait for that run"
        raise TroupeError(Problem("held", str(folder), reason, hint), CONFLICT) from None
    except OSError as error:
        reason = f"cannot be removed ({error.strerror or error})"
        raise TroupeError(Problem("not-written", str(folder), reason), SURROUNDINGS) from error


def _cleared(folder: Path) -> bool:
    """Remove a packed folder, and say whether nothing is there any more. Its mark proves it, or, of an older troupe, a
    packed.json whose source and size give the folder its name."""
    if ownership.remove(folder, WHAT):
        return True
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        facts = json.loads((folder / "packed.json").read_text(encoding="utf-8"))
        named = _key(facts["source"], facts["image_size"]) == folder.name and facts["fingerprint"]
        if named and os.lstat(folder).st_uid == os.geteuid() and {*os.listdir(folder)} <= FILES:
            shutil.rmtree(folder, ignore_errors=True)
    return not os.path.lexists(folder)


def _not_ours(folder: Path) -> TroupeError:
    reason = "is not known to be packed by troupe, or is damaged or another user's"
    return TroupeError(Problem("not-ours", str(folder), reason, "remove it by hand"), CONFLICT)


def _key(root: str, size: int) -> str:
    """The name of the packed folder of a folder of images at a size."""
    return fingerprint(in_utf8(root), size)[:16]


def _digest(listing: Sequence[Listed]) -> str:
    return fingerprint([image._replace(path=in_utf8(image.path)) for image in listing])


def _facts_of(cache: Path, listing: Sequence[Listed] | None = None) -> dict[str, Any] | None:
    """What packed.json says, if its files are whole, and it was made of just this listing where one is given."""
    try:
        facts: dict[str, Any] = json.loads((cache / "packed.json").read_text(encoding="utf-8"))
        size = facts["images"] * facts["image_size"] ** 2 * facts["channels"]
        whole = (cache / "images.bin").stat().st_size == size and facts.keys() >= FACTS
        return facts if whole and (listing is None or facts["listing"] == _digest(listing)) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or damaged: it is packed anew
        return None


def _pack(
    root: Path, listing: Sequence[Listed], layout: Layout, size: int, cache: Path,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:  # fmt: skip
    """Pack the folder under another name, renamed when it is whole; what a killed packing left is cleared first."""
    ownership.left_behind(cache.parent, f"{cache.name}.partial-*", PARTIAL)
    with ownership.working_folder(cache.with_suffix(".partial"), PARTIAL) as partial:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about images that it reads all the same
            facts = _write(root, listing, layout, size, partial, progress)
        for file in (*partial.iterdir(), partial):  # else a pulled plug might leave zeros of the right size
            durable.sync(file)
        if not _cleared(cache):
            raise _not_ours(cache)
        partial.rename(cache)
        ownership.finish(cache)
        ownership.mark(cache, WHAT)
        durable.sync(cache.parent)
    return facts


def _write(
    root: Path, listing: Sequence[Listed], layout: Layout, size: int, target: Path,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:  # fmt: skip
    """Write the images one after the other, never more than one in memory."""
    class_names, parts = layout.classes, layout.parts
    channels = 1 if all(is_grey(root / image.path) for image in listing) else 3
    if shutil.disk_usage(target).free < len(listing) * size * size * channels:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    labels, digests, unreadable = list[int](), list[tuple[str, str]](), list[str]()
    with open(target / "images.bin", "wb") as images:
        for done, (path, *_) in enumerate(listing, start=1):
            try:
                content = (root / path).read_bytes()
                image = decode(content, size, channels)
            except Exception as error:  # damaged images raise nearly anything in Pillow
                unreadable.append(f"{shown(path)}\t{shown(f'{type(error).__name__}: {error}')}\n")
            else:
                images.write(image.tobytes())
                within = path.split("/")
                labels.append(class_names.index(within[1 if parts else 0]) if class_names else 0)
                digests.append((in_utf8(path), hashlib.sha256(content).hexdigest()))
            progress(done, len(listing))
    if not digests:
        reason = f"none of its {len(listing)} images can be read"
        raise TroupeError(Problem("no-images", "data", reason, value=f"imagefolder:{shown(root)}"), SURROUNDINGS)
    hashes = [digest for _, digest in digests]
    folders = [path.partition("/")[0] for path, _ in digests]
    codes = splitting.split(folders, hashes, labels if class_names else None, parts)
    names = [shown(name) for name in class_names]
    how = [parts] if parts else ["a tenth of each class"] if class_names else []  # which images are held out
    facts = {
        "source": str(root),
        "image_size": size,
        "channels": channels,
        "class_names": names,
        "parts": parts,
        "images": len(digests),
        "unreadable": len(unreadable),
        "strays": [shown(path) for path in layout.strays[:3]] + (["..."] if len(layout.strays) > 3 else []),
        "learned_too": splitting.learned_too(codes, hashes, parts) if parts else 0,
        "listing": _digest(listing),
        "fingerprint": fingerprint(digests, names, channels, size, *how),
    }
    np.save(target / "labels.npy", np.array(labels, np.int64))
    np.save(target / "parts.npy", codes)
    (target / "unreadable.txt").write_text("".join(unreadable), encoding="utf-8")
    (target / "packed.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return facts
