"""Whole steps with torch's convolutions, and with each way of trainers/runtime/convolutions.py, on this processor.

    python benchmarks/convolutions.py [--rounds N] [FAMILY ...]

One thread, one process for each side, in alternation. trainers/runtime/processor.py holds what follows from it.
"""

from __future__ import annotations

import importlib
import statistics
import sys
from functools import partial
from typing import Any

import common

SIDES = {
    "float32": ("torch's own", "products", "winograd", "products and winograd", "as chosen"),
    "bfloat16": ("torch's own", "products", "as chosen"),  # Winograd's is for float32
}
FAMILIES = ("dcgan", "wide_resnet", "darknet")


def side(family: str, precision: str, way: str, warm_up: str, steps: str) -> None:
    """Seconds of each step with that way."""
    import workload

    from trainers.engine import trainer
    from trainers.runtime import processor

    if way != "as chosen":  # by trainers/runtime/processor.py
        tried = processor.Ways(places=16 if "products" in way else 0, winograd="winograd" in way)
        trainer.ways = lambda precision: tried
    plain = importlib.import_module(f"plain.{family}")
    config = workload.config_of(family, precision=precision, **plain.SETTINGS)
    run = workload.trainer_of(family, config, workload.generated(plain.PICTURE_SIZE))
    common.tell(workload.seconds_of_steps(partial(workload.advance, run), int(warm_up), int(steps)))


def main() -> None:
    options = common.parser(__doc__, rounds=3)
    options.add_argument("families", nargs="*", metavar="FAMILY", help=f"any of {', '.join(FAMILIES)}; all by default")
    options.add_argument("--steps", type=int, default=8, help="timed steps in each process (default 8)")
    options.add_argument("--warm-up", type=int, default=3, help="steps before them (default 3)")
    given = options.parse_args()
    rows: list[dict[str, Any]] = []
    raw: dict[str, Any] = {}
    for family in given.families or FAMILIES:
        for precision, ways in SIDES.items():
            if precision == "bfloat16" and not common.bfloat16_instructions():
                continue
            sides = {
                way: partial(common.side, __file__, family, precision, way, given.warm_up, given.steps,
                             environment=common.our_environment())
                for way in ways
            }  # fmt: skip
            answers = common.alternate(sides, given.rounds)
            raw[f"{family} {precision}"] = answers
            medians = {way: [1000 * statistics.median(one) for one in found] for way, found in answers.items()}
            for way in ways:
                rows.append({
                    "family": family, "format": precision, "convolutions": way, "n": given.rounds,
                    "ms": common.spread(medians[way]),
                    "times faster than torch's own": common.paired(medians["torch's own"], medians[way]),
                })  # fmt: skip
    common.report("convolutions", given.rounds, rows, [], raw, steps=given.steps, warm_up=given.warm_up)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        side(*sys.argv[2:])
    else:
        main()
