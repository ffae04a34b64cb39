"""Gradients of one optimizer's parameters as flat vectors, and the parts in which they are synchronized."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainers.distributed.shared_memory import ALIGNMENT, MOST_BUCKETS, padded_length, places

BUCKET = 1 << 16  # numbers in a bucket, at least
BLOCK = 1 << 16  # numbers added at a time, so that partial sums stay in the cache
PIECES, PIECE = 4, 1 << 20  # messages per slice between hosts, at most, and numbers in each, at least


class FlatGradients:
    """The gradients of one optimizer's parameters as flat vectors, and views of them in the parameters' shapes.

    Slot n of a worker holds the sum of its node n; further slots are scratch. A bucket is a part of the vector that is
    synchronized as soon as a backward pass has filled it.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        shared: tuple[list[list[Tensor]], Tensor] | None,
        place: int,
        nodes: int,
        scratch: int,
        workers: int,
    ) -> None:
        length = padded_length(parameters)
        like = parameters[0]
        # On a GPU, other workers see copies on the CPU of the slots, and the sum is copied back.
        self.moved = like.device.type != "cpu" and workers > 1
        where = like.device if workers == 1 else "cpu"

        def new(device: Any) -> Tensor:
            return torch.zeros(length, dtype=like.dtype, device=device)

        if shared is None:
            own = [new(where) for _ in range(nodes)]
            shared = [own], new(where) if workers > 1 else own[0]
        self.published, self.result = shared
        self.own = self.published[place]
        self.slots = [new(like.device) for _ in self.own] if self.moved else list(self.own)
        self.slots += [new(like.device) for _ in range(scratch)]
        self.received = new(like.device) if self.moved else self.result
        self.views = [views(vector, parameters) for vector in [*self.slots, self.received]]
        self.buckets, self.bucket_of = buckets(parameters)
        self.bucket_sizes = [self.bucket_of.count(bucket) for bucket in range(len(self.buckets))]
        self.watched = set[int]()  # parameters whose gradients are noted
        self.exchanged = False  # whether a first exchange has shown how often a backward pass writes a gradient
        self.fires_once = True

    @property
    def overlaps(self) -> bool:
        """Whether buckets are synchronized while a backward pass goes on: not before it has been seen once, and not
        from a GPU, where the pass is only queued."""
        return self.exchanged and self.fires_once and not self.moved

    def point(self, parameters: Sequence[nn.Parameter], slot: int) -> None:
        """Point every `.grad` at its part of a slot; -1 is the received sum."""
        for parameter, view in zip(parameters, self.views[slot], strict=True):
            parameter.grad = view

    def add(self, additions: Sequence[tuple[int, int]], part: slice) -> None:
        """Add scratch slots to others, in a part of the vector."""
        for into, source in additions:
            self.slots[into][part].add_(self.slots[source][part])

    def finish_alone(self, additions: Sequence[tuple[int, int]], weight: Tensor) -> None:
        """The last additions and the division, where there is no other worker; in blocks, but on a GPU at once."""
        size = len(self.result) if self.result.is_cuda else BLOCK
        for start in range(0, len(self.result), size):
            block = slice(start, start + size)
            self.add(additions, block)
            self.result[block].div_(weight)

    def publish(self) -> None:
        """Copy this worker's nodes from the device to where other workers see them."""
        for seen, slot in zip(self.own, self.slots, strict=False) if self.moved else ():
            seen.copy_(slot)

    def receive(self) -> None:
        """Copy the sum over all workers to the device."""
        if self.moved:
            self.received.copy_(self.result)


def buckets(parameters: Sequence[Tensor]) -> tuple[list[range], list[int]]:
    """The buckets of a flat vector, and the bucket of each parameter. The first bucket holds the last parameters, whose
    gradients a backward pass computes first."""
    starts = places(parameters)
    size = max(BUCKET, -(-starts[-1] // (MOST_BUCKETS - 1)))
    parts: list[range] = []
    bucket_of: list[int] = []
    end = starts[-1]
    for number in reversed(range(len(parameters))):
        bucket_of.append(len(parts))
        if end - starts[number] >= size or number == 0:
            parts.append(range(starts[number], end))
            end = starts[number]
    return parts, bucket_of[::-1]


def views(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a flat vector in the shapes and strides of the tensors."""
    first = vector.storage_offset()
    starts = places(parameters)
    return [
        vector.as_strided(parameter.shape, parameter.stride(), first + start)
        for parameter, start in zip(parameters, starts, strict=False)
    ]


def slices(part: range, workers: int, bytes_each: int) -> list[range]:
    """The part of a bucket that each worker adds up, in whole cache lines."""
    line = ALIGNMENT // bytes_each
    cuts = [min(len(part), -(-len(part) * rank // (workers * line)) * line) for rank in range(workers + 1)]
    return [range(part.start + first, part.start + last) for first, last in itertools.pairwise(cuts)]


def pieces(part: range) -> list[range]:
    """A slice cut so that adding one piece, sending another and receiving a third overlap."""
    count = max(1, min(PIECES, len(part) // PIECE))
    cuts = [part.start + len(part) * piece // count for piece in range(count + 1)]
    return [range(first, last) for first, last in itertools.pairwise(cuts)]
