"""Runs in a bucket on a cluster whose machines see no disk of one another."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from buckets import BUCKET, Server, runs_of
from clusters import Cluster
from commands import DCGAN, Commands, assert_same_run, checkpoints

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

RUNS = f"s3://{BUCKET}/runs"
RECIPE = (*DCGAN, "steps=30", "checkpoint_every=10", "log_every=1")


@pytest.fixture
def server(troupe: Commands) -> Server:
    return Server(troupe)


@pytest.fixture
def cluster(troupe: Commands, server: Server) -> Iterator[Cluster]:
    """A head that takes no work, and one node, each with a home of its own."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    made = Cluster(troupe, folder, cpus=0, **server.machine(troupe.folder / "head"))
    home = server.machine(troupe.folder / "node")["HOME"]
    made.start("--address", made.address, cpus=2, prefix=("env", f"HOME={home}"))
    yield made
    troupe.clean()
    shutil.rmtree(folder, ignore_errors=True)


def test_workers_elsewhere_write_to_the_bucket_and_the_result_comes_back(
    troupe: Commands, server: Server, cluster: Cluster
) -> None:
    there = ("--runs-dir", RUNS, "--address", cluster.address)
    done = troupe.run("train", *RECIPE, "workers=2", "--name", "run", *there, seconds=150,
                      environment=cluster.environment)  # fmt: skip
    assert done.code == 0, done
    here, elsewhere = (runs_of(troupe.folder / name) / "run" for name in ("head", "node"))
    assert [path.name for path in checkpoints(elsewhere)] == ["step_00000010", "step_00000020", "step_00000030"]
    assert checkpoints(here) == [], "the command's machine has what it shows, and no more"
    for line in done.out.splitlines():
        if line.startswith("  grid"):
            assert (troupe.folder / line.split()[1]).exists() or (here / "grids" / line.split("/")[-1]).exists()
    laptop = server.machine(troupe.folder / "laptop")
    assert troupe.run("export", "run", "--out", "x", "--runs-dir", RUNS, environment=laptop).code == 0
    troupe.train(*RECIPE, "--name", "straight")
    assert_same_run(runs_of(troupe.folder / "laptop") / "run", troupe.path("straight"))

    done = troupe.run("check", "dcgan", "workers=2", *there, "--json", environment=cluster.environment)
    assert [one["told"] for one in json.loads(done.out) if one["state"] == "WRONG"] == []
    assert done.code == 0, done
    server.gate.shut()
    done = troupe.run("check", *there, "--json", environment=cluster.environment)
    told = [one["told"] for one in json.loads(done.out) if one["state"] == "WRONG"]
    assert f"cannot write to {RUNS}; let its user" in told
    assert done.code == 3
    server.gate.open = True
