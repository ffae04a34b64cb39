"""Runs in a bucket on a cluster whose machines see no disk of one another."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from buckets import BUCKET, Server, runs_of
from clusters import Cluster
from commands import DCGAN, Commands, assert_same_run, checkpoints, until

from cluster.ranking import leaderboard
from cluster.ranking.leaderboard import FINISHED

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(240)]

RUNS = f"s3://{BUCKET}/runs"
RECIPE = (*DCGAN, "steps=30", "checkpoint_every=10", "log_every=1")


@pytest.fixture
def server(troupe: Commands) -> Server:
    return Server(troupe)


@pytest.fixture(params=[{"node": 2}])
def cluster(troupe: Commands, server: Server, request: Any) -> Iterator[Cluster]:
    """A head that takes no work, and nodes of some CPUs, each with a home of its own."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    made = Cluster(troupe, folder, cpus=0, **server.machine(troupe.folder / "head"))
    for name, cpus in request.param.items():
        home = server.machine(troupe.folder / name)["HOME"]
        made.start("--address", made.address, cpus=cpus, prefix=("env", f"HOME={home}"))
    yield made
    troupe.clean()
    shutil.rmtree(folder, ignore_errors=True)


TWO_NODES = pytest.mark.parametrize("cluster", [{"one": 1, "two": 1}], indirect=True)


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
    assert [one["message"] for one in json.loads(done.out)["result"]["findings"] if one["state"] == "WRONG"] == []
    assert done.code == 0, done
    server.gate.shut()
    done = troupe.run("check", *there, "--json", environment=cluster.environment)
    told = [one["message"] for one in json.loads(done.out)["result"]["findings"] if one["state"] == "WRONG"]
    assert f"cannot write to {RUNS}; grant access to its user" in told
    assert done.code == 3
    server.gate.open = True


@TWO_NODES
def test_a_search_over_nodes_that_share_a_bucket_only_is_gone_on_with_by_a_machine_that_has_nothing(
    troupe: Commands, server: Server, cluster: Cluster
) -> None:
    rates = ("1e-4", "2e-4", "3e-4")
    words = (*DCGAN, "steps=60", "checkpoint_every=10", "log_every=1", "keep_checkpoints=2", "evaluate_on=test")
    there = ("--runs-dir", RUNS, "--address", cluster.address)
    command = troupe.start("search", *words, f"learning_rate={','.join(rates)}", "--metric", "generator_loss",
                           "--space", "none", "--name", "s", *there, environment=cluster.environment)  # fmt: skip
    written = server.gate.passed
    until(lambda: any("/checkpoints/step_00000020/manifest" in path for _, path in written)
          or command.process.poll() is not None, "a checkpoint", 120)  # fmt: skip
    assert command.process.poll() is None, command.err.read_text()
    command.kill()
    other = {**cluster.environment, **server.machine(troupe.folder / "other")}
    done = troupe.run("search", "--resume", "s", *there, seconds=150, environment=other)
    assert done.code == 0, done
    assert "resuming with" in done.out
    laptop = server.machine(troupe.folder / "laptop")
    for number, rate in enumerate(rates, 1):
        name = f"s/{number:04d}"
        done = troupe.run("export", name, "--out", f"x{number}", "--runs-dir", RUNS, environment=laptop)
        assert done.code == 0, done
        troupe.train(*words, f"learning_rate={rate}", "--name", f"straight-{number}")
        assert_same_run(runs_of(troupe.folder / "laptop") / "s" / "trials" / f"{number:04d}",
                        troupe.path(f"straight-{number}"))  # fmt: skip
    assert troupe.run("export", "s", "--best", "--out", "best", "--runs-dir", RUNS, environment=laptop).code == 0
    assert "3 trials" in (shown := troupe.run("runs", "--runs-dir", RUNS, environment=laptop).out), shown


@TWO_NODES
def test_a_trial_goes_on_from_one_on_another_node_through_the_bucket_and_a_stop_reaches_both(
    troupe: Commands, server: Server, cluster: Cluster
) -> None:
    words = ("classifier", "data=digits", "model=mlp", "steps=4000", "evaluate_every=60", "batch_size=32",
             "microbatch_size=8", "learning_rate=1e-7..0.1", "--space", "none", "--scheduler", "pbt", "--trials", "2",
             "--name", "p")  # fmt: skip
    there = ("--runs-dir", RUNS, "--address", cluster.address)
    command = troupe.start("search", *words, *there, environment=cluster.environment)
    until(lambda: any(method == "PUT" and "/p/search.json" in path for method, path in server.gate.passed), "it", 60)
    here = runs_of(troupe.folder / "head") / "p"
    until(lambda: any(trial.clones for trial in leaderboard.read_search(here).trials)
          or command.process.poll() is not None, "a clone", 150)  # fmt: skip
    assert command.process.poll() is None, command.err.read_text()
    assert troupe.run("stop", "p", "--runs-dir", RUNS, seconds=60, environment=cluster.environment).code == 0
    assert command.wait(30).code == 130
    clone = next(one for trial in leaderboard.read_search(here).trials for one in trial.clones)
    assert clone["step"] > 0
    for node in ("one", "two"):
        carried_out = list((runs_of(troupe.folder / node) / "p" / "trials").glob("*/logs/rank_0.log"))
        assert carried_out, f"each has room for one of two trials, and so has {node}"
    assert FINISHED not in {trial.state for trial in leaderboard.read_search(here).trials}
