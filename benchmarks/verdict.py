"""What a verdict over very many samples takes: up to 50,000 generated, as many held-out and training ones.

Features of 128 numbers, as the small classifier has them. Measured are the seconds of what the real images need once
(`Reference`) and of each verdict, the most memory the process ever had, and the memory it had with its features only.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import common

NUMBERS = 128
SAMPLES = (2_000, 10_000, 50_000)
LIMIT_GB = 2.0


def side(samples: int) -> None:
    import torch

    from trainers.verdict.verdict import Reference

    torch.set_num_threads(2)
    random = torch.Generator().manual_seed(0)
    train, held_out, generated = (torch.randn(samples, NUMBERS, generator=random) for _ in range(3))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    before = int(status["VmRSS"].split()[0]) / 1e6
    begun = time.perf_counter()
    reference = Reference(samples, train, held_out)
    made = time.perf_counter()
    told = reference.verdict(generated)
    ended = time.perf_counter()
    common.tell({
        "reference_seconds": made - begun, "verdict_seconds": ended - made, "gigabytes_before": before,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "coverage": told["numbers"]["coverage"]["generated"],
    })  # fmt: skip


def main() -> None:
    given = common.parser(__doc__, rounds=1).parse_args()
    rows, raw, most = [], {}, 0.0
    for samples in SAMPLES:
        answers = [common.side(__file__, samples, environment=common.our_environment()) for _ in range(given.rounds)]
        raw[samples] = answers
        most = max(answer["gigabytes"] for answer in answers)
        shown = {key: common.spread([answer[key] for answer in answers]) for key in answers[0]}
        rows.append({"samples": samples, "n": given.rounds, **shown})
    bounds = [common.at_most(f"GB of a process that judges {SAMPLES[-1]:,} samples", most, LIMIT_GB)]
    common.report("verdict", given.rounds, rows, bounds, raw)


if __name__ == "__main__":
    if "--side" in sys.argv:
        side(int(sys.argv[-1]))
    else:
        main()
