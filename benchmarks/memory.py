"""Memory of a run over 10,000 steps: it stays flat.

`troupe train` as a person starts it, on a tiny DCGAN, with metrics, event files, grids and checkpoints, watched from
outside: /proc/PID/smaps_rollup, twice a second, and the step from metrics.jsonl. Compared are the medians over the
500 steps that follow step 1,000 and those that follow step 10,000. Own is Anonymous there: without mapped files. Linux.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

TINY = (
    "image_size=16", "width=4", "latent_dim=8", "batch_size=8", "microbatch_size=2", "ema=0.9", "workers=1",
    "log_every=10", "sample_every=250", "checkpoint_every=250", "evaluate_every=0",
)  # fmt: skip
TROUPE = Path(sys.executable).with_name("troupe")
FIRST, LAST, OVER = 1000, 10000, 500
ALLOWED_MB, ALLOWED_PART = 2.0, 0.01  # whichever is more


def run(first: int, last: int, over: int) -> list[dict[str, float]]:
    """Step and megabytes, twice a second, of one run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(TROUPE), "train", "dcgan", f"steps={last + over}", *TINY, "--name", "tiny"]
        with open(Path(folder, "output"), "wb") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=common.plain_environment(), stdout=output, stderr=output
            )
        metrics = Path(folder, "runs/tiny/metrics.jsonl")
        seen: list[dict[str, float]] = []
        while process.poll() is None:
            step = last_step(metrics)
            try:
                seen.append({"step": step, **common.memory_of(process.pid)})
            except (OSError, KeyError):
                break  # it has just ended
            time.sleep(0.5)
        if process.wait():
            sys.exit(Path(folder, "output").read_text())
    return [look for look in seen if first <= look["step"]]


def last_step(metrics: Path) -> int:
    """The step of the last whole line of metrics.jsonl."""
    if not metrics.exists():
        return 0
    with open(metrics, "rb") as file:
        file.seek(max(0, metrics.stat().st_size - 2000))
        lines = file.read().decode(errors="ignore").split("\n")[:-1]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def main() -> None:
    options = common.parser(__doc__, rounds=3)
    options.add_argument("--last", type=int, default=LAST, help=f"the later step (default {LAST})")
    given = options.parse_args()
    first = min(FIRST, given.last // 10)
    over = min(OVER, given.last // 20)
    raw = common.alternate({"run": lambda: run(first, given.last, over)}, given.rounds)
    rows: list[dict[str, Any]] = []
    bounds = []
    for kind in ("resident", "own"):
        before, after = (
            [statistics.median(look[kind] for look in looks if step <= look["step"] < step + over)
             for looks in raw["run"]] for step in (first, given.last)
        )  # fmt: skip
        growth = common.spread([b - a for a, b in zip(before, after, strict=True)])
        rows.append({
            "memory": kind, "n": given.rounds, f"MB at step {first}": common.spread(before),
            f"MB at step {given.last}": common.spread(after), "growth MB": growth,
        })  # fmt: skip
        limit = max(ALLOWED_MB, ALLOWED_PART * statistics.median(before))
        bounds.append(common.at_most(f"{kind}: MB grown from step {first} to {given.last}", growth.median, limit))
    common.report("memory", given.rounds, rows, bounds, raw, settings=TINY)


if __name__ == "__main__":
    main()
