"""`noise`: images in which no two neighbours are equal, so that no maximum is a tie that the last bit decides."""

from __future__ import annotations

import numpy as np

from trainers.data.images import ImageData, Part, Request, Source, content_digest, in_memory

CLASS_NAMES = tuple("0123456789")


def open_noise(request: Request) -> ImageData:
    """200 images to learn from and 40 to test on, 32x32 and grey, the same everywhere."""
    random = np.random.RandomState(0)  # its numbers never change
    parts = []
    for count in (200, 40):
        images = random.randint(0, 256, (count, 32, 32, 1)).astype(np.uint8)
        parts.append(Part(images, random.randint(0, 10, count).astype(np.int64)))
    return in_memory(*parts, CLASS_NAMES, content_digest(*parts, CLASS_NAMES), request)


SOURCES = {"noise": Source("noise", "made up for tests: images of noise with ten labels", open_noise)}
