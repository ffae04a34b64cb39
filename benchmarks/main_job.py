"""The README's first command, a DCGAN on two Ray workers: seconds from the shell to its end, start-up included, how
good its digits are then and after 15 seconds, and the memory of its processes; with --paper, the paper's rate beside.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

COMMAND = ["train", "dcgan", "data=digits", "workers=2"]
PAPER = [
    "learning_rate=2e-4",
    "batch_size=64",
    "schedule=constant",
    "ema=0.98",
    "steps=3000",
]  # its default until 0.2.0
SECONDS = 50.0  # asked on an AMD EPYC of Zen 5
DISTANCE, WORST, EARLY = 1.3, 1.8, 8.0  # Frechet distances: the median at the end, the worst there, that after 15 s
SOON = 15.0  # seconds from the shell
VERDICTS = 0.15  # of the time, at most
GIGABYTES = 6.0  # of a laptop of 8


def job(seed: int, words: list[str]) -> dict[str, Any]:
    """One run in an empty folder: seconds by the clock on the wall, and what the run says of itself."""
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "out"), "w+") as out:
        started, soon, first, most = time.monotonic(), None, None, 0.0
        process = subprocess.Popen(
            [shutil.which("troupe") or "troupe", *COMMAND, *words, f"seed={seed}", "--name", "run", "--json"],
            cwd=folder, env=common.plain_environment(), stdout=out, start_new_session=True,
        )  # fmt: skip
        while process.poll() is None:
            time.sleep(0.25)
            most = max(most, gigabytes_of_session(process.pid))
            now, newest = time.monotonic() - started, newest_distance(Path(folder, "runs/run/metrics.jsonl"))
            soon = newest if now <= SOON else soon
            first = now if first is None and newest is not None else first
        seconds = time.monotonic() - started
        out.seek(0)
        answer = json.loads(out.read())
    if process.returncode:
        sys.exit(f"troupe {' '.join(COMMAND)}: ended with code {process.returncode}")
    result = answer["result"]
    metrics = {name: result["metrics"][f"eval_{name}"] for name in ("frechet_distance", "precision", "recall")}
    return {"seed": seed, "seconds": seconds, "training_seconds": result["seconds"], "steps": result["steps"],
            "verdicts": result["evaluation_share"], "watch": result["watch_share"], **metrics,
            "distance after 15 s": soon, "first evaluation": first, "gigabytes": most}  # fmt: skip


def newest_distance(metrics: Path) -> float | None:
    """The Frechet distance of the newest evaluation; None where there was none yet."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    found = [row["eval_frechet_distance"] for row in rows if "eval_frechet_distance" in row]
    return found[-1] if found else None


def gigabytes_of_session(leader: int) -> float:
    """What the processes of a session hold, pages that several share counted once (their proportional set size)."""
    total = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.getsid(int(name)) == leader:
                text = Path(f"/proc/{name}/smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue  # it has just ended
    return total * 1024 / 1e9


def main() -> None:
    options = common.parser(__doc__, rounds=3)
    options.add_argument("--paper", action="store_true", help="alternate with the default until 0.2.0")
    given = options.parse_args()
    words = {"as it is": [], **({"the paper's": PAPER} if given.paper else {})}
    seeds = {name: iter(range(given.rounds)) for name in words}
    sides = {name: (lambda name=name: job(next(seeds[name]), words[name])) for name in words}
    answers = common.alternate(sides, given.rounds)
    rows = [row_of(name, found) for name, found in answers.items()]
    if given.paper:
        ours, theirs = ([one["seconds"] for one in found] for found in answers.values())
        rows[0]["of the paper's seconds"] = common.paired(ours, theirs)
    distances = [one["frechet_distance"] for one in answers["as it is"]]
    early = max(one["distance after 15 s"] or float("inf") for one in answers["as it is"])
    bounds = [
        common.at_most("seconds from the shell to the end (asked on Zen 5)", rows[0]["seconds"].median, SECONDS),
        common.at_most("Frechet distance at the end", rows[0]["distance"].median, DISTANCE),
        common.at_most("the worst of them", max(distances), WORST),
        common.at_most("Frechet distance after 15 s, the worst (asked on Zen 5)", early, EARLY),
        common.at_most("verdicts, part of the training", rows[0]["verdicts"].median, VERDICTS),
        common.at_most("memory of all processes, GB", rows[0]["gigabytes"].most, GIGABYTES),
    ]
    common.report("main_job", given.rounds, rows, bounds, answers)


def row_of(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The spread over rounds, each of which has a seed of its own."""
    early = [one["distance after 15 s"] for one in found if one["distance after 15 s"] is not None]
    return {
        "command": "troupe " + " ".join(COMMAND), "side": name, "n": len(found), "steps": found[0]["steps"],
        "seconds": common.spread([one["seconds"] for one in found]),
        "of training": common.spread([one["training_seconds"] for one in found]),
        "distance": common.spread([one["frechet_distance"] for one in found]),
        "after 15 s": common.spread(early) if early else "-",
        "first evaluation": common.spread([one["first evaluation"] for one in found]),
        "precision": common.spread([one["precision"] for one in found]),
        "recall": common.spread([one["recall"] for one in found]),
        "verdicts": common.spread([one["verdicts"] for one in found]),
        "watch": common.spread([one["watch"] for one in found]),
        "gigabytes": common.spread([one["gigabytes"] for one in found]),
    }  # fmt: skip


if __name__ == "__main__":
    main()
