"""The sums of one vector of gradients over all workers, bucket by bucket, while a backward pass fills it.

A bucket that all workers of a host have filled is started: on one host, each worker adds all nodes in its slice of the
bucket; between hosts, each worker has one partner on every other host, which sends the sums of its host's nodes in this
worker's slice, and receives the result. What cannot be done without waiting is left for `finish`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainers.base.errors import FAILED, TroupeError
from trainers.base.problems import Problem
from trainers.distributed.flat_gradients import BLOCK, FlatGradients, pieces, slices
from trainers.distributed.grad_sync import Reduced
from trainers.distributed.process_group import World
from trainers.distributed.reduction_tree import Leaf, Node, fold, nodes_of
from trainers.distributed.row_sums import RowSums
from trainers.distributed.shared_memory import SharedBuffer, publish_writes

Messages = list[Any]  # under way


class Peers:
    """The workers of a group by host, and which of them help each other."""

    def __init__(
        self,
        world: World,
        hosts: Sequence[Sequence[int]],
        shares: Sequence[range],
        microbatches: int,
        shared: SharedBuffer | None,
    ) -> None:
        self.world, self.microbatches, self.shared = world, microbatches, shared
        self.host = next(host for host in hosts if world.rank in host)
        self.nodes = [nodes_of(shares[rank], microbatches) for rank in self.host]
        place = self.host.index(world.rank)
        self.host_nodes = [nodes_of(host_share(host, shares), microbatches) for host in hosts]
        self.own_host_nodes = self.host_nodes[hosts.index(self.host)]
        others = [(number, ranks) for number, ranks in enumerate(hosts) if ranks != self.host]
        # `partners` help to add up this worker's slices: (number of the host, rank); this worker helps the `served`
        self.partners = [(number, ranks[place % len(ranks)]) for number, ranks in others]
        self.served = [rank for _, ranks in others for at, rank in enumerate(ranks) if at % len(self.host) == place]

    def send(self, tensor: Tensor, rank: int, tag: int) -> Any:
        return dist.isend(tensor, group=self.world.group, group_dst=rank, tag=tag)

    def receive(self, tensor: Tensor, rank: int, tag: int) -> Any:
        return dist.irecv(tensor, group=self.world.group, group_src=rank, tag=tag)


def host_share(host: Sequence[int], shares: Sequence[range]) -> range:
    """The micro-batches of a host's workers, which hold neighbouring shares."""
    return range(shares[host[0]].start, shares[host[-1]].stop)


class Exchange:
    """One vector in one phase. Made before the last backward pass of the worker's share; ended by `finish`."""

    def __init__(self, peers: Peers, flat: FlatGradients, rows: RowSums, last: Leaf) -> None:
        self.peers, self.flat, self.rows, self.last = peers, flat, rows, last
        self.missing = list(flat.bucket_sizes)  # parameters without a gradient yet, by bucket
        self.noted = set[int]()
        self.unfilled = set(range(len(flat.buckets)))
        self.unstarted = list(range(len(flat.buckets)))
        self.unfinished: list[int] = []  # started, but not added up
        self.arriving: dict[int, list[tuple[range, dict[Node, Tensor], Messages]]] = {}  # other hosts' sums, by bucket
        self.leaving: Messages = []
        self.nodes: dict[Node, Tensor] = {
            node: slot
            for nodes, slots in zip(peers.nodes, flat.published, strict=True)
            for node, slot in zip(nodes, slots, strict=True)
        }
        self.reduced: Reduced | None = None

    def note(self, number: int) -> None:
        """The backward pass has computed the gradient of a parameter."""
        flat, bucket = self.flat, self.flat.bucket_of[number]
        if number in self.noted:
            if flat.overlaps:
                reason = "a parameter got a gradient twice in one backward pass, but once before"
                raise TroupeError(Problem("exchange-misfit", "grad_sync", reason, "", "exact"), FAILED)
            flat.fires_once = False
        self.noted.add(number)
        self.missing[bucket] -= 1
        if flat.overlaps and self.missing[bucket] == 0:
            self._fill([bucket])
            with self.peers.world.waits():  # a message to a worker that has gone fails at once
                self._advance()

    def finish(self) -> Reduced:
        """Wait for the other workers, and leave the sums over the weight in the vector's `received`."""
        flat, shared = self.flat, self.peers.shared
        self._fill(sorted(self.unfilled))
        flat.exchanged = True
        with self.peers.world.waits():
            if shared is not None:
                shared.wait_until(self._advance)
            else:
                self._advance()
            reduced = self._gathered()
            for bucket in self.unfinished:
                self._add(bucket, reduced.total[0])
            for message in self.leaving:
                message.wait()
            if shared is not None:
                shared.barrier()
        flat.receive()
        return reduced

    def _fill(self, buckets: Sequence[int]) -> None:
        """Complete this worker's nodes in these buckets, and let the other workers of the host read them."""
        flat, shared = self.flat, self.peers.shared
        for bucket in buckets:
            flat.add(self.last.additions, _slice(flat.buckets[bucket]))
        flat.publish()
        publish_writes()
        for bucket in buckets:
            if shared is not None:
                shared.filled[shared.place, bucket] = shared.turn + 1
        self.unfilled.difference_update(buckets)

    def _advance(self) -> bool:
        """Start what all workers of the host have filled; returns whether all buckets are started."""
        shared = self.peers.shared
        for bucket in list(self.unstarted):
            filled = bucket not in self.unfilled
            if shared is not None:
                filled = bool((shared.filled[:, bucket] > shared.turn).all())
            if filled:
                publish_writes()
                self.unstarted.remove(bucket)
                self._start(bucket)
        return not self.unstarted

    def _start(self, bucket: int) -> None:
        """What can be done for a bucket without waiting for another host."""
        if self.rows.in_memory:
            self._add(bucket, self._gathered().total[0])
            return
        self.unfinished.append(bucket)
        peers, result = self.peers, self.flat.result
        owned = self._slices(bucket)
        self.arriving[bucket] = [self._receive_sums(bucket, piece) for piece in pieces(owned[peers.world.rank])]
        for rank in peers.served:
            for piece in pieces(owned[rank]):
                self.leaving.append(peers.receive(result[_slice(piece)], rank, 2 * bucket + 1))
                parts = {node: slot[_slice(piece)] for node, slot in self.nodes.items()}
                for node in peers.own_host_nodes:
                    partial = fold(parts, torch.add, *node)
                    self.leaving.append(peers.send(partial, rank, 2 * bucket))

    def _receive_sums(self, bucket: int, piece: range) -> tuple[range, dict[Node, Tensor], Messages]:
        """The other hosts' sums of a piece of this worker's slice, and the messages that bring them."""
        peers = self.peers
        sums = {
            node: self.flat.result.new_empty(len(piece))
            for host, _ in peers.partners
            for node in peers.host_nodes[host]
        }
        messages = [
            peers.receive(sums[node], rank, 2 * bucket)
            for host, rank in peers.partners
            for node in peers.host_nodes[host]
        ]
        return piece, sums, messages

    def _add(self, bucket: int, weight: Tensor) -> None:
        """Add up this worker's slice of a bucket, and send the result to every other host."""
        weight = weight.to(self.flat.result.device)
        arriving = self.arriving.get(bucket)
        if arriving is None:
            arriving = [(self._slices(bucket)[self.peers.world.rank], {}, [])]
        for piece, sums, messages in arriving:
            for message in messages:
                message.wait()
            self._add_piece(piece, sums, weight)
            for _, rank in self.peers.partners:
                self.leaving.append(self.peers.send(self.flat.result[_slice(piece)], rank, 2 * bucket + 1))

    def _add_piece(self, piece: range, sums: Mapping[Node, Tensor], weight: Tensor) -> None:
        """The result of a piece, from this host's nodes and the other hosts' sums, in blocks that fit the cache."""
        for begin in range(piece.start, piece.stop, BLOCK):
            end = min(begin + BLOCK, piece.stop)
            parts = {node: slot[begin:end] for node, slot in self.nodes.items()}
            parts |= {node: part[begin - piece.start : end - piece.start] for node, part in sums.items()}
            total = fold(parts, torch.add, 0, self.peers.microbatches)
            torch.div(total, weight, out=self.flat.result[begin:end])

    def _slices(self, bucket: int) -> list[range]:
        return slices(self.flat.buckets[bucket], self.peers.world.size, self.flat.result.element_size())

    def _gathered(self) -> Reduced:
        """The rows of all workers, gathered at most once in a phase."""
        if self.reduced is None:
            self.reduced = self.rows.gather()
        return self.reduced


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)
