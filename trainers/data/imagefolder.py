"""`imagefolder:PATH`: any folder of images, packed once into mapped files under the data folder.

<data_dir>/packed/KEY/   train_images.bin  test_images.bin   uint8, samples x size x size x channels
                         train_labels.npy  test_labels.npy   int64, where the folder has labels
                         unreadable.txt                      images that were skipped, and why
                         packed.json                         what it was made of
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trainers.data.images import ImageData, Part, Request, Source, fingerprint
from trainers.engine import durable
from trainers.engine.errors import CONFLICT, SURROUNDINGS, TroupeError
from trainers.engine.paths import expanded

EXTENSIONS = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")
GREY_MODES = ("1", "L", "LA", "La", "F", "I", "I;16", "I;16L", "I;16B", "I;16N")
AUTO_SIZE = 64
FACTS = {"fingerprint", "class_names", "unreadable"}  # in packed.json, besides what its files are checked with


class Found(NamedTuple):
    """What a folder holds."""

    images: list[Listed]
    passed: dict[str, int]  # files that are no images as far as their names tell, by the ends of those
    bare: dict[str, str]  # first-level folders without an image, and what they hold instead


class Listed(NamedTuple):
    """An image of the folder; another size or time of change means that it has to be packed again."""

    path: str  # within the folder, with /
    size: int
    changed: int  # nanoseconds


def open_folder(request: Request) -> ImageData:
    """Open a folder of images, packed first where it is not, or has changed since."""
    words = f"data=imagefolder:{request.argument}"
    root, bare = expanded(request.argument).resolve(), dict[str, str]()
    if not os.path.isdir(root):
        raise TroupeError(f"{words}: no such folder; give the path of one", SURROUNDINGS)
    size = request.image_size or AUTO_SIZE
    cache = request.data_dir / "packed" / fingerprint(str(root), size)[:16]
    facts = _facts_of(cache)
    if facts is None or request.fingerprint is None or facts["fingerprint"] != request.fingerprint:
        listing, passed, bare = look_through(root)
        if passed:
            request.warn(f"{words}: files that are no images were passed over: {_counted(passed)}")
        if not listing:
            raise TroupeError(f"{words}: holds no images; they are known by {', '.join(EXTENSIONS)}", SURROUNDINGS)
        facts = _facts_of(cache, listing)
    if facts is None:
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(cache.with_suffix(".lock")):  # others that want the same folder wait, and find it made
                facts = _facts_of(cache, listing) or _pack(root, listing, size, cache, request.progress)
        except OSError as error:
            reason = error.strerror or str(error)
            advice = "make room there, or give another folder with --data-dir"
            raise TroupeError(
                f"{words}: cannot be packed under {cache.parent} ({reason}); {advice}", SURROUNDINGS
            ) from error
    if facts["unreadable"]:
        request.warn(
            f"{words}: {facts['unreadable']} unreadable images were skipped; {cache / 'unreadable.txt'} lists them"
        )
    train, test, class_names = _part(cache, "train", facts), _part(cache, "test", facts), facts["class_names"]
    lost, read = dict(bare), Counter[int]()
    for part in (train, test):
        read.update((part.labels if part.labels is not None else np.zeros(0, np.int64)).tolist())
    lost |= {name: "none of its images can be read" for place, name in enumerate(class_names) if not read[place]}
    return ImageData(
        train, test, fingerprint=facts["fingerprint"], class_names=class_names, evaluate_on=request.evaluate_on,
        lost_classes=lost,
    )  # fmt: skip


SOURCES = {
    "imagefolder": Source(
        "imagefolder",
        "any folder of images, nine tenths + one tenth, 64x64 unless image_size= says otherwise; say imagefolder:PATH",
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
    """Remove a packed folder that `cached` gave."""
    try:
        with FileLock(folder.with_suffix(".lock"), timeout=0):
            shutil.rmtree(folder)
    except Timeout:
        raise TroupeError(f"{folder}: is being packed at this moment; wait for that run", CONFLICT) from None


def look_through(root: Path) -> Found:
    """Every image below `root`, sorted, and what else is there; hidden files and folders are left out.

    Raises TroupeError (exit code 3) where a folder cannot be read: its images would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        raise TroupeError(
            f"{error.filename}: cannot be read ({error.strerror}); its images would be missing", SURROUNDINGS
        )

    listing, seen, passed = [], set(), Counter[str]()
    held: dict[str, Counter[str]] = {}  # in each first-level folder, instead of images
    for folder, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real in seen:  # links may lead in circles
            continue
        seen.add(real)
        within = Path(folder).relative_to(root)
        if len(within.parts) == 1:
            held[within.parts[0]] = Counter()
        for name in files:
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if name.lower().rpartition(".")[2] in EXTENSIONS and path.is_file():
                state = path.stat()
                listing.append(Listed(path.relative_to(root).as_posix(), state.st_size, state.st_mtime_ns))
            else:
                kind = f".{name.rpartition('.')[2].lower()}" if "." in name else name
                passed[kind if path.is_file() else "broken links"] += 1
                if within.parts:
                    held[within.parts[0]][kind] += 1
    filled = {PurePosixPath(image.path).parts[0] for image in listing}
    classes = all("/" in image.path for image in listing)
    bare = {name: f"it holds {_counted(kinds)}" if kinds else "it is empty"
            for name, kinds in held.items() if classes and name not in filled}  # fmt: skip
    return Found(sorted(listing), dict(passed), bare)


def _counted(kinds: Mapping[str, int]) -> str:
    """`12 .avif, 1 .txt`, the most first."""
    most = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join([f"{count} {kind}" for kind, count in most[:5]] + (["..."] if len(most) > 5 else []))


def class_names_of(listing: Sequence[Listed]) -> list[str]:
    """First-level folders, where every image lies in one and there are two or more."""
    first = {PurePosixPath(image.path).parts[0] if "/" in image.path else "" for image in listing}
    return sorted(first) if len(first) > 1 and "" not in first else []


def decode(content: bytes, size: int, channels: int) -> NDArray[np.uint8]:
    """The image in a file: upright, over white, shorter side resized with antialiasing, centre cropped."""
    with Image.open(io.BytesIO(content)) as opened:
        opened.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a fraction of its size: much faster
        image = ImageOps.exif_transpose(opened)
    if image.mode == "F":  # of other programs, mostly in [0, 1]; Pillow takes them for 0 to 255
        numbers = np.nan_to_num(np.asarray(image), nan=0.0, posinf=255.0, neginf=0.0)
        numbers = numbers * 255 if numbers.max(initial=0.0) <= 1 else numbers
        image = Image.fromarray(numbers.clip(0, 255).round().astype(np.uint8))
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion clips them
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(size, size, channels)


def _facts_of(cache: Path, listing: Sequence[Listed] | None = None) -> dict[str, Any] | None:
    """What packed.json says, if its files are whole, and it was made of just this listing where one is given."""
    try:
        facts: dict[str, Any] = json.loads((cache / "packed.json").read_text(encoding="utf-8"))
        sizes = [(cache / f"{part}_images.bin").stat().st_size for part in ("train", "test")]
        row = facts["image_size"] ** 2 * facts["channels"]
        whole = sizes == [facts["train"] * row, facts["test"] * row] and facts.keys() >= FACTS
        return facts if whole and (listing is None or facts["listing"] == fingerprint(listing)) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or damaged: it is packed anew
        return None


def _part(cache: Path, part: str, facts: dict[str, Any]) -> Part:
    shape = (facts[part], facts["image_size"], facts["image_size"], facts["channels"])
    images: NDArray[np.uint8]
    if facts[part]:
        images = np.memmap(cache / f"{part}_images.bin", np.uint8, "r", shape=shape)
    else:
        images = np.zeros(shape, np.uint8)  # an empty file cannot be mapped
    return Part(images, np.load(cache / f"{part}_labels.npy") if facts["class_names"] else None)


def _pack(
    root: Path, listing: Sequence[Listed], size: int, cache: Path, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Pack the folder under another name, renamed when it is whole; what a killed packing left is cleared first."""
    partial = cache.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about images that it reads all the same
            facts = _write(root, listing, size, partial, progress)
        for file in (*partial.iterdir(), partial):  # else a pulled plug might leave zeros of the right size
            durable.sync(file)
        shutil.rmtree(cache, ignore_errors=True)
        partial.rename(cache)
        durable.sync(cache.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return facts


def _write(
    root: Path, listing: Sequence[Listed], size: int, target: Path, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Write the images one after the other, never more than one in memory."""
    class_names = class_names_of(listing)
    channels = 1 if all(_is_grey(root / image.path) for image in listing) else 3
    if shutil.disk_usage(target).free < len(listing) * size * size * channels:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    labels: dict[str, list[int]] = {"train": [], "test": []}
    digests, unreadable = [], []
    with open(target / "train_images.bin", "wb") as train, open(target / "test_images.bin", "wb") as test:
        for done, (path, *_) in enumerate(listing, start=1):
            try:
                content = (root / path).read_bytes()
                image = decode(content, size, channels)
            except Exception as error:  # damaged images raise nearly anything in Pillow
                unreadable.append(f"{path}\t{type(error).__name__}: {error}\n")
            else:
                digest = hashlib.sha256(content).hexdigest()
                for_test = int(digest[:8], 16) % 10 == 0 and labels["train"]  # the first one is always to learn from
                (test if for_test else train).write(image.tobytes())
                label = class_names.index(path.partition("/")[0]) if class_names else 0
                labels["test" if for_test else "train"].append(label)
                digests.append((path, digest))
            progress(done, len(listing))
    if not digests:
        raise TroupeError(f"data=imagefolder:{root}: none of its {len(listing)} images can be read", SURROUNDINGS)
    facts = {
        "source": str(root),
        "image_size": size,
        "channels": channels,
        "class_names": class_names,
        **{part: len(labels[part]) for part in labels},
        "unreadable": len(unreadable),
        "listing": fingerprint(listing),
        "fingerprint": fingerprint(digests, class_names, channels, size),
    }
    for part in labels:
        np.save(target / f"{part}_labels.npy", np.array(labels[part], np.int64))
    (target / "unreadable.txt").write_text("".join(unreadable), encoding="utf-8")
    (target / "packed.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return facts


def _is_grey(file: Path) -> bool:
    """Whether the header tells of an image without colour; one that cannot be read decides nothing."""
    try:
        with Image.open(file) as image:
            return image.mode in GREY_MODES
    except Exception:  # as in `_write`, where it is reported
        return True
