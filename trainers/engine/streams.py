"""Everything random or ordered in a run, as pure functions of its seed: never of a worker, nor of their number."""

from __future__ import annotations

import functools
import hashlib

import numpy as np

GRID_SEED = 20151119  # of the fixed grid: not the run's seed, so that runs with different seeds can be compared


def seed_of(*key: object) -> int:
    """32 bits for a key such as (run seed, phase, how often it has run, micro-batch).

    torch's CPU generator uses the low 32 bits of its seed only, so that a wider hash would be cut off silently.
    """
    text = "/".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


@functools.lru_cache(maxsize=2)
def order(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `size` samples in an epoch: every sample once. Shape (size,), int64."""
    bits = np.random.Philox(key=[seed, epoch])
    permutation = np.random.Generator(bits).permutation(size)
    permutation.setflags(write=False)  # it is kept, and handed out in parts
    return permutation


def sample_indices(size: int, seed: int, start: int, count: int) -> np.ndarray:
    """The samples at positions [start, start + count) of the stream: epochs laid end to end. Shape (count,), int64."""
    parts = []
    while count > 0:
        epoch, place = divmod(start, size)
        part = order(size, seed, epoch)[place : place + count]
        parts.append(part)
        start, count = start + len(part), count - len(part)
    return np.concatenate(parts) if len(parts) != 1 else parts[0]
