"""Joining a cluster that is already there: its nodes are compared first, and whatever is wrong is told in one line."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from clusters import Cluster, hiding
from commands import DCGAN, Commands, assert_same_run

import trainers.base.version
from trainers.distributed.process_group import free_port

pytestmark = [pytest.mark.ray, pytest.mark.timeout(150)]

WORDS = (*DCGAN, "steps=10", "log_every=1", "sample_every=5", "workers=2")
RUN = (*WORDS, "--name", "run")


def test_a_run_on_a_cluster_is_the_run_of_this_machine(troupe: Commands, shared: Commands, cluster: Cluster) -> None:
    done = troupe.run("train", *RUN, seconds=90, on=cluster)
    assert done.code == 0, done
    assert done.err == ""
    lines = [line for line in done.out.splitlines() if not line.startswith("step ") and "bfloat16" not in line]
    assert len(lines) <= 8, "Ray adds none; more of progress where it is slow, and of bfloat16 where a processor has it"
    shared.train(*WORDS[:-1], "--name", "straight")
    assert_same_run(troupe.path("run"), shared.path("straight"))
    assert not list(troupe.path("run").glob(".seen*"))
    assert cluster.head.process.poll() is None


def test_more_workers_than_the_cluster_has_cpus(troupe: Commands, cluster: Cluster) -> None:
    done = troupe.run("train", *WORDS[:-1], "workers=4", on=cluster)
    assert done.code == 3, done
    assert done.mistakes == ["troupe: workers=4: needs 4 CPUs, the cluster has 2"]


def test_a_wrong_token_is_told_in_one_line(troupe: Commands, cluster: Cluster) -> None:
    wrong = {**cluster.environment, "RAY_AUTH_TOKEN": "b" * 64}
    done = troupe.run("train", *WORDS, "--address", cluster.address, environment=wrong, seconds=60)
    assert done.code == 3, done
    (line,) = done.mistakes
    assert line.startswith(f"troupe: --address {cluster.address}: rejected the token in ")
    assert done.seconds < 15


def test_an_address_where_nothing_answers_is_told_soon(troupe: Commands) -> None:
    port = free_port()
    done = troupe.run("train", *RUN, "--address", f"127.0.0.1:{port}")
    assert done.code == 3, done
    assert not troupe.path("run").exists(), "the same words can be said again, with the right address"
    (line,) = done.mistakes
    assert line.startswith(f"troupe: --address 127.0.0.1:{port}: no Ray answers there; ")
    assert done.seconds < 15


def test_an_address_where_something_else_listens_is_told_in_bounded_time(troupe: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = troupe.run("train", *RUN, "--address", f"127.0.0.1:{port}")
    assert done.code == 3, done
    assert not troupe.path("run").exists(), "the same words can be said again, with the right address"
    (line,) = done.mistakes
    assert line.startswith(f"troupe: --address 127.0.0.1:{port}: no Ray answers there; ")
    assert done.seconds < 20


def test_a_node_with_another_troupe_that_does_not_see_the_runs_is_told_in_a_line_for_each(
    troupe: Commands, cluster: Cluster
) -> None:
    """On the disks of a second node lies the code of another version, and nothing in the folder of the runs."""
    other, runs = troupe.folder / "version.py", troupe.folder / "runs"
    other.write_text('__version__ = "9.9.9"\n')
    runs.mkdir()
    hidden = hiding(troupe, runs, (other, Path(trainers.base.version.__file__)))
    if not hidden:
        pytest.skip("no disk can be mounted here")
    with cluster.node(cpus=1, prefix=hidden):
        done = troupe.run("train", *RUN, on=cluster)
    assert done.code == 3, done
    version, line = done.mistakes
    assert re.fullmatch(r"troupe: node [0-9.]+: has troupe 9.9.9, this machine has [0-9.]+; install the same", version)
    assert not troupe.path("run").exists()
    assert re.match(
        rf"troupe: node [0-9.]+: does not see {runs.resolve()}/run; put it on a disk that all nodes share", line
    )
