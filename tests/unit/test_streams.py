"""The order of samples and the seeds of noise: functions of the run, never of how many workers there are."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainers.contract.streams import permutation, sample_indices, seed_of
from trainers.distributed.reduction_tree import shares

SIZES = st.integers(1, 50)
SEEDS = st.integers(0, 2**63 - 1)


@given(SIZES, SEEDS, st.integers(0, 1000))
def test_every_sample_comes_once_in_an_epoch(size: int, seed: int, epoch: int) -> None:
    assert sorted(permutation(size, seed, epoch).tolist()) == list(range(size))


def test_the_order_differs_between_epochs_and_between_seeds_and_is_the_same_each_time() -> None:
    orders = {
        (seed, epoch): tuple(permutation(1000, seed, epoch)) for seed in (0, 1, 2**40, 2**63 - 1) for epoch in range(5)
    }
    assert len(set(orders.values())) == len(orders)
    permutation.cache_clear()
    assert all(tuple(permutation(1000, seed, epoch)) == known for (seed, epoch), known in orders.items())


def test_the_order_is_the_one_that_earlier_versions_had() -> None:
    assert permutation(10, 0, 0).tolist() == [0, 7, 8, 6, 9, 5, 1, 3, 2, 4]
    assert permutation(10, 7, 3).tolist() == [8, 4, 5, 3, 6, 0, 9, 7, 1, 2]


@given(SIZES, SEEDS, st.integers(0, 500), st.integers(1, 120), st.integers(0, 120))
def test_the_stream_is_the_same_however_it_is_cut(size: int, seed: int, start: int, count: int, cut: int) -> None:
    cut = min(cut, count)
    whole = sample_indices(size, seed, start, count)
    parts = [sample_indices(size, seed, start + a, b - a) for a, b in ((0, cut), (cut, count)) if b > a]
    assert np.concatenate(parts).tolist() == whole.tolist()
    assert len(whole) == count
    epochs = np.concatenate([permutation(size, seed, epoch) for epoch in range((start + count) // size + 1)])
    assert whole.tolist() == epochs[start : start + count].tolist()


def drawn(size: int, seed: int, position: int, microbatch: int, microbatches: int, workers: int) -> list[list[int]]:
    """What each worker draws in a step, as the loop does."""
    return [
        [
            sample
            for index in share
            for sample in sample_indices(size, seed, position + index * microbatch, microbatch).tolist()
        ]
        for share in shares(microbatches, workers)
    ]


@given(SIZES, SEEDS, st.integers(1, 5), st.integers(1, 16), st.lists(st.integers(1, 16), min_size=1, max_size=12),
       st.integers(0, 40))  # fmt: skip
def test_workers_together_draw_every_sample_once_in_an_epoch(
    size: int, seed: int, microbatch: int, microbatches: int, workers: list[int], resumed_at: int
) -> None:
    """For any batch, from any step on, with another number of workers in each step."""
    batch = microbatch * microbatches
    stream: list[int] = []
    for step, number in enumerate(workers, resumed_at):
        per_worker = drawn(size, seed, step * batch, microbatch, microbatches, min(number, microbatches))
        stream += [sample for samples in per_worker for sample in samples]
    first = resumed_at * batch
    assert stream == sample_indices(size, seed, first, len(stream)).tolist()
    begins = -first % size  # of the first whole epoch
    for place in range(begins, len(stream) - size + 1, size):
        assert sorted(stream[place : place + size]) == list(range(size))


@given(st.integers(1, 64))
def test_one_worker_and_many_draw_the_same_batch(workers: int) -> None:
    alone = drawn(100, 3, 640, 2, 64, 1)[0]
    together = drawn(100, 3, 640, 2, 64, workers)
    assert [sample for samples in together for sample in samples] == alone
    assert all(samples for samples in together)


def test_seeds_differ_between_runs_phases_and_microbatches() -> None:
    keys = [
        (seed, phase, run, index)
        for seed in (0, 1, 2**32, 2**63 - 1) for phase in ("critic", "generator") for run in range(8)
        for index in range(16)
    ]  # fmt: skip
    assert max(Counter(seed_of(*key) for key in keys).values()) == 1
    assert seed_of(1, 23) != seed_of(12, 3)


@given(st.lists(st.integers() | st.text(), max_size=4))
def test_seeds_fit_the_32_bits_that_torch_uses(key: list[int | str]) -> None:
    assert 0 <= seed_of(*key) < 2**32


def test_noise_of_two_run_seeds_differs_in_torch() -> None:
    import torch

    noise = [torch.randn(4, generator=torch.Generator().manual_seed(seed_of(seed, "d", 0, 0))) for seed in (0, 2**32)]
    assert not torch.equal(*noise)


def test_seeds_are_the_ones_that_earlier_versions_had() -> None:
    assert seed_of(0, "discriminator", 0, 0) == 2008474390
    assert seed_of(2**63 - 1, "generator", 123456, 15) == 2256580668
    assert seed_of("networks") == 3792899479
