"""Seconds that a run needs to go on after a node has come, and after one was lost: ours beside Ray Train's own elastic.

Nodes of one CPU each are simulated on this machine (`ray.cluster_utils.Cluster`), with health checks at test speed
(0.5 s, three of them), without which Ray knows of a lost node after half a minute. Both sides train a small network
at 16 pixels (ours DCGAN on digits) with one or two workers, save every 10 steps, and begin on one node. Measured from
the call that adds a node to the end of the first step of two workers, and from the call that removes it to the end of
the first step of one. `ray train` is TorchTrainer with ScalingConfig(num_workers=(1, 2)), which looks for room every
2 s (elastic_resize_monitor_interval_s; 60 by itself); `defaults` has no other setting, `short` waits 5 s and not 60
for the room that it had (RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import common

LIMIT = 10.0  # seconds, for us
HEALTH = {
    "RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500", "RAY_health_check_failure_threshold": "3",
}  # fmt: skip
SHORT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5"}
TRAINER = Path(__file__).with_name("first_step") / "elastic_trainer.py"
OURS = ("train", "dcgan", "data=digits", "image_size=16", "width=4", "latent_dim=8", "evaluate_every=0", "batch_size=8",
        "microbatch_size=2", "steps=100000", "checkpoint_every=10", "log_every=1", "sample_every=100000",
        "workers=1..2", "--name", "run")  # fmt: skip


def until(true: Callable[[], bool], what: str, seconds: float = 180) -> float:
    """Seconds until something is true."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds:
            sys.exit(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - began


def of_ours(folder: Path) -> tuple[int, int]:
    """Workers of the newest group, and rows of metrics, one for each step that any group has made."""
    log, rows = folder / "runs/run/logs/rank_0.log", folder / "runs/run/metrics.jsonl"
    if not log.exists() or not rows.exists():
        return 0, 0
    found = re.findall(r"worker 0 of (\d+), process", log.read_text())
    return int(found[-1]), int(
        json.loads(rows.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[2] or b'{"step":0}')["step"]
    )


def of_theirs(folder: Path) -> tuple[int, int]:
    """The same of the other side, which writes both down."""
    try:
        workers, step = (folder / "steps").read_text().splitlines()[-1].split()
        return int(workers), int(step)
    except (OSError, IndexError, ValueError):
        return 0, 0


def measured(side: str) -> dict[str, float]:
    """One round of one side, in this process."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 10**8})
    try:
        cluster.add_node(num_cpus=1, object_store_memory=10**8)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if side == common.OURS:
                troupe = str(Path(sys.executable).with_name("troupe"))
                command, look = [troupe, *OURS, "--address", str(cluster.address)], partial(of_ours, folder)
            else:
                command, look = [sys.executable, str(TRAINER), str(cluster.address)], partial(of_theirs, folder)
            log = open(folder / "log", "w")  # noqa: SIM115
            running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
            try:
                return _moves(cluster, look)
            finally:
                running.kill()
                running.wait()
    finally:
        cluster.shutdown()


def _moves(cluster: Any, look: Callable[[], tuple[int, int]]) -> dict[str, float]:
    """Add a node, then remove it."""

    def steps(workers: int) -> None:
        """Until so many workers have made a step."""
        until(lambda: look()[0] == workers, f"{workers} workers")
        before = look()[1]
        until(lambda: look()[1] != before, "a step")

    steps(1)
    time.sleep(3)
    began = time.monotonic()
    node = cluster.add_node(num_cpus=1, object_store_memory=10**8)
    steps(2)
    added = time.monotonic() - began
    time.sleep(3)
    began = time.monotonic()
    cluster.remove_node(node, allow_graceful=False)
    steps(1)
    return {"added": added, "lost": time.monotonic() - began}


def environment(side: str) -> dict[str, str]:
    return {**common.our_environment(), **HEALTH, **(SHORT if side == "short" else {}), "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}  # fmt: skip


def main() -> None:
    options = common.parser(__doc__, 3)
    options.add_argument("--side", help="one round of one side: ours, defaults or short")
    given = options.parse_args()
    if given.side:
        common.tell(measured(given.side))
        return
    names = (common.OURS, "defaults", "short")
    sides = {name: partial(common.side, __file__, name, environment=environment(name)) for name in names}
    answers = common.alternate(sides, given.rounds)
    rows = [
        {"side": {"ours": "ours", "defaults": "ray train", "short": "ray train, 5 s for room"}[name],
         **{f"s after a node {what}": common.spread([round[key] for round in answers[name]])
            for key, what in (("added", "has come"), ("lost", "was lost"))}}
        for name in names
    ]  # fmt: skip
    bounds = [
        common.at_most(
            f"seconds after a node {what}", common.spread([one[key] for one in answers[common.OURS]]).median, LIMIT
        )
        for key, what in (("added", "has come"), ("lost", "was lost"))
    ]
    common.report("elastic", given.rounds, rows, bounds, answers)


if __name__ == "__main__":
    main()
