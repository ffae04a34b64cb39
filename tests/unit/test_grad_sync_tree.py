"""The tree that gradients are added up in: one order of additions, whatever the number of workers."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from trainers.distributed import flat_gradients
from trainers.distributed.exchange import host_share
from trainers.distributed.flat_gradients import slices, views
from trainers.distributed.reduction_tree import Node, accumulation, fold, nodes_of, shares
from trainers.distributed.shared_memory import ALIGNMENT, MOST_BUCKETS, padded_length, places

MICROBATCHES = range(1, 25)
WORKERS = range(1, 17)
Numbers = NDArray[np.float32]


def subtrees(first: int, last: int) -> set[Node]:
    """Every subtree of the tree that halves [first, last)."""
    middle = (first + last) // 2
    rest = subtrees(first, middle) | subtrees(middle, last) if last - first > 1 else set()
    return {(first, last), *rest}


@pytest.mark.parametrize("microbatches", MICROBATCHES)
def test_shares_are_contiguous_even_and_cover_the_batch(microbatches: int) -> None:
    for workers in WORKERS:
        parts = shares(microbatches, workers)
        assert len(parts) == workers
        assert [index for part in parts for index in part] == list(range(microbatches))
        lengths = [len(part) for part in parts]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] - lengths[-1] <= 1
        if workers <= microbatches:
            assert lengths[-1] >= 1


@pytest.mark.parametrize("microbatches", MICROBATCHES)
def test_the_nodes_of_a_share_are_whole_subtrees_that_cover_it_once(microbatches: int) -> None:
    every = subtrees(0, microbatches)
    for workers in WORKERS:
        for share in shares(microbatches, workers):
            nodes = nodes_of(share, microbatches)
            assert set(nodes) <= every
            assert [index for first, last in nodes for index in range(first, last)] == list(share)
            larger = [node for node in every if share.start <= node[0] and node[1] <= share.stop]
            assert all(any(a <= first and last <= b for a, b in nodes) for first, last in larger)  # none is larger


def test_two_and_four_workers_hold_one_subtree_each() -> None:
    for microbatches, workers in itertools.product((4, 8, 12, 16), (2, 4)):
        assert [len(nodes_of(share, microbatches)) for share in shares(microbatches, workers)] == [1] * workers


@given(st.integers(1, 24), st.integers(1, 16), st.data())
def test_the_workers_of_a_host_cover_one_range(microbatches: int, workers: int, data: st.DataObject) -> None:
    parts = shares(microbatches, workers)
    first = data.draw(st.integers(0, workers - 1))
    host = list(range(first, data.draw(st.integers(first, workers - 1)) + 1))
    assert list(host_share(host, parts)) == [index for rank in host for index in parts[rank]]


def gradients(microbatches: int) -> list[Numbers]:
    """Numbers of very different sizes, so that another order of additions has other bits."""
    random = np.random.default_rng(microbatches)
    return [
        (random.standard_normal(33) * 10.0 ** random.integers(-4, 5, 33)).astype(np.float32)
        for _ in range(microbatches)
    ]


def direct(values: list[Numbers], first: int, last: int) -> Numbers:
    """The sum over [first, last) as the tree says, straight from its definition."""
    if last - first == 1:
        return values[first]
    middle = (first + last) // 2
    return direct(values, first, middle) + direct(values, middle, last)


def accumulated(share: range, microbatches: int, values: list[Numbers]) -> dict[Node, Numbers]:
    """What a worker's slots hold at the end, by node, when it follows its plan."""
    slots: dict[int, Numbers] = {}
    seen = []
    for leaf in accumulation(share, microbatches):
        seen.append(leaf.microbatch)
        before = np.zeros(33, np.float32) if leaf.first else slots[leaf.slot]
        slots[leaf.slot] = before + values[leaf.microbatch]
        for into, source in leaf.additions:
            slots[into] = slots[into] + slots[source]
    assert seen == list(share)  # in the order in which the micro-batches come
    return dict(zip(nodes_of(share, microbatches), (slots[n] for n in range(len(slots))), strict=False))


def bits(numbers: Numbers) -> bytes:
    return numbers.astype(np.float32).tobytes()


@pytest.mark.parametrize("microbatches", MICROBATCHES)
def test_any_number_of_workers_adds_up_to_the_same_bits(microbatches: int) -> None:
    values = gradients(microbatches)
    expected = bits(direct(values, 0, microbatches))
    leaves = {(index, index + 1): value for index, value in enumerate(values)}
    assert bits(fold(leaves, np.add, 0, microbatches)) == expected
    for workers in WORKERS:
        nodes: dict[Node, Numbers] = {}
        for share in shares(microbatches, workers):
            own = accumulated(share, microbatches, values)
            assert list(own) == nodes_of(share, microbatches)
            for node, value in own.items():
                assert bits(value) == bits(direct(values, *node)), f"{workers} workers, node {node}"
            nodes.update(own)
        assert bits(fold(nodes, np.add, 0, microbatches)) == expected, f"{workers} workers"


def test_the_numbers_of_this_test_show_another_order() -> None:
    values = gradients(8)
    assert bits(sum(values[1:], values[0])) != bits(direct(values, 0, 8))


@pytest.mark.parametrize("microbatches", MICROBATCHES)
def test_few_scratch_vectors_are_needed(microbatches: int) -> None:
    for workers in WORKERS:
        for share in shares(microbatches, workers):
            used = {leaf.slot for leaf in accumulation(share, microbatches)}
            assert used == set(range(len(used)))  # no gaps
            assert len(used) - len(nodes_of(share, microbatches)) <= max(0, (len(share) - 1).bit_length() - 1)


@given(st.integers(0, 10_000), st.integers(1, 20), st.sampled_from([2, 4, 8]))
def test_slices_cover_a_vector_in_whole_cache_lines(lines: int, workers: int, bytes_each: int) -> None:
    line = ALIGNMENT // bytes_each
    length = lines * line
    start = 7 * line
    parts = slices(range(start, start + length), workers, bytes_each)
    assert len(parts) == workers
    assert (parts[0].start, parts[-1].stop) == (start, start + length)
    assert all(a.stop == b.start for a, b in itertools.pairwise(parts))
    assert all(part.start % line == 0 and part.stop % line == 0 for part in parts)
    sizes = [len(part) // line for part in parts]
    assert max(sizes) - min(sizes) <= 1


SHAPES = st.lists(st.lists(st.integers(1, 5), max_size=4).map(tuple), min_size=1, max_size=6)


@given(SHAPES, st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), st.booleans())
def test_views_have_the_shapes_and_strides_of_the_parameters_and_aligned_starts(
    shapes: list[tuple[int, ...]], dtype: torch.dtype, channels_last: bool
) -> None:
    parameters = [torch.empty(shape, dtype=dtype) for shape in shapes]
    if channels_last:
        parameters = [p.to(memory_format=torch.channels_last) if p.dim() == 4 else p for p in parameters]
    vector = torch.zeros(padded_length(parameters), dtype=dtype)
    parts = views(vector, parameters)
    for place, (part, parameter) in enumerate(zip(parts, parameters, strict=True)):
        assert (part.shape, part.stride(), part.dtype) == (parameter.shape, parameter.stride(), parameter.dtype)
        assert (part.data_ptr() - vector.data_ptr()) % ALIGNMENT == 0
        part.fill_(place + 1)
    for place, part in enumerate(parts):  # none lies over another
        assert bool((part == place + 1).all())
    assert sum(bool(number) for number in vector.tolist()) == sum(parameter.numel() for parameter in parameters)


def test_views_of_a_part_of_a_vector_lie_in_that_part() -> None:
    parameters = list(nn.Linear(3, 2).parameters())
    length = padded_length(parameters)
    memory = torch.zeros(3 * length)
    for part in views(memory[length : 2 * length], parameters):
        part.fill_(1)
    assert memory[:length].sum() == 0
    assert memory[2 * length :].sum() == 0
    assert memory.sum() == 8


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=60), st.sampled_from([100, 5_000, 1 << 16]))
def test_buckets_cover_a_vector_from_its_end_with_whole_parameters(lengths: list[int], least: int) -> None:
    parameters = [torch.empty(length) for length in lengths]
    with mock.patch.object(flat_gradients, "BUCKET", least):
        parts, bucket_of = flat_gradients.buckets(parameters)
    assert 1 <= len(parts) <= MOST_BUCKETS
    assert (parts[-1].start, parts[0].stop) == (0, padded_length(parameters))
    assert all(later.stop == earlier.start for earlier, later in itertools.pairwise(parts))
    assert all(len(part) >= least for part in parts[:-1])
    starts = places(parameters)
    for number, bucket in enumerate(bucket_of):
        assert parts[bucket].start <= starts[number] <= starts[number + 1] <= parts[bucket].stop
