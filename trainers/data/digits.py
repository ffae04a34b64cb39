"""`digits`: 10,000 images of MNIST included in the package; digits.md describes them and their licence."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from trainers.data.images import ImageData, Part, Request, Source, content_digest, fit, in_memory

FILE = Path(__file__).with_name("digits.npz")
CLASS_NAMES = tuple("0123456789")
SIDE = 28  # pixels


def open_digits(request: Request) -> ImageData:
    """9,000 training and 1,000 test digits, 28x28 and grey."""
    train, test, digest = at_size(request.image_size)
    return in_memory(train, test, CLASS_NAMES, digest, replace(request, image_size=train.images.shape[1]), SIDE)


@lru_cache(maxsize=4)  # `verify` and trials open them for every run of their processes
def at_size(size: int | None) -> tuple[Part, Part, str]:
    """Both parts with images of this size, and the digest of the originals."""
    train, test, digest = originals()
    return Part(fit(train.images, size), train.labels), Part(fit(test.images, size), test.labels), digest


@lru_cache(maxsize=1)
def originals() -> tuple[Part, Part, str]:
    """Both parts in their original size, and their digest."""
    with np.load(FILE) as file:
        train, test = (
            Part(file[f"{part}_images"][..., None], file[f"{part}_labels"].astype(np.int64))
            for part in ("train", "test")
        )
    return train, test, content_digest(train, test, CLASS_NAMES)


SOURCES = {"digits": Source("digits", "9,000 + 1,000 handwritten digits of MNIST, 28x28 grey; built in", open_digits)}
