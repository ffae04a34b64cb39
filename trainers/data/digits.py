"""`digits`: 10,000 images of MNIST that come with the package; digits.md says which, and under which licence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainers.data.images import ImageData, Part, Request, Source, content_digest, in_memory

FILE = Path(__file__).with_name("digits.npz")
CLASS_NAMES = tuple("0123456789")


def open_digits(request: Request) -> ImageData:
    """9,000 digits to learn from and 1,000 to test on, 28x28 and grey."""
    with np.load(FILE) as file:
        train, test = (
            Part(file[f"{part}_images"][..., None], file[f"{part}_labels"].astype(np.int64))
            for part in ("train", "test")
        )
    return in_memory(train, test, CLASS_NAMES, content_digest(train, test, CLASS_NAMES), request)


SOURCES = {"digits": Source("digits", "9,000 + 1,000 handwritten digits of MNIST, 28x28 grey; built in", open_digits)}
