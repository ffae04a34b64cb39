"""Shared memory of the workers of one host: a barrier, a few numbers of each, and flat vectors of gradients."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import platform
import threading
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from trainers.base.errors import PeerLost
from trainers.base.problems import Problem
from trainers.distributed.process_group import World

ALIGNMENT = 64  # bytes: every tensor in a flat vector starts at a multiple of it
SHARED_MEMORY = "/dev/shm"
TAIL_ROOM = 1 << 20  # bytes for what each worker publishes besides its gradients: metrics, averages, flags


def padded_length(parameters: Sequence[Tensor]) -> int:
    """Numbers in the flat vector of these tensors, each starting at a multiple of 64 bytes."""
    line = ALIGNMENT // parameters[0].element_size()
    return sum(-(-parameter.numel() // line) * line for parameter in parameters)


class SharedBuffer:
    """Memory that the workers of one host share: counters for a barrier, a tail of each, then vectors."""

    COUNTER = 64  # bytes apart, so that no two lie in one cache line

    def __init__(self, memory: mmap.mmap, place: int, nodes: Sequence[int], longest: int) -> None:
        self.place, self.nodes, self.longest = place, nodes, longest
        self.turn = 0
        self.parent = os.getppid()
        everything = torch.frombuffer(memory, dtype=torch.uint8)
        head = len(nodes) * self.COUNTER
        self.counters = np.frombuffer(memory, dtype=np.int64, count=head // 8)[:: self.COUNTER // 8]
        # two of each, used alternately: a fast worker may write its next one while a slow one still reads
        self.tails = everything[head : head + 2 * len(nodes) * TAIL_ROOM].view(2, len(nodes), TAIL_ROOM)
        self.rest = everything[head + 2 * len(nodes) * TAIL_ROOM :]

    @classmethod
    def open(cls, world: World, host: Sequence[int], nodes: Sequence[int], longest: int) -> SharedBuffer | None:
        """Let all workers of the host map an unnamed file: nothing is left when they are killed. Returns None if there
        is too little shared memory."""
        first = world.rank == host[0]
        size = len(nodes) * (cls.COUNTER + 2 * TAIL_ROOM) + (sum(nodes) + 1) * longest
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
        _publish_writes()
        self.counters[self.place] = self.turn
        waits = 0
        while self.counters.min() < self.turn:
            waits += 1
            if waits > 20:
                time.sleep(min(0.001, 0.00005 * (waits - 20)))
                if waits % 1000 == 0 and os.getppid() != self.parent:
                    raise PeerLost(Problem("lost", reason="the process that started this worker has exited"))
        _publish_writes()


_FENCE = None if platform.machine() in ("x86_64", "AMD64", "i686") else threading.Lock()


def _publish_writes() -> None:
    """Order memory accesses between processes. x86 needs nothing: stores become visible in order."""
    if _FENCE is not None:
        for _ in range(2):
            with _FENCE:
                pass
