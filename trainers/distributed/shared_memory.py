"""Shared memory of the workers of one host: counters, a few numbers of each worker, and flat vectors of gradients."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from trainers.base.errors import PeerLost
from trainers.base.problems import Problem
from trainers.distributed.process_group import World

ALIGNMENT = 64  # bytes: every tensor in a flat vector starts at a multiple of it
SHARED_MEMORY = "/dev/shm"
TAIL_ROOM = 1 << 20  # bytes for what each worker publishes besides its gradients: metrics and averages
REQUESTS = 2  # of each worker: to stop, and to save
MOST_BUCKETS = 32  # of a vector of gradients


def places(parameters: Sequence[Tensor]) -> list[int]:
    """Where each tensor starts in a flat vector, at a multiple of 64 bytes, and where the last one ends."""
    line = ALIGNMENT // parameters[0].element_size()
    lengths = [-(-parameter.numel() // line) * line for parameter in parameters]
    return list(itertools.accumulate(lengths, initial=0))


def padded_length(parameters: Sequence[Tensor]) -> int:
    """Numbers in the flat vector of these tensors."""
    return places(parameters)[-1]


class SharedBuffer:
    """Memory that the workers of one host share: counters and requests, a tail of each, then vectors."""

    COUNTERS = 320  # bytes of each worker's counters and requests, in cache lines of their own

    def __init__(self, memory: mmap.mmap, place: int, nodes: Sequence[int], longest: int) -> None:
        self.place, self.nodes, self.longest = place, nodes, longest
        self.turn = 0
        self.parent = os.getppid()
        everything = torch.frombuffer(memory, dtype=torch.uint8)
        head = len(nodes) * self.COUNTERS
        numbers = np.frombuffer(memory, dtype=np.int64, count=head // 8).reshape(len(nodes), -1)
        self.counters = numbers[:, 0]  # the newest barrier that a worker has reached
        # two of these, used alternately: a fast worker may write its next ones while a slow one still reads
        self.requests = [numbers[:, 1 + REQUESTS * half : 1 + REQUESTS * (half + 1)] for half in range(2)]
        self.tails = everything[head : head + 2 * len(nodes) * TAIL_ROOM].view(2, len(nodes), TAIL_ROOM)
        self.filled = numbers[:, 8 : 8 + MOST_BUCKETS]  # the newest round in which a worker has filled a bucket
        self.rest = everything[head + 2 * len(nodes) * TAIL_ROOM :]

    @classmethod
    def open(cls, world: World, host: Sequence[int], nodes: Sequence[int], longest: int) -> SharedBuffer | None:
        """Let all workers of the host map an unnamed file: nothing is left when they are killed. Returns None if there
        is too little shared memory."""
        first = world.rank == host[0]
        size = len(nodes) * (cls.COUNTERS + 2 * TAIL_ROOM) + (sum(nodes) + 1) * longest
        file, memory = ("", 0), None  # the path by which others open it, and its inode to verify
        with contextlib.ExitStack() as stack:
            if first and len(host) > 1:
                with contextlib.suppress(OSError):
                    descriptor = os.open(SHARED_MEMORY, os.O_RDWR | getattr(os, "O_TMPFILE", 0), 0o600)
                    stack.callback(os.close, descriptor)
                    os.posix_fallocate(descriptor, 0, size)  # else writing to a full memory kills this process
                    memory = mmap.mmap(descriptor, size)
                    file = f"/proc/{os.getpid()}/fd/{descriptor}", os.fstat(descriptor).st_ino
            path, number = world.all_gather(file)[host[0]]
            if not first and path:
                with contextlib.suppress(OSError):
                    descriptor = os.open(path, os.O_RDWR)
                    stack.callback(os.close, descriptor)
                    if os.fstat(descriptor).st_ino == number:
                        memory = mmap.mmap(descriptor, size)
            world.all_gather(None)  # all have it open
        if memory is None and len(host) > 1:
            return None
        return cls(memory or mmap.mmap(-1, size), list(host).index(world.rank), nodes, longest)

    def vectors(self, parameters: Sequence[nn.Parameter]) -> tuple[list[list[Tensor]], Tensor]:
        """Each worker's nodes, and the sum.

        Phases run one after another, so their vectors share the same memory. Nodes and sum have separate places,
        because a slow worker may still read the sum of one phase while a fast one writes its nodes of the next.
        """
        length = padded_length(parameters)
        places = self.rest.view(-1, self.longest)[:, : length * parameters[0].element_size()]
        parts = [place.view(parameters[0].dtype) for place in places]
        starts = [sum(self.nodes[:place]) for place in range(len(self.nodes) + 1)]
        return [parts[a:b] for a, b in itertools.pairwise(starts)], parts[-1]

    def barrier(self) -> None:
        """Wait until all workers of the host have called it."""
        self.turn += 1
        publish_writes()
        self.counters[self.place] = self.turn
        self.wait_until(lambda: bool(self.counters.min() >= self.turn))

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Wait until another worker's writes have made this true; they are visible then."""
        waits = 0
        while not done():
            waits += 1
            if waits > 20:
                time.sleep(min(0.001, 0.00005 * (waits - 20)))
                if waits % 1000 == 0 and os.getppid() != self.parent:
                    raise PeerLost(Problem("lost", reason="the process that started this worker has exited"))
        publish_writes()


_FENCE = None if platform.machine() in ("x86_64", "AMD64", "i686") else threading.Lock()


def publish_writes() -> None:
    """Order memory accesses between processes. x86 needs nothing: stores become visible in order."""
    if _FENCE is not None:
        for _ in range(2):
            with _FENCE:
                pass
