"""Exact gradient synchronization: sums over micro-batches in a fixed binary tree, the same bits for any number of
workers.

A worker adds up the largest complete subtrees of its micro-batches, its *nodes* (reduction_tree.py). The rest of the
tree is added slice by slice: every worker owns a slice of the vector and adds all workers' nodes there. Workers of one
host read each other's nodes in shared memory; hosts send each other slices of theirs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainers.distributed import shared_memory
from trainers.distributed.process_group import World
from trainers.distributed.reduction_tree import Node, accumulation, fold, nodes_of, shares
from trainers.distributed.shared_memory import ALIGNMENT, TAIL_ROOM, SharedBuffer, padded_length

BLOCK = 1 << 16  # numbers added at a time, so that partial sums stay in the cache
SUM, RESULT = 0, 1  # tags of messages between hosts
PIECES, PIECE = 4, 1 << 20  # messages per slice between hosts, at most, and numbers in each, at least


class GradSync(Protocol):
    """What the loop requires of gradient synchronization. In each phase: `accumulate_gradients`, `all_reduce_metrics`,
    `all_reduce_gradients`."""

    share: range  # this worker's micro-batches
    notice: str  # a notice for the user about how it works here, or ""

    def callables(self, used: Sequence[str]) -> Mapping[str, Callable[..., Any]]:
        """The networks for a loss to call, in a phase that trains those named in `used` or keeps their graph."""

    def accumulate_gradients(
        self, parameters: Sequence[nn.Parameter], loss: Callable[[int], Tensor], kept_graphs: bool
    ) -> None:
        """Compute the loss of each micro-batch of the share and add up the gradients in this worker.

        `kept_graphs`: the graphs of several micro-batches were made in an earlier phase.
        """

    def all_reduce_metrics(self, rows: Mapping[int, Tensor]) -> Tensor:
        """Add up a float64 row for each micro-batch, over all workers and in the tree's order."""

    def all_reduce_gradients(self, parameters: Sequence[nn.Parameter], weight: float, private: bool) -> None:
        """Leave in `.grad` the sum of all gradients over `weight`; `private`: it will be changed in place."""

    def close(self) -> None:
        """Release what is shared with other workers; no phase follows."""


class Exact:
    """Exact gradient synchronization: the same bits for any number of workers and any placement on hosts."""

    def __init__(self, world: World, microbatches: int, networks: Mapping[str, nn.Module], longest: int = 0) -> None:
        """`longest` is the number of bytes of the longest flat vector of gradients."""
        self.world = world
        self.networks = networks
        self.microbatches = microbatches
        self.shares = shares(microbatches, world.size)
        self.share = self.shares[world.rank]
        self.nodes = [nodes_of(share, microbatches) for share in self.shares]
        self.leaves = accumulation(self.share, microbatches)
        self.notice = ""
        self.flat: dict[int, FlatGradients] = {}
        self.current: FlatGradients | None = None
        self.rounds = 0
        self.hosts = world.ranks_by_host()
        self.shared_buffer: SharedBuffer | None = None
        if any(len(host) > 1 for host in self.hosts):
            self.shared_buffer = SharedBuffer.open(
                world, self._host(), [len(self.nodes[rank]) for rank in self._host()], longest
            )
            if not all(world.all_gather(self.shared_buffer is not None)):
                self.shared_buffer = None
                self.hosts = [[rank] for rank in range(world.size)]
                self.notice = (
                    f"too little shared memory in {shared_memory.SHARED_MEMORY}: workers of one host synchronize "
                    "gradients by messages, which is slower; the results are the same"
                )
        self.host = self._host()
        self.host_rank = self.host.index(world.rank)
        self.host_nodes = [nodes_of(host_share(host, self.shares), microbatches) for host in self.hosts]
        others = [(number, ranks) for number, ranks in enumerate(self.hosts) if ranks != self.host]
        # `partners` help to add up this worker's slice: (number of the host, rank); this worker helps the `served` ones
        self.partners = [(number, ranks[self.host_rank % len(ranks)]) for number, ranks in others]
        self.served = [
            rank for _, ranks in others for place, rank in enumerate(ranks) if place % len(self.host) == self.host_rank
        ]

    def _host(self) -> list[int]:
        return next(host for host in self.hosts if self.world.rank in host)

    def callables(self, used: Sequence[str]) -> Mapping[str, Callable[..., Any]]:
        return self.networks

    def accumulate_gradients(
        self, parameters: Sequence[nn.Parameter], loss: Callable[[int], Tensor], kept_graphs: bool
    ) -> None:
        if self.microbatches == 1:  # nothing to add up, now or with other workers
            for parameter in parameters:
                parameter.grad = None
            loss(0).backward()  # type: ignore[no-untyped-call]
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            return
        flat = self.current = self._flat(parameters)
        for leaf in self.leaves:
            if leaf.first:
                flat.slots[leaf.slot].zero_()
            flat.point(parameters, leaf.slot)
            loss(leaf.microbatch).backward()  # type: ignore[no-untyped-call]
            for into, source in leaf.additions:
                flat.slots[into].add_(flat.slots[source])

    def all_reduce_metrics(self, rows: Mapping[int, Tensor]) -> Tensor:
        leaves = {(index, index + 1): row for index, row in rows.items()}
        if self.world.size == 1:
            return fold(leaves, torch.add, 0, self.microbatches)
        own = [fold(leaves, torch.add, *node) for node in self.nodes[self.world.rank]]
        with self.world.waits():
            tails = self._tails(torch.stack(own))
        return fold(tails, torch.add, 0, self.microbatches)

    def _tails(self, own: Tensor) -> dict[Node, Tensor]:
        """The rows of all nodes of all workers. Returns when all workers' gradients are in their slots."""
        length = own.shape[1]
        self.rounds += 1
        if self.shared_buffer is not None and own.nbytes <= TAIL_ROOM:
            self.shared_buffer.tails[self.rounds % 2][self.host_rank].view(torch.float64)[: own.numel()] = own.view(-1)
        if self.current is not None:
            self.current.publish()
        if self.shared_buffer is not None:
            self.shared_buffer.barrier()
        if (
            self.shared_buffer is not None
            and len(self.hosts) == 1
            and all(len(self.nodes[rank]) * length * 8 <= TAIL_ROOM for rank in self.host)
        ):
            gathered = [
                tail.view(torch.float64)[: len(self.nodes[rank]) * length].view(-1, length).clone()
                for rank, tail in zip(self.host, self.shared_buffer.tails[self.rounds % 2], strict=True)
            ]
        else:
            most = max(map(len, self.nodes))
            padded = torch.zeros(most, length, dtype=torch.float64)
            padded[: len(own)] = own
            gathered = [torch.empty_like(padded) for _ in self.shares]
            dist.all_gather(gathered, padded, group=self.world.group)
        return {
            node: row
            for nodes, rows in zip(self.nodes, gathered, strict=True)
            for node, row in zip(nodes, rows, strict=False)
        }

    def all_reduce_gradients(self, parameters: Sequence[nn.Parameter], weight: float, private: bool) -> None:
        if self.microbatches == 1:
            if weight != 1:
                torch._foreach_div_([p.grad for p in parameters if p.grad is not None], weight)
            return
        flat = self._flat(parameters)
        if self.world.size == 1:
            nodes = dict(zip(self.nodes[0], flat.slots, strict=False))
            divisor: float | Tensor = weight
            size = BLOCK
            if flat.result.is_cuda:  # with a plain number, CUDA multiplies by the rounded inverse instead of dividing
                divisor = torch.full((), weight, dtype=flat.result.dtype, device=flat.result.device)
                size = len(flat.result)
            for start in range(0, len(flat.result), size):
                block = slice(start, start + size)
                self._add_block({node: slot[block] for node, slot in nodes.items()}, flat.result[block], divisor)
        else:
            with self.world.waits():
                self._add_slices(flat, weight)
        flat.receive()
        if private and self.world.size > 1:
            flat.slots[0].copy_(flat.received)
            flat.point(parameters, 0)
        else:
            flat.point(parameters, -1)

    def _add_slices(self, flat: FlatGradients, weight: float) -> None:
        """Add up the slice that this worker owns, and send every host the sum.

        Between hosts, each worker has one partner on every other host: the partner sends the sums of its host's nodes
        (tag 0), and receives the result (tag 1).
        """
        nodes: dict[Node, Tensor] = {
            node: slot
            for rank, slots in zip(self.host, flat.published, strict=True)
            for node, slot in zip(self.nodes[rank], slots, strict=True)
        }
        owned = slices(len(flat.result), self.world.size, flat.result.element_size())
        own = pieces(*owned[self.world.rank])
        arriving = [self._receive_sums(flat.result, piece) for piece in own]
        under_way = self._receive_results(flat.result, owned) + self._send_sums(nodes, owned)
        for (start, end), (sums, messages) in zip(own, arriving, strict=True):
            for message in messages:
                message.wait()
            self._add_piece(flat.result, nodes, sums, start, end, weight)
            under_way += [self._send(flat.result[start:end], rank, RESULT) for _, rank in self.partners]
        for message in under_way:
            message.wait()
        if self.shared_buffer is not None:
            self.shared_buffer.barrier()

    def _receive_sums(self, result: Tensor, piece: tuple[int, int]) -> tuple[dict[Node, Tensor], list[Any]]:
        """The other hosts' sums of a piece of this worker's slice, and the messages that bring them."""
        sums = {
            node: result.new_empty(piece[1] - piece[0]) for host, _ in self.partners for node in self.host_nodes[host]
        }
        messages = [
            self._receive(sums[node], rank, SUM) for host, rank in self.partners for node in self.host_nodes[host]
        ]
        return sums, messages

    def _receive_results(self, result: Tensor, owned: Sequence[tuple[int, int]]) -> list[Any]:
        """Start to receive the slices that other hosts own and this worker brings to its host."""
        return [
            self._receive(result[start:end], rank, RESULT)
            for rank in self.served
            for start, end in pieces(*owned[rank])
        ]

    def _send_sums(self, nodes: Mapping[Node, Tensor], owned: Sequence[tuple[int, int]]) -> list[Any]:
        """Send the sums of this host's nodes to the workers of other hosts that own these slices."""
        under_way = []
        for rank in self.served:
            for start, end in pieces(*owned[rank]):
                parts = {node: slot[start:end] for node, slot in nodes.items()}
                for node in self.host_nodes[self.hosts.index(self.host)]:
                    partial = fold(parts, torch.add, *node)
                    under_way.append(self._send(partial, rank, SUM))
        return under_way

    def _add_piece(
        self,
        result: Tensor,
        nodes: Mapping[Node, Tensor],
        sums: Mapping[Node, Tensor],
        start: int,
        end: int,
        weight: float,
    ) -> None:
        """The result of a piece, from this host's nodes and the other hosts' sums, in blocks that fit the cache."""
        for begin in range(start, end, BLOCK):
            stop = min(begin + BLOCK, end)
            parts = {node: slot[begin:stop] for node, slot in nodes.items()}
            parts |= {node: part[begin - start : stop - start] for node, part in sums.items()}
            self._add_block(parts, result[begin:stop], weight)

    def _send(self, tensor: Tensor, rank: int, tag: int) -> Any:
        return dist.isend(tensor, group=self.world.group, group_dst=rank, tag=tag)

    def _receive(self, tensor: Tensor, rank: int, tag: int) -> Any:
        return dist.irecv(tensor, group=self.world.group, group_src=rank, tag=tag)

    def _add_block(self, parts: dict[Node, Tensor], result: Tensor, weight: float | Tensor) -> None:
        """The tree's sum of these parts of all nodes, divided once."""
        torch.div(fold(parts, torch.add, 0, self.microbatches), weight, out=result)

    def close(self) -> None:
        self.flat.clear()
        self.current = self.shared_buffer = None

    def _flat(self, parameters: Sequence[nn.Parameter]) -> FlatGradients:
        """The flat vectors of these parameters' gradients, created on first use."""
        key = id(parameters)
        if key not in self.flat:
            scratch = max(leaf.slot for leaf in self.leaves) + 1 - len(self.nodes[self.world.rank])
            shared = self.shared_buffer.vectors(parameters) if self.shared_buffer is not None else None
            own = self.nodes[self.world.rank]
            self.flat[key] = FlatGradients(
                parameters, shared, self.host_rank, len(own), max(scratch, 0), self.world.size
            )
        return self.flat[key]


class FlatGradients:
    """The gradients of one optimizer's parameters as flat vectors, and views of them in the parameters' shapes."""

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
        on_device = like.device.type != "cpu"

        def new(device: Any = like.device) -> Tensor:
            return torch.zeros(length, dtype=like.dtype, device=device)

        if shared is None:
            own = [new("cpu") for _ in range(nodes)]
            shared = [own], new("cpu") if workers > 1 else own[0]
        self.published, self.result = shared  # on the CPU, where the workers of this host see them
        own = self.published[place]
        self.moved = on_device  # then slots and received sum are on the device, and are copied from and to the CPU
        self.slots = [new() for _ in own] if on_device else list(own)
        self.slots += [new() for _ in range(scratch)]
        self.own = own
        if on_device and workers == 1:
            self.moved, self.result = False, self.slots[0]
        self.received = new() if self.moved else self.result
        self.views = [views(vector, parameters) for vector in [*self.slots, self.received]]

    def point(self, parameters: Sequence[nn.Parameter], slot: int) -> None:
        """Point every `.grad` at its part of a slot; -1 is the received sum."""
        for parameter, view in zip(parameters, self.views[slot], strict=True):
            parameter.grad = view

    def publish(self) -> None:
        for seen, slot in zip(self.own, self.slots, strict=False) if self.moved else ():
            seen.copy_(slot)

    def receive(self) -> None:
        if self.moved:
            self.received.copy_(self.result)


def host_share(host: Sequence[int], shares: Sequence[range]) -> range:
    """The micro-batches of a host's workers, which hold neighbouring shares."""
    return range(shares[host[0]].start, shares[host[-1]].stop)


def slices(length: int, workers: int, bytes_each: int) -> list[tuple[int, int]]:
    """The part of a vector that each worker adds up, in whole cache lines."""
    line = ALIGNMENT // bytes_each
    cuts = [min(length, -(-length * rank // (workers * line)) * line) for rank in range(workers + 1)]
    return list(itertools.pairwise(cuts))


def pieces(first: int, last: int) -> list[tuple[int, int]]:
    """A slice cut so that adding one piece, sending another and receiving a third overlap."""
    count = max(1, min(PIECES, (last - first) // PIECE))
    cuts = [first + (last - first) * piece // count for piece in range(count + 1)]
    return list(itertools.pairwise(cuts))


def views(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a flat vector in the shapes and strides of the tensors."""
    line, start, parts = ALIGNMENT // vector.element_size(), 0, []
    for parameter in parameters:
        offset = vector.storage_offset() + start
        parts.append(vector.as_strided(parameter.shape, parameter.stride(), offset))
        start += -(-parameter.numel() // line) * line
    return parts
