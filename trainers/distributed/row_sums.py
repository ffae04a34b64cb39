"""Sums of the rows of all micro-batches over all workers, in the tree's order, and the workers' requests."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trainers.distributed.grad_sync import Reduced, Requests, Rows
from trainers.distributed.process_group import World
from trainers.distributed.reduction_tree import Node, fold
from trainers.distributed.shared_memory import REQUESTS, TAIL_ROOM, SharedBuffer


class RowSums:
    """In each phase, every worker publishes the sums of its nodes, and then gathers those of all."""

    def __init__(
        self, world: World, nodes: list[list[Node]], microbatches: int, shared: SharedBuffer | None, one_host: bool
    ) -> None:
        self.world, self.nodes, self.microbatches = world, nodes, microbatches
        self.shared, self.one_host = shared, one_host
        self.half = 0  # of the shared memory, alternately
        self.own = torch.zeros(0)
        self.device = self.own.device
        self.requests: Requests = (False,) * REQUESTS

    @property
    def in_memory(self) -> bool:
        """Whether the published rows lie in shared memory: then nobody has to send them."""
        most = max(map(len, self.nodes))
        return self.shared is not None and self.one_host and most * self.own.shape[1] * 8 <= TAIL_ROOM

    def publish(self, rows: Rows, requests: Requests) -> None:
        """Add up the rows of this worker's micro-batches, and let the others read the sums."""
        leaves = {(index, index + 1): row for index, row in rows.items()}
        sums = [fold(leaves, torch.add, *node) for node in self.nodes[self.world.rank]]
        self.device, self.half, self.requests = sums[0].device, 1 - self.half, requests
        if self.world.size == 1:
            self.own = sums[0]
            return
        self.own = torch.stack(sums).cpu()
        if self.shared is not None and self.in_memory:
            place = self.shared.place
            self.shared.tails[self.half][place].view(torch.float64)[: self.own.numel()] = self.own.view(-1)
            self.shared.requests[self.half][place] = requests

    def gather(self) -> Reduced:
        """What all workers have published in this phase. In shared memory, all of them must have done so before."""
        if self.world.size == 1:
            return Reduced(self.own, self.requests)
        length = self.own.shape[1]
        if self.shared is not None and self.in_memory:
            tails = self.shared.tails[self.half]
            parts = [
                tail.view(torch.float64)[: len(nodes) * length].view(-1, length)
                for nodes, tail in zip(self.nodes, tails, strict=True)
            ]
            return Reduced(self._fold(parts).to(self.device), _any_of(self.shared.requests[self.half]))
        sent = np.zeros((max(map(len, self.nodes)), length + REQUESTS))
        torch.from_numpy(sent)[: len(self.own), :length] = self.own
        sent[0, length:] = self.requests
        received = [np.empty_like(sent) for _ in self.nodes]
        dist.all_gather([torch.from_numpy(part) for part in received], torch.from_numpy(sent), group=self.world.group)
        total = self._fold([torch.from_numpy(part)[:, :length] for part in received])
        return Reduced(total.to(self.device), _any_of(np.stack([part[0, length:] for part in received])))

    def _fold(self, parts: list[Tensor]) -> Tensor:
        """The tree's sum of the rows of all nodes, from those of each worker."""
        rows = {
            node: row
            for nodes, sums in zip(self.nodes, parts, strict=True)
            for node, row in zip(nodes, sums, strict=False)
        }
        total: Tensor = fold(rows, torch.add, 0, self.microbatches)
        return total


def _any_of(requests: np.ndarray) -> Requests:
    """What any of the workers asks, from a line of each."""
    return tuple(bool(asked.any()) for asked in requests.T)
