"""What a search costs beside its trials: trials per minute beside raw Ray Tune, and the driver's memory.

Each side is a process of its own from its start to its end, Ray included, on two CPUs. Ours is `troupe search` over
`classifier model=mlp steps=1` without evaluation, each trial with its run folder and checkpoints. The other side is
Tune with a function that imports torch and reports once: with its defaults over 24 trials, with `reuse_actors=True`
over 96. Memory is the resident set of the driver's process when the 20th and when the 200th trial has ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

TROUPE = str(Path(sys.executable).with_name("troupe"))
FEW, MANY, LONG = 24, 96, 200
RAW = """
import sys, time
import ray
from ray import tune

def trial(config):
    import torch
    tune.report({"loss": float(torch.ones(1)) * config["x"]})

ray.init(num_cpus=2, log_to_driver=False)
tune.Tuner(
    trial, param_space={"x": tune.uniform(0, 1)},
    tune_config=tune.TuneConfig(num_samples=int(sys.argv[1]), reuse_actors=sys.argv[2] == "reused"),
    run_config=tune.RunConfig(storage_path=sys.argv[3], verbose=0),
).fit()
"""


def timed(command: list[str], folder: str) -> float:
    """Seconds of a process from its start to its end."""
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=common.plain_environment(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])}: ended with code {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - begun


def raw(trials: int, how: str) -> float:
    """Trials per minute of Tune alone."""
    with tempfile.TemporaryDirectory() as folder:
        return 60 * trials / timed([sys.executable, "-c", RAW, str(trials), how, folder], folder)


def words(trials: int) -> list[str]:
    return ["search", "classifier", "model=mlp", "data=digits", "steps=1", "evaluate_every=0", "--space", "none",
            "--metric", "accuracy", "learning_rate=linear:0.01..0.1", "--trials", str(trials), "--name",
            "s"]  # fmt: skip


def ours(trials: int) -> float:
    """Trials per minute of a search."""
    with tempfile.TemporaryDirectory() as folder:
        return 60 * trials / timed([TROUPE, *words(trials)], folder)


def memory() -> dict[str, float]:
    """Megabytes of the driver after its 20th and after its 200th trial."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [TROUPE, *words(LONG + 8)], cwd=folder, env=common.plain_environment(), stdout=subprocess.DEVNULL
        )
        record = Path(folder, "runs/s/search.json")
        while process.poll() is None and len(found) < 2:
            trials: list[dict[str, Any]] = json.loads(record.read_text())["trials"] if record.exists() else []
            ended = sum(trial["state"] == "finished" for trial in trials)
            for count in (20, LONG):
                if ended >= count and str(count) not in found:
                    status = dict(
                        line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
                    )
                    found[str(count)] = int(status["VmRSS"].split()[0]) / 1024
            time.sleep(0.05)
        process.wait()
    return found


def main() -> None:
    given = common.parser(__doc__, rounds=3).parse_args()
    sides = {
        f"Tune, {FEW} trials": lambda: raw(FEW, "new"), f"ours, {FEW} trials": lambda: ours(FEW),
        f"Tune with reused actors, {MANY} trials": lambda: raw(MANY, "reused"),
        f"ours, {MANY} trials": lambda: ours(MANY),
    }  # fmt: skip
    answers = common.alternate(sides, given.rounds)
    memories = memory()
    few = common.paired(answers[f"ours, {FEW} trials"], answers[f"Tune, {FEW} trials"])
    many = common.paired(answers[f"ours, {MANY} trials"], answers[f"Tune with reused actors, {MANY} trials"])
    slope = (memories[str(LONG)] - memories["20"]) / (LONG - 20)
    rows: list[dict[str, Any]] = [
        {"": name, "trials/minute": common.spread(values), "n": len(values)} for name, values in answers.items()
    ]
    rows += [{"": "ours over Tune", "trials/minute": few, "n": few.n},
             {"": "ours over Tune with reused actors", "trials/minute": many, "n": many.n}]  # fmt: skip
    bounds = [
        common.at_least(f"trials/minute over Tune's with its defaults, {FEW} trials", few.median, 5),
        common.at_least(f"trials/minute over Tune's with reused actors, {MANY} trials", many.median, 0.75),
        common.at_most("MB of the driver for each trial, from the 20th to the 200th", slope, 0.5),
    ]
    common.report("search", given.rounds, rows, bounds, {"trials per minute": answers, "megabytes": memories})


if __name__ == "__main__":
    main()
