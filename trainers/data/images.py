"""Images stored as uint8, in memory or in a mapped file: what every image source returns to the engine.

Nothing here imports torch before the first tensor is requested: the driver opens data too, and must start fast.
"""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainers.base.problems import Problem

if TYPE_CHECKING:
    import torch
    from torch import Tensor


FETCHED = "data-not-here"  # the problem code of data that is missing, and can be downloaded


@dataclass(frozen=True)
class Request:
    """How to open a source."""

    argument: str  # what follows `name:`, or ""
    data_dir: Path
    image_size: int | None  # None is auto
    evaluate_on: str  # "test" or "validation"
    warn: Callable[[str], None]
    progress: Callable[[int, int], None]  # (done, total), while a folder is packed
    fingerprint: str | None = None  # of samples that the driver has just found: a folder need not be scanned again
    folders: str = "auto"  # what the subfolders of a folder of images are: auto, parts (splits) or classes
    value_range: str | Sequence[float] = "auto"  # auto, full, or the values of black and white


@dataclass(frozen=True)
class Source:
    """One name that `data=` takes."""

    name: str
    summary: str  # one line for `troupe datasets`
    open: Callable[[Request], Any]  # see `Data` in trainers/contract/family.py
    takes_path: bool = False  # `name:PATH`
    kind: str = "images"  # of samples, as `Config.input_kind` names it
    missing: Callable[[Path], Problem | None] = lambda data_dir: None  # what would have to be downloaded first


class Part(NamedTuple):
    """The training or the test part of a source."""

    images: NDArray[np.uint8]  # NHWC
    labels: NDArray[np.int64] | None = None


class ImageData:
    """Images, and labels if there are any; `Data` in contract/family.py documents the interface."""

    def __init__(
        self,
        train: Part,
        test: Part,
        *,
        fingerprint: str,
        class_names: Sequence[str] = (),
        evaluate_on: str = "test",
        rows: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
        lost_classes: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """`rows`: the training and held-out rows of each part, if the source decides it instead of `evaluate_on`.
        `lost_classes`: names of classes of which the source has no image, and why. `facts`: additional ones.
        """
        self._given = (train, test)
        if rows is not None:
            self._train_rows, self._held_out_rows = rows
            self._parts = (train, test)
        elif evaluate_on == "validation":
            self._held_out_rows = validation_rows(len(train.images))
            self._train_rows = np.setdiff1d(np.arange(len(train.images)), self._held_out_rows, assume_unique=True)
            self._parts = (train, train)
        else:
            self._held_out_rows = np.arange(len(test.images))
            self._train_rows = np.arange(len(train.images))
            self._parts = (train, test)
        self._device: torch.device | None = None
        self.size = len(self._train_rows)
        self.held_out = len(self._held_out_rows)
        self.fingerprint = fingerprint
        self.cache: Path | None = None
        self.facts: Mapping[str, Any] = {
            "kind": "images",
            "channels": train.images.shape[3],
            "image_size": train.images.shape[1],
            "classes": len(class_names),
            "class_names": tuple(class_names),
            "size": self.size,
            "held_out": self.held_out,
            **(facts or {}),
        }
        lost = dict(lost_classes or {})
        if train.labels is not None and class_names:
            train_counts = np.bincount(train.labels[self._train_rows], minlength=len(class_names))
            for name, count in zip(class_names, train_counts, strict=False):
                if not count:
                    lost.setdefault(name, "all of its images are held out")
        if lost:
            self.facts = {**self.facts, "lost_classes": lost}

    def whole(self) -> ImageData:
        """The same source with all of its images to evaluate on, including the training images."""
        train, test = self._given
        every = (
            train
            if train is test
            else Part(
                np.concatenate([train.images, test.images]),
                None if train.labels is None or test.labels is None else np.concatenate([train.labels, test.labels]),
            )
        )
        other = copy.copy(self)
        other.__dict__.pop("_tensors", None)
        other._parts, other._held_out_rows = (train, every), np.arange(len(every.images))
        other.held_out = len(every.images)
        other.facts = {**self.facts, "held_out": other.held_out}
        return other

    def to(self, device: torch.device) -> None:
        """Return batches on `device` from now on; move all images to a GPU if they take less than half of its free
        memory."""
        import torch

        self._device = torch.device(device)
        if self._device.type != "cuda":
            return
        train, held_out = self._tensors
        parts = [train] if held_out is train else [train, held_out]
        needed = sum(tensor.nbytes for part in parts for tensor in part.values())
        if needed < torch.cuda.mem_get_info(self._device)[0] / 2:
            moved = [{name: tensor.to(self._device) for name, tensor in part.items()} for part in parts]
            self._tensors = (moved[0], moved[-1])

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """uint8 images (NCHW, channels last in memory) and int64 labels of these training samples."""
        return self._take(self._tensors[0], self._train_rows[np.asarray(indices, np.int64)])

    def held_out_batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """As `batch`, for the samples to evaluate on."""
        return self._take(self._tensors[1], self._held_out_rows[np.asarray(indices, np.int64)])

    def preview(self, count: int) -> Tensor:
        """`count` training images, or all if there are fewer, spread evenly over the training part, in [0, 1]."""
        count = min(count, self.size)
        images = self.batch([place * self.size // count for place in range(count)])["images"]
        return images.float().div_(255)

    @cached_property
    def _tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Both parts as tensors over the same memory: for a mapped file, the pages that all workers share."""
        train, held_out = self._parts
        tensors = _as_tensors(train)
        return tensors, tensors if held_out is train else _as_tensors(held_out)

    def _take(self, part: Mapping[str, Tensor], rows: NDArray[np.int64]) -> dict[str, Tensor]:
        import torch

        index = torch.from_numpy(rows).to(part["images"].device)
        taken = {name: tensor.index_select(0, index).to(self._device or "cpu") for name, tensor in part.items()}
        return {**taken, "images": taken["images"].permute(0, 3, 1, 2)}


def _as_tensors(part: Part) -> dict[str, Tensor]:
    import torch

    with warnings.catch_warnings(action="ignore"):  # torch warns about read-only memory; these tensors are only read
        tensors = {"images": torch.from_numpy(part.images)}
        if part.labels is not None:
            tensors["labels"] = torch.from_numpy(part.labels)
    return tensors


def signed(images: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 images as numbers in [-1, 1], in the same memory format."""
    return images.to(dtype).div_(127.5).sub_(1)


def in_memory(
    train: Part,
    test: Part,
    class_names: Sequence[str],
    digest: str,
    request: Request,
    original_size: int | None = None,
) -> ImageData:
    """Data of a source whose images all have one size, converted to the requested size; `original_size` if that was
    done already."""
    original_size = original_size or train.images.shape[1]
    train, test = (Part(fit(part.images, request.image_size), part.labels) for part in (train, test))
    return ImageData(
        train,
        test,
        fingerprint=fingerprint(digest, train.images.shape[1]),
        class_names=class_names,
        evaluate_on=request.evaluate_on,
        facts={"original_size": original_size},
    )


def fingerprint(*content: object) -> str:
    """SHA-256 of the values that identify the samples."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def content_digest(train: Part, test: Part, class_names: Sequence[str]) -> str:
    """The digest of arrays for `fingerprint`, independent of the files that store them."""
    arrays = [array for part in (train, test) for array in part if array is not None]
    return fingerprint([[array.shape, array_digest(array)] for array in arrays], list(class_names))


def array_digest(array: NDArray[Any]) -> str:
    """SHA-256 of the values of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def validation_rows(count: int) -> NDArray[np.int64]:
    """The fixed tenth of `count` samples that `evaluate_on=validation` holds out."""
    # RandomState, since numpy guarantees that its numbers never change; those of default_rng may.
    order = np.random.RandomState(0).permutation(count)
    return np.sort(order[: count // 10]).astype(np.int64)


def fit(images: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    """Square images at another size: zero padded up to the next power of two (auto), resized from there."""
    own = images.shape[1]
    power = 1 << (own - 1).bit_length()
    size = size or power
    if own <= size <= power:
        return pad(images, size)
    return resize(pad(images, power), size)


def pad(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Zeros around each image, equally on all sides."""
    before = (size - images.shape[1]) // 2
    after = size - images.shape[1] - before
    return np.pad(images, ((0, 0), (before, after), (before, after), (0, 0))) if before + after else images


def resize(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Each image resized with antialiasing."""
    resized = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for image, target in zip(images, resized, strict=True):
        source = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        target[:] = np.asarray(source.resize((size, size), Image.Resampling.LANCZOS)).reshape(target.shape)
    return resized
