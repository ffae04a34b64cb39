"""Exact gradient synchronization: sums over micro-batches in a fixed binary tree, the same bits for any number of
workers.

A worker adds up the largest complete subtrees of its micro-batches, its *nodes* (reduction_tree.py). The rest of the
tree is added by all workers together, in buckets, while the last backward pass goes on (exchange.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from trainers.distributed import shared_memory
from trainers.distributed.exchange import Exchange, Peers
from trainers.distributed.flat_gradients import FlatGradients
from trainers.distributed.grad_sync import Reduced, Requests, Rows
from trainers.distributed.process_group import World
from trainers.distributed.reduction_tree import Leaf, accumulation, nodes_of, shares
from trainers.distributed.row_sums import RowSums
from trainers.distributed.shared_memory import SharedBuffer


class Exact:
    """Exact gradient synchronization: the same bits for any number of workers and any placement on hosts."""

    def __init__(
        self,
        world: World,
        microbatches: int,
        networks: Mapping[str, nn.Module],
        longest: int = 0,
        in_tree: bool = True,
    ) -> None:
        """`longest` is the number of bytes of the longest flat vector of gradients. Without `in_tree` a worker that is
        alone adds its micro-batches one after the other, which saves memory and time, as `ddp` does."""
        self.world = world
        self.networks = networks
        self.microbatches = microbatches
        self.shares = shares(microbatches, world.size)
        self.share = self.shares[world.rank]
        self.nodes = [nodes_of(share, microbatches) for share in self.shares]
        self.own_nodes = self.nodes[world.rank]
        self.leaves = accumulation(self.share, microbatches)
        if not in_tree:
            self.leaves = [Leaf(index, 0, index == 0, ()) for index in self.share]
        self.notice = ""
        self.flat: dict[int, FlatGradients] = {}
        self.exchange: Exchange | None = None  # the buckets that the running backward pass fills
        self.hooks: list[Any] = []
        self.hosts = world.ranks_by_host()
        self.shared_buffer = self._shared_buffer(longest)
        self.peers = Peers(world, self.hosts, self.shares, microbatches, self.shared_buffer)
        self.rows = RowSums(world, self.nodes, microbatches, self.shared_buffer, len(self.hosts) == 1)

    def _shared_buffer(self, longest: int) -> SharedBuffer | None:
        """Memory shared with the other workers of this host; None, and a notice, if there is too little."""
        if not any(len(host) > 1 for host in self.hosts):
            return None
        nodes = [len(self.nodes[rank]) for rank in self._host()]
        shared = SharedBuffer.open(self.world, self._host(), nodes, longest)
        if all(self.world.all_gather(shared is not None)):
            return shared
        self.hosts = [[rank] for rank in range(self.world.size)]
        self.notice = (
            f"too little shared memory in {shared_memory.SHARED_MEMORY}: workers of one host synchronize "
            "gradients by messages, which is slower; the results are the same"
        )
        return None

    def _host(self) -> list[int]:
        return next(host for host in self.hosts if self.world.rank in host)

    def callables(self, used: Sequence[str]) -> Mapping[str, Callable[..., Any]]:
        return self.networks

    def reduce_rows(self, rows: Rows, requests: Callable[[], Requests]) -> Reduced:
        self.rows.publish(rows, requests())
        with self.world.waits():
            if self.shared_buffer is not None:
                self.shared_buffer.barrier()
            return self.rows.gather()

    def reduce_gradients(
        self,
        parameters: Sequence[nn.Parameter],
        loss: Callable[[int], tuple[Tensor, bool]],
        rows: Rows,
        requests: Callable[[], Requests],
        kept_graphs: bool,
        private: bool,
    ) -> Reduced:
        flat, weighted = self._flat(parameters), False

        def forward(leaf: Leaf) -> Tensor:
            nonlocal weighted
            if leaf.first:
                flat.slots[leaf.slot].zero_()
            flat.point(parameters, leaf.slot)
            value, has_weight = loss(leaf.microbatch)
            weighted |= has_weight
            return value

        *earlier, last = self.leaves
        for leaf in earlier:
            forward(leaf).backward()  # type: ignore[no-untyped-call]
            flat.add(leaf.additions, slice(None))
        value = forward(last)
        self.rows.publish(rows, requests())
        if self.world.size > 1:
            reduced = self._exchange(parameters, flat, value)
            if private:
                flat.slots[0].copy_(flat.received)
            flat.point(parameters, 0 if private else -1)
            return reduced
        value.backward()  # type: ignore[no-untyped-call]
        reduced = self.rows.gather()
        if self.microbatches > 1 or weighted:
            flat.finish_alone(last.additions, reduced.total[0])
        flat.point(parameters, 0)
        return reduced

    def _exchange(self, parameters: Sequence[nn.Parameter], flat: FlatGradients, value: Tensor) -> Reduced:
        """The last backward pass of this worker's share, and the sums over all workers."""
        self._watch(parameters, flat)
        self.exchange = exchange = Exchange(self.peers, flat, self.rows, self.leaves[-1])
        try:
            value.backward()  # type: ignore[no-untyped-call]
        finally:
            self.exchange = None
        return exchange.finish()

    def _watch(self, parameters: Sequence[nn.Parameter], flat: FlatGradients) -> None:
        """Let the exchange under way know when a parameter of the vector has its gradient."""

        def note(number: int, _: Tensor) -> None:
            if self.exchange is not None and self.exchange.flat is flat:
                self.exchange.note(number)

        for number, parameter in enumerate(parameters if len(flat.watched) < len(parameters) else ()):
            if number not in flat.watched and parameter.requires_grad:
                flat.watched.add(number)
                flat.exchanged = False  # its first pass is only watched
                self.hooks.append(parameter.register_post_accumulate_grad_hook(partial(note, number)))  # type: ignore[no-untyped-call]

    def _flat(self, parameters: Sequence[nn.Parameter]) -> FlatGradients:
        """The flat vectors of these parameters' gradients, created on first use."""
        key = id(parameters)
        if key not in self.flat:
            scratch = max(leaf.slot for leaf in self.leaves) + 1 - len(self.own_nodes)
            shared = self.shared_buffer.vectors(parameters) if self.shared_buffer is not None else None
            place = 0 if self.shared_buffer is None else self.shared_buffer.place
            self.flat[key] = FlatGradients(
                parameters, shared, place, len(self.own_nodes), max(scratch, 0), self.world.size
            )
        return self.flat[key]

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()
        self.flat.clear()
        self.shared_buffer = self.rows.shared = self.peers.shared = None
