"""Sixty runs in one process leave nothing behind: no threads, open files, shared memory, process groups, or memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.host.environment import worker_environment
from trainers.distributed.process_group import free_port

ROOT = Path(__file__).parents[2]
RUNS = 60
SCRIPT = """
import gc, json, os, sys, threading
from pathlib import Path

import torch
import torch.distributed as dist

from tests.jobs import plan_of
from trainers.engine.control import Control
from trainers.distributed.process_group import World, join
from trainers.run import run

folder, rank, size, ports = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [*map(int, sys.argv[4].split(","))]
torch.set_num_threads(1)


def held():
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"threads": int(status["Threads"]), "python threads": threading.active_count(),
            "files": len(os.listdir("/proc/self/fd")), "shared memory": maps.count("/dev/shm/#"),
            "process groups": len(dist.distributed_c10d._world.pg_map),
            "megabytes": int(status["VmRSS"].split()[0]) / 1024}


after = []
for number, port in enumerate(ports):
    family, variant = (("classifier", "mlp_bn"), ("dcgan", "nearest"))[number % 2]
    grad_sync = "ddp" if number % 4 == 3 else "exact"
    plan = plan_of(family, variant, folder / f"{number}", grad_sync=grad_sync, steps=2, sample_every=1)
    for part in ("checkpoints", "grids", "logs"):
        (folder / f"{number}" / part).mkdir(parents=True, exist_ok=True)
    world = join("127.0.0.1", port, rank, size, "cpu") if size > 1 else World()
    run(plan, world, Control())
    world.leave()
    if number in (4, len(ports) - 1):
        after.append(held())
print(json.dumps(after))
"""


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_sixty_runs_hold_no_more_than_five(tmp_path: Path, workers: int) -> None:
    ports: set[int] = set()
    while len(ports) < RUNS:
        ports.add(free_port())
    environment = {**worker_environment(), "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "PATH": "/usr/bin"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path), str(rank), str(workers), ",".join(map(str, ports))],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(workers)
    ]  # fmt: skip
    for process in processes:
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, err[-2000:]
        fifth, last = json.loads(out.splitlines()[-1])
        grown = last.pop("megabytes") - fifth.pop("megabytes")
        assert last == fifth
        assert grown <= 0.1 * (RUNS - 5)
