"""The tree in which micro-batches are added up, and the part of it that each worker adds.

The tree over the M micro-batches of a step halves [0, M) recursively; it does not depend on the workers. A worker holds
a contiguous range of micro-batches and adds up the largest complete subtrees inside it, its *nodes*.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

Node = tuple[int, int]  # micro-batches [first, last)
Value = TypeVar("Value")


def shares(microbatches: int, workers: int) -> list[range]:
    """The contiguous micro-batches of each worker: as even as possible, the longer ones first."""
    short, longer = divmod(microbatches, workers)
    starts = [rank * short + min(rank, longer) for rank in range(workers + 1)]
    return [range(start, end) for start, end in itertools.pairwise(starts)]


def nodes_of(share: range, microbatches: int) -> list[Node]:
    """The largest complete subtrees inside a worker's share, from left to right."""

    def inside(first: int, last: int) -> list[Node]:
        if share.start <= first and last <= share.stop:
            return [(first, last)]
        if last <= share.start or share.stop <= first:
            return []
        middle = (first + last) // 2
        return inside(first, middle) + inside(middle, last)

    return inside(0, microbatches)


def fold(nodes: dict[Node, Value], add: Callable[[Value, Value], Value], first: int, last: int) -> Value:
    """The sum over [first, last) in the tree's order, from nodes that cover it."""
    if (first, last) in nodes:
        return nodes[first, last]
    middle = (first + last) // 2
    return add(fold(nodes, add, first, middle), fold(nodes, add, middle, last))


class Leaf(NamedTuple):
    """One micro-batch of a worker: where its gradient goes, and which partial sums are complete after it."""

    microbatch: int
    slot: int
    first: bool  # the slot starts from zero; else the gradient is added to what is there
    additions: tuple[tuple[int, int], ...]  # (into, from) slots


def accumulation(share: range, microbatches: int) -> list[Leaf]:
    """The order in which a worker adds up its micro-batches: node n ends in slot n, the others are scratch."""
    nodes = nodes_of(share, microbatches)

    def subtree(first: int, last: int, slot: int, scratch: int) -> list[Leaf]:
        if last - first == 1:
            return [Leaf(first, slot, True, ())]
        middle = (first + last) // 2
        left = subtree(first, middle, slot, scratch)
        if last - middle == 1:  # a lone right leaf can be added by autograd itself
            return [*left, Leaf(middle, slot, False, ())]
        right = subtree(middle, last, scratch, scratch + 1)
        end = right[-1]
        return [*left, *right[:-1], end._replace(additions=(*end.additions, (slot, scratch)))]

    return [leaf for slot, node in enumerate(nodes) for leaf in subtree(*node, slot, len(nodes))]
