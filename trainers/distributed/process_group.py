"""The process group of a run as one worker sees it: its rank, the number of workers, and a few small messages."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from trainers.base.errors import PeerLost
from trainers.base.problems import Problem

PATIENCE = datetime.timedelta(minutes=30)  # of the message library; the supervisor of the group gives up much earlier


class World:
    """A group of workers. `group` is its gloo process group; None for a worker that is alone."""

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None, shares_memory: bool = True) -> None:
        self.rank = rank
        self.size = size
        self.group = group
        self.shares_memory = shares_memory  # whether workers of one host may share /dev/shm
        self.waiting = False  # whether this worker waits for others: then it is not the hung one

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """Marks a block that waits for other workers; an error of torch.distributed there means a lost worker."""
        self.waiting = True
        try:
            yield
        except RuntimeError as error:
            raise PeerLost(Problem("lost", reason=f"lost the other workers: {str(error).splitlines()[0]}")) from error
        finally:
            self.waiting = False

    def all_gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self.waits():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def gather_to_rank0(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks, on rank 0; only its own on other ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.rank == 0 else None
        with self.waits():
            dist.gather_object(value, values, group=self.group, group_dst=0)
        return [value] if values is None else values

    def leave(self) -> None:
        """Leave the process group that `join` made: no messages follow."""
        if self.group is not None:
            dist.destroy_process_group(self.group)
            self.group = None

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        values = [value]
        with self.waits():
            dist.broadcast_object_list(values, group=self.group, group_src=0)
        return values[0]

    def broadcast_tensors(self, tensors: list[torch.Tensor]) -> None:
        """Overwrite the tensors with rank 0's."""
        for tensor in tensors if self.size > 1 else []:
            received = tensor.detach().cpu().contiguous()
            with self.waits():
                dist.broadcast(received, group=self.group, group_src=0)
            tensor.detach().copy_(received)

    def ranks_by_host(self) -> list[list[int]]:
        """The ranks by host, in the order of ranks: those of one list can share memory."""
        own_host = (host_identity(), "" if self.shares_memory else str(self.rank))
        everywhere = self.all_gather(own_host)
        hosts: list[list[int]] = []
        for rank, where in enumerate(everywhere):  # neighbours in rank, since they hold neighbouring micro-batches
            if rank and where == everywhere[rank - 1]:
                hosts[-1].append(rank)
            else:
                hosts.append([rank])
        return hosts


def join(address: str, port: int, rank: int, size: int, device: str, shares_memory: bool = True) -> World:
    """Join the process group of `size` workers through rank 0's address; gloo, and NCCL too on GPUs."""
    if size == 1:
        return World()
    with World().waits():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            init_method=f"tcp://{address}:{port}",
            rank=rank,
            world_size=size,
            timeout=PATIENCE,
        )
    return World(rank, size, dist.group.WORLD, shares_memory)


def free_port() -> int:
    """A TCP port that is currently free on this host."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def host_identity() -> str:
    """An identifier that is the same for processes that share /dev/shm and a PID namespace, and differs otherwise."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            boot = file.read().strip()
        shared = os.stat("/dev/shm")
        return f"{boot}:{shared.st_dev}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()}:{os.getpid()}"  # no shared memory: every worker counts as its own host
