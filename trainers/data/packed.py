"""The packed form of a data set: one folder of mapped arrays.

    train_images.npy  test_images.npy   uint8, samples x height x width x channels
    train_labels.npy  test_labels.npy   int64
    packed.json                         name, class names; shape and SHA-256 of the values of each array

packed.json is written last: a folder without it is not packed. The digests are checked each time it is opened.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainers.base.errors import CONFLICT, ENVIRONMENT, TroupeError
from trainers.base.placeholders import how_to_fetch, placeholder_at
from trainers.base.problems import Problem
from trainers.data.images import Part, array_digest
from trainers.storage import atomic_files, ownership
from trainers.storage.file_locks import Lock

MANIFEST = "packed.json"
WHAT = "a packed data set"  # in the mark of its folder
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


class Content(NamedTuple):
    """Both parts of a data set, and the names of its classes."""

    train: Part
    test: Part
    class_names: tuple[str, ...]


def pack(folder: Path, name: str, train: Part, test: Part, class_names: Sequence[str]) -> None:
    """Write the packed form to `folder`, which may contain other files, so that half of it never looks complete.

    Raises TroupeError (exit code 4) if it contains files of these names that troupe has not packed.
    """
    assert train.labels is not None, "the packed form has labels"
    assert test.labels is not None, "the packed form has labels"
    arrays: dict[str, NDArray[Any]] = {
        "train_images": train.images,
        "train_labels": train.labels.astype(np.int64),
        "test_images": test.images,
        "test_labels": test.labels.astype(np.int64),
    }
    facts = {key: {"shape": list(array.shape), "sha256": array_digest(array)} for key, array in arrays.items()}
    manifest = {"name": name, "class_names": list(class_names), "arrays": facts}
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder / ".lock"), tempfile.TemporaryDirectory(prefix=".packing-", dir=folder) as temporary:
        files = [*(f"{key}.npy" for key in arrays), MANIFEST]
        existing = [file for file in files if os.path.lexists(folder / file)]
        if existing and not _is_packed(folder) and ownership.read_mark(folder, WHAT) is None:
            reason = f"contains {', '.join(existing)}, not packed by troupe"
            raise TroupeError(Problem("not-ours", str(folder), reason, "move it away"), CONFLICT)
        if ownership.read_mark(folder, WHAT) is None and not os.path.lexists(folder / ownership.MARK):
            ownership.mark(folder, WHAT)  # from here on the folder may hold half of a packed form
        for key, array in arrays.items():
            np.save(Path(temporary, f"{key}.npy"), array)
        Path(temporary, MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        (folder / MANIFEST).unlink(missing_ok=True)
        for file in files:
            atomic_files.sync(Path(temporary, file))
            os.replace(Path(temporary, file), folder / file)
        atomic_files.sync(folder)


def _is_packed(folder: Path) -> bool:
    """Whether packed.json was written by troupe, regardless of the arrays."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all(isinstance(manifest["arrays"][key]["sha256"], str) for key in ARRAYS)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def read_packed(folder: Path) -> Content | None:
    """The data set packed in `folder`, its images mapped; None if there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        class_names = tuple(manifest["class_names"])
        facts = [(key, manifest["arrays"][key]["shape"], manifest["arrays"][key]["sha256"]) for key in ARRAYS]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(folder / MANIFEST, error) from error
    images, labels, test_images, test_labels = (_read(folder / f"{key}.npy", *fact) for key, *fact in facts)
    return Content(Part(images, np.array(labels)), Part(test_images, np.array(test_labels)), class_names)


def read_array(file: Path, mode: Literal["r"] | None = None) -> NDArray[Any]:
    """An array in numpy's own format, mapped if `mode` is "r"; executes no code. Raises TroupeError (exit code 3) for
    anything else."""
    try:
        array: NDArray[Any] = np.load(file, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(file, error) from error
    if not isinstance(array, np.ndarray):
        raise _damaged(file, "more than one array")
    return array


def _read(file: Path, shape: list[int], sha256: str) -> NDArray[Any]:
    array = read_array(file, "r")
    if list(array.shape) != shape or array_digest(array) != sha256:
        raise _damaged(file, "values differ from packed.json")
    return array


def _damaged(file: Path, reason: object) -> TroupeError:
    instead = placeholder_at(file)
    message = instead or " ".join(str(reason).split())
    hint = how_to_fetch(instead) or f"remove {file.parent} and pack it again"
    return TroupeError(Problem("damaged", str(file), f"damaged ({message})", hint), ENVIRONMENT)
