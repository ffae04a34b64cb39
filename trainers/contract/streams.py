"""All randomness and order in a run, as pure functions of its seed: never of a worker or the number of workers.

A stream maps places to samples, with epochs laid end to end; a batch is the next N places.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

GRID_SEED = 20151119  # of the fixed grid: not the run's seed, so that runs with different seeds are comparable
CHUNK = 256  # default number of places evaluated at once
Batch = Callable[[Sequence[int]], dict[str, Any]]


def seed_of(*key: object) -> int:
    """A 32-bit seed for a key such as (run seed, phase, number of runs of the phase, micro-batch).

    torch's CPU generator uses only the low 32 bits of its seed, so a wider hash would be truncated silently.
    """
    text = "/".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


@functools.lru_cache(maxsize=4)
def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `size` samples in an epoch: every sample once. Shape (size,), int64."""
    bits = np.random.Philox(key=[seed, epoch])
    order = np.random.Generator(bits).permutation(size)
    order.setflags(write=False)  # it is cached, and returned in parts
    return order


def sample_indices(size: int, seed: int, start: int, count: int) -> np.ndarray:
    """The samples at positions [start, start + count) of the stream: epochs laid end to end. Shape (count,), int64."""
    parts = []
    while count > 0:
        epoch, place = divmod(start, size)
        part = permutation(size, seed, epoch)[place : place + count]
        parts.append(part)
        start, count = start + len(part), count - len(part)
    return np.concatenate(parts) if len(parts) != 1 else parts[0]


class StreamBatch(NamedTuple):
    """The samples at some places of a stream."""

    tensors: dict[str, Tensor]
    indices: Sequence[int]  # of the samples in the data
    epochs: Sequence[int]  # of each


class Stream(Protocol):
    """Where samples come from: a pure function of the place."""

    length: int  # places of an epoch
    chunk: int  # places that are evaluated at once, at most

    def at(self, places: range) -> StreamBatch:
        """The samples at these places."""


class Shuffled:
    """Every sample once per epoch, in a new order each epoch. `batch` returns the tensors of samples."""

    def __init__(self, batch: Batch, length: int, seed: int) -> None:
        self.batch, self.length, self.seed, self.chunk = batch, length, seed, CHUNK

    def at(self, places: range) -> StreamBatch:
        indices = sample_indices(self.length, self.seed, places.start, len(places)).tolist()
        return StreamBatch(self.batch(indices), indices, [place // self.length for place in places])


class InOrder:
    """Samples in dataset order; without `batch`, only places, for samples made of noise alone."""

    def __init__(self, length: int, batch: Batch | None = None, chunk: int = CHUNK) -> None:
        self.length, self.batch, self.chunk = length, batch, chunk

    def at(self, places: range) -> StreamBatch:
        indices = [place % self.length for place in places]
        tensors = self.batch(indices) if self.batch is not None else {}
        return StreamBatch(tensors, indices, [place // self.length for place in places])


class SideBySide:
    """Independent streams read at the same places: the tensors of stream `a` are named `a_...`.

    An epoch is that of the longest stream; indices are those of the first.
    """

    def __init__(self, **streams: Stream) -> None:
        self.streams = streams
        self.length = max(stream.length for stream in streams.values())
        self.chunk = min(stream.chunk for stream in streams.values())

    def at(self, places: range) -> StreamBatch:
        parts = {name: stream.at(places) for name, stream in self.streams.items()}
        tensors = {f"{name}_{key}": tensor for name, part in parts.items() for key, tensor in part.tensors.items()}
        return StreamBatch(tensors, next(iter(parts.values())).indices, [place // self.length for place in places])


class Columns:
    """A text split into `columns` of equal length, read in parallel, `window` words at a time.

    A batch with one sample per column is one window of all columns, and the next batch continues where it ended: state
    kept from step to step belongs to a column. Place p is column p % columns of window p // columns; the rest of the
    text that fills no column is dropped. Tensors: `words` and `next`, (rows, window), and `begins` (rows,), whether the
    text starts here.
    """

    def __init__(self, text: Tensor, columns: int, window: int) -> None:
        self.columns, self.window, self.chunk = columns, window, columns
        long = len(text) // columns
        self.text = text[: long * columns].view(columns, long)
        self.windows = max(0, (long - 1) // window)
        self.length = columns * self.windows

    def at(self, places: range) -> StreamBatch:
        import torch

        rows = [(place % self.columns, place // self.columns % self.windows) for place in places]
        spans = [
            self.text[column, start * self.window : start * self.window + self.window + 1] for column, start in rows
        ]
        both = torch.stack(spans)
        begins = torch.tensor([start == 0 for _, start in rows])
        tensors = {"words": both[:, :-1], "next": both[:, 1:], "begins": begins}
        return StreamBatch(
            tensors, [place % self.length for place in places], [place // self.length for place in places]
        )
