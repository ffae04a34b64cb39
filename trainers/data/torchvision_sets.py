"""`mnist`, `fashion_mnist` and `cifar10`: packed, as their original files, or downloaded through torchvision."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.base.placeholders import how_to_fetch, placeholder_at
from trainers.base.problems import Problem
from trainers.data.images import FETCHED, ImageData, Part, Request, Source, content_digest, in_memory
from trainers.data.packed import Content, pack, read_packed
from trainers.storage.file_locks import Lock

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class Known(NamedTuple):
    """What is needed to find a data set."""

    torchvision: str  # its class there, and its folder
    class_names: tuple[str, ...]
    files: str  # what the user can put into the data folder manually
    summary: str


GARMENTS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
KNOWN = {
    "mnist": Known(
        "MNIST",
        tuple("0123456789"),
        "its four *-ubyte.gz files into mnist/",
        "60,000 + 10,000 handwritten digits, 28x28 grey; downloaded",
    ),
    "fashion_mnist": Known(
        "FashionMNIST",
        GARMENTS,
        "its four *-ubyte.gz files into fashion_mnist/",
        "60,000 + 10,000 garments, 28x28 grey; downloaded",
    ),
    "cifar10": Known("CIFAR10", THINGS, "cifar-10-batches-py", "50,000 + 10,000 photographs, 32x32 colour; downloaded"),
}


def open_known(name: str, request: Request) -> ImageData:
    """Open the data set; download it once if it is not in the data folder."""
    content = _find(name, request.data_dir) or _download(name, request.data_dir)
    return in_memory(*content, content_digest(*content), request)


def missing_set(name: str, data_dir: Path) -> Problem | None:
    """The problem if the data set is not in the data folder, or None."""
    if any((data_dir / folder).exists() for folder in (name, KNOWN[name].torchvision, KNOWN[name].files)):
        return None
    reason, hint = f"is not in {data_dir}, and would be downloaded", f"or put {KNOWN[name].files}"
    return Problem(FETCHED, reason=reason, hint=hint)


SOURCES = {
    name: Source(name, known.summary, partial(open_known, name), missing=partial(missing_set, name))
    for name, known in KNOWN.items()
}


def read_idx(file: Path) -> NDArray[np.uint8]:
    """An array of bytes in MNIST's own format, gzipped or not."""
    opener: Callable[..., Any] = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rb") as stream:
            content: bytes = stream.read()
        if content[:3] != b"\0\0\x08":
            raise ValueError("not an idx file of bytes")
        shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, ValueError, LookupError, zlib.error) as error:
        instead = placeholder_at(file)
        hint = how_to_fetch(instead) or "download it again"
        problem = Problem("damaged", str(file), f"damaged ({instead or error})", hint)
        raise TroupeError(problem, ENVIRONMENT) from error


def _find(name: str, data_dir: Path) -> Content | None:
    packed = read_packed(data_dir / name)
    if packed or name == "cifar10":
        return packed
    for folder in (data_dir / name, data_dir / KNOWN[name].torchvision / "raw"):
        names = [[folder / stem, folder / f"{stem}.gz"] for stem in IDX_FILES]
        files = [next(filter(Path.is_file, either), None) for either in names]
        images, labels, test_images, test_labels = (read_idx(file) if file else None for file in files)
        if images is not None and labels is not None and test_images is not None and test_labels is not None:
            return _content(name, images, labels, test_images, test_labels)
    return None


def _download(name: str, data_dir: Path) -> Content:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with Lock(data_dir / f".{name}.lock"):
            found = _find(name, data_dir)  # another process may have been first
            if not found:
                found = _through_torchvision(name, data_dir)
                pack(data_dir / name, name, *found)  # so that torchvision is not needed next time
            return found
    except (ImportError, OSError, RuntimeError, http.client.HTTPException) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        reason = f"not found under {data_dir} and could not be downloaded ({message})"
        hint = f"put {KNOWN[name].files} there, or choose data=digits"
        raise TroupeError(Problem("not-downloaded", "data", reason, hint, name), ENVIRONMENT) from error


def _through_torchvision(name: str, data_dir: Path) -> Content:
    from torchvision import datasets

    kind = getattr(datasets, KNOWN[name].torchvision)
    with contextlib.redirect_stdout(sys.stderr):  # torchvision prints there, and stdout is for results
        sets = [kind(str(data_dir), train=train, download=True) for train in (True, False)]
    return _content(name, *(np.asarray(array) for part in sets for array in (part.data, part.targets)))


def _content(
    name: str, images: NDArray[Any], labels: NDArray[Any], test_images: NDArray[Any], test_labels: NDArray[Any]
) -> Content:
    if images.ndim == 3:
        images, test_images = images[..., None], test_images[..., None]
    train, test = Part(images, labels.astype(np.int64)), Part(test_images, test_labels.astype(np.int64))
    return Content(train, test, KNOWN[name].class_names)
