"""`threes`: the threes among the digits, without labels: what a GAN learns from that is to show one class."""

from __future__ import annotations

from dataclasses import replace

from trainers.data.digits import at_size
from trainers.data.images import ImageData, Part, Request, Source, content_digest, in_memory

CLASS = 3


def open_threes(request: Request) -> ImageData:
    """Some 900 to learn from and 100 to test on, grey."""
    parts = []
    for part in at_size(request.image_size)[:2]:
        assert part.labels is not None
        parts.append(Part(part.images[part.labels == CLASS]))
    size = parts[0].images.shape[1]
    return in_memory(*parts, (), content_digest(*parts, ()), replace(request, image_size=size))


SOURCES = {"threes": Source("threes", "made up for tests: the threes among the digits, without labels", open_threes)}
