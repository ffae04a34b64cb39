"""Time of the gradient synchronization alone: `Exact` against gloo's all-reduce, from gradients in their place to the
mean everywhere.

Exact: from the moment when a worker's last backward pass has computed its gradient, to the mean in `.grad`, with a
small row of metrics, as in training. gloo: `all_reduce` of one flat vector, then its division. The slowest worker
counts, the median of the repetitions in one process group. Each side of a round has processes of its own, in the
environment of workers, one thread each. "messages" is without shared memory, as between hosts. A row with more workers
than cores is marked oversubscribed: processes then wait for cores as well as for each other.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import common

from cluster.backend.process_pool import LocalGroup
from trainers.distributed.process_group import World

MILLIONS = (2.7, 6.3, 25.0)  # numbers in the vector: DCGAN's discriminator, both its networks, a ResNet-50
CASES = ((2, 2), (2, 4), (3, 3), (3, 12), (4, 4), (4, 12))  # workers, micro-batches of a step
AT_MOST = {"shared memory": 0.6, "messages": 1.4}
WARM_UP = 3


def exact(world: World, millions: float, microbatches: int, shares_memory: bool, repetitions: int) -> list[float]:
    """Seconds of each repetition in this worker."""
    import torch
    import torch.distributed as dist
    from torch import nn

    from trainers.distributed.exact import Exact
    from trainers.distributed.exchange import Exchange

    world = World(world.rank, world.size, world.group, shares_memory)
    parameters = [nn.Parameter(torch.zeros(int(millions * 1e6)))]
    gradient = torch.randn(parameters[0].shape, generator=torch.Generator().manual_seed(0))
    grad_sync = Exact(world, microbatches, {}, longest=4 * (parameters[0].numel() + 16))
    assert not grad_sync.notice, grad_sync.notice
    rows = {index: torch.tensor([1.0, 0, 0, 0], dtype=torch.float64) for index in grad_sync.share}
    started, seconds = [0.0], []
    note = Exchange.note

    def noting(exchange: Exchange, number: int) -> None:
        dist.barrier(world.group)
        started[0] = time.perf_counter()
        note(exchange, number)

    Exchange.note = noting  # type: ignore[method-assign]
    for _ in range(WARM_UP + repetitions):
        grad_sync.reduce_gradients(
            parameters,
            lambda index: ((parameters[0] * gradient).sum() * (index + 1), False),
            rows,
            lambda: (False, False),
            kept_graphs=False,
            private=False,
        )
        seconds.append(time.perf_counter() - started[0])
    Exchange.note = note  # type: ignore[method-assign]
    assert parameters[0].grad is not None
    torch.testing.assert_close(parameters[0].grad, gradient * ((microbatches + 1) / 2))
    return seconds[WARM_UP:]


def gloo(world: World, millions: float, repetitions: int) -> list[float]:
    """Seconds of each repetition in this worker."""
    import torch
    import torch.distributed as dist

    gradient = torch.randn(int(millions * 1e6), generator=torch.Generator().manual_seed(0)) * (world.rank + 1)
    flat = torch.empty_like(gradient)
    seconds = []
    for _ in range(WARM_UP + repetitions):
        flat.copy_(gradient)
        dist.barrier(world.group)
        started = time.perf_counter()
        dist.all_reduce(flat, group=world.group)
        flat.div_(world.size)
        seconds.append(time.perf_counter() - started)
    torch.testing.assert_close(flat, gradient * ((world.size + 1) / 2 / (world.rank + 1)))
    return seconds[WARM_UP:]


def one_group(how: str, workers: int, repetitions: int) -> dict[str, float]:
    """All vectors in one new group of processes: milliseconds of the slowest worker, by `millions/micro-batches`."""
    found: dict[str, float] = {}
    with LocalGroup(workers) as group:
        for millions in MILLIONS:
            for microbatches in [m for w, m in CASES if w == workers] if how != "gloo" else [0]:
                if how == "gloo":
                    times = group.run(gloo, millions, repetitions)
                else:
                    times = group.run(exact, millions, microbatches, how == "shared memory", repetitions)
                found[f"{millions}/{microbatches}"] = 1e3 * statistics.median(map(max, zip(*times, strict=True)))
    return found


def main() -> None:
    options = common.parser(__doc__, rounds=5)
    options.add_argument(
        "--repetitions", type=int, default=10, help="timed synchronizations in each group (default 10)"
    )
    given = options.parse_args()
    rows: list[dict[str, Any]] = []
    bounds, raw = [], {}
    for workers in sorted({workers for workers, _ in CASES}):
        sides = {
            f"{workers} workers, {how}": partial(one_group, how, workers, given.repetitions)
            for how in (*AT_MOST, "gloo")
        }
        answers = common.alternate(sides, given.rounds)
        raw.update(answers)
        for how, limit in AT_MOST.items():
            for millions in MILLIONS:
                theirs = [answer[f"{millions}/0"] for answer in answers[f"{workers} workers, gloo"]]
                for microbatches in [m for w, m in CASES if w == workers]:
                    ours = [answer[f"{millions}/{microbatches}"] for answer in answers[f"{workers} workers, {how}"]]
                    ratio = common.paired(ours, theirs)
                    rows.append({
                        "by": how, "millions": millions, "workers": workers, "micro-batches": microbatches,
                        "n": given.rounds, "exact ms": common.spread(ours), "gloo ms": common.spread(theirs),
                        "exact/gloo": ratio,
                        "exact ms/million": common.spread(ours).median / millions,
                        "gloo ms/million": common.spread(theirs).median / millions,
                        "": "oversubscribed" if workers > common.cores() else "",
                    })  # fmt: skip
                    what = f"{how}: {millions} million, {workers} workers, {microbatches} micro-batches"
                    bounds.append(common.at_most(what, ratio.median, limit))
    rows.sort(key=lambda row: (row["by"] != "shared memory", row["millions"], row["workers"]))
    common.report("grad_sync", given.rounds, rows, bounds, raw, repetitions=given.repetitions)


if __name__ == "__main__":
    import grad_sync  # by its name, by which the processes of a group import its functions

    grad_sync.main()
