"""Splits the images of a folder into training and held-out ones: by their content, a share of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trainers.data.images import validation_rows

TRAIN, TEST, VALIDATION = 0, 1, 2  # of each image; validation images are trained on if `test` is evaluated
CODES = {"train": TRAIN, "test": TEST, "validation": VALIDATION}


def split(
    folders: Sequence[str], digests: Sequence[str], labels: Sequence[int] | None, parts: Mapping[str, str]
) -> NDArray[np.uint8]:
    """The split of each image, (images,), given its first-level folder, SHA-256 of its file, and class.

    If folders are splits, nothing of the training split is held out for `test`, nor for `validation` if that has its
    own folder.
    """
    parts_of_rows = np.zeros(len(digests), np.uint8)
    if parts:
        codes = {name: CODES[part] for name, part in parts.items()}
        if not has_own_validation(parts):  # the only other one is for evaluation, regardless of its name
            codes = {name: min(code, TEST) for name, code in codes.items()}
        parts_of_rows[:] = [codes[folder] for folder in folders]
    elif labels is not None:
        parts_of_rows[tenth_of_each(digests, labels, range(len(digests)))] = TEST
    else:  # each one by its own content alone; the first is a training image
        parts_of_rows[[row for row, digest in enumerate(digests) if row and int(digest[:8], 16) % 10 == 0]] = TEST
    if not has_own_validation(parts):
        training = np.flatnonzero(parts_of_rows == TRAIN)
        parts_of_rows[
            tenth_of_each(digests, labels, training.tolist())
            if labels is not None
            else training[validation_rows(len(training))]
        ] = VALIDATION
    return parts_of_rows


def count_in_both(codes: NDArray[np.uint8], digests: Sequence[str], parts: Mapping[str, str]) -> int:
    """How many images of the other splits are also in the training split, an error of the data set."""
    other = codes != TRAIN if has_own_validation(parts) else codes == TEST
    train_digests = {digest for digest, of_other in zip(digests, other, strict=True) if not of_other}
    return sum(1 for digest, of_other in zip(digests, other, strict=True) if of_other and digest in train_digests)


def has_own_validation(parts: Mapping[str, str]) -> bool:
    """Whether the validation split has its own folder, besides that of the test split."""
    return {"test", "validation"} <= set(parts.values())


def tenth_of_each(digests: Sequence[str], labels: Sequence[int], rows: Sequence[int]) -> list[int]:
    """The rows to hold out: a tenth of the different images of each class, at least one if it has two.

    Equal files are never in both splits: those that are in several classes are all training images.
    """
    classes: dict[str, set[int]] = {}
    images: dict[int, set[str]] = {}
    for row in rows:
        classes.setdefault(digests[row], set()).add(labels[row])
        images.setdefault(labels[row], set()).add(digests[row])
    chosen: set[str] = set()
    for every in images.values():
        own = sorted(digest for digest in every if len(classes[digest]) == 1)
        chosen.update(own[: min(max(1, (len(every) + 5) // 10), len(every) - 1)])
    return [row for row in rows if digests[row] in chosen]


def rows_for(
    codes: NDArray[np.uint8], evaluate_on: str, parts: Mapping[str, str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of training images and of images to evaluate on, in order."""
    held_out = VALIDATION if evaluate_on == "validation" else TEST
    is_train = codes == TRAIN if has_own_validation(parts) or evaluate_on == "validation" else codes != TEST
    return np.flatnonzero(is_train), np.flatnonzero(codes == held_out)
