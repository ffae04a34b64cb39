"""Images a second of two workers: over one worker, beside two processes that never speak, and beside `ddp`.

One thread in each worker, the same global batch and the same micro-batches everywhere. Each of the two silent
processes trains alone on half of the micro-batches: what two workers could do at most, as they share the machine's
memory bus and clock. Every side of a round is a new group of processes in the environment of workers; its speed is
the batch over the median time of a step. Grids and checkpoints are left out: the same work for all.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import common

from cluster.backend.process_pool import LocalGroup
from trainers.distributed.process_group import World

BATCH = {"batch_size": 64, "microbatch_size": 16}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {  # family, size of the pictures, settings
    "dcgan, 64 px": ("dcgan", 64, BATCH),
    "dcgan, 32 px": ("dcgan", 32, BATCH),
    "darknet, 32 px": ("darknet", 32, BATCH),
}
OF_SILENT, OF_DDP = 0.97, 0.97
WARM_UP = 4  # until the heap has its size


def train(world: World, case: str, grad_sync: str, alone: bool, steps: int) -> float:
    """Images a second of this worker's group; of a silent process, of its own half."""
    import workload

    family, size, settings = CASES[case]
    if alone and world.size > 1:
        settings = {**settings, "batch_size": settings["batch_size"] // world.size}
    config = workload.config_of(family, **{**settings, "grad_sync": grad_sync})
    data = workload.generated(size)
    trainer = workload.trainer_of(family, config, data, World() if alone else world)
    world.all_gather(None)  # begin together
    seconds = workload.seconds_of_steps(partial(workload.train_step, trainer), WARM_UP, steps)
    speed: float = config.batch_size / statistics.median(seconds)
    return speed


def one_group(case: str, workers: int, grad_sync: str, alone: bool, steps: int) -> float:
    with LocalGroup(workers) as group:
        speeds = group.run(train, case, grad_sync, alone, steps)
    return float(sum(speeds) if alone else speeds[0])


def main() -> None:
    options = common.parser(__doc__, rounds=10)
    options.add_argument("--steps", type=int, default=8, help="timed steps in each group (default 8)")
    options.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), help="all by default")
    given = options.parse_args()
    rows, bounds, raw = [], [], {}
    for case in given.cases:
        sides = {
            "one worker": partial(one_group, case, 1, "exact", False, given.steps),
            "exact": partial(one_group, case, 2, "exact", False, given.steps),
            "two silent": partial(one_group, case, 2, "exact", True, given.steps),
            "ddp": partial(one_group, case, 2, "ddp", False, given.steps),
        }
        speeds = raw[case] = common.alternate(sides, given.rounds)
        over = {name: common.paired(speeds["exact"], speeds[name]) for name in speeds}
        for name in speeds:
            rows.append({
                "training": case, "side": name, "n": given.rounds, "images/s": common.spread(speeds[name]),
                "over one worker": common.paired(speeds[name], speeds["one worker"]), "exact over it": over[name],
            })  # fmt: skip
        bounds.append(common.at_least(f"{case}: exact over two silent", over["two silent"].median, OF_SILENT))
        bounds.append(common.at_least(f"{case}: exact over ddp", over["ddp"].median, OF_DDP))
    common.report("scaling", given.rounds, rows, bounds, raw, steps=given.steps)


if __name__ == "__main__":
    import scaling  # by its name, by which the processes of a group import its functions

    scaling.main()
