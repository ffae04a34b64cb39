"""Nodes that come and go in the middle of a run: it grows, shrinks, saves just in time, and ends with the same bits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import RAY, ray_here
from commands import DCGAN, Command, Commands, assert_same_run, process_of, step_of, until, until_step

from trainers.engine.runfolder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(400)]

HEALTH = {
    "RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "500", "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}  # so that a node that has gone is known to have soon  # fmt: skip
WGAN_GP = ("wgan_gp", "data=digits", "image_size=16", "width=4", "latent=8", "evaluate_every=0", "batch_size=8",
           "microbatch_size=2", "n_critic=2")  # fmt: skip
KEPT = ("steps=900", "checkpoint_every=25", "log_every=1", "sample_every=300", "--name", "run")


class Nodes:
    """A cluster whose head takes no work, and nodes of one CPU each that come and go."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 10**8})
        self.address = str(self.cluster.address)
        self.there: list[Any] = []

    def come(self) -> None:
        self.there.append(self.cluster.add_node(num_cpus=1, object_store_memory=10**8))

    def go(self, node: Any) -> None:
        """At once, without a word."""
        self.there.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def of_worker(self, run: Path, rank: int) -> Any:
        """The node whose raylet started a worker of a run."""
        parent = Path(f"/proc/{process_of(run, rank)}/stat").read_text().rpartition(") ")[2].split()[1]
        return next(node for node in self.there if str(raylet_of(node)) == parent)


def raylet_of(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with ray_here(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="1", **HEALTH):
        made = Nodes()
        try:
            yield made
        finally:
            made.cluster.shutdown()


def workers_of(run: Path) -> int:
    """How many workers the newest group has, as their first log says."""
    log = run / "logs" / "rank_0.log"
    found = re.findall(r"worker 0 of (\d+), process", log.read_text()) if log.exists() else []
    return int(found[-1]) if found else 0


def groups_of(run: Path) -> int:
    """How many groups have begun."""
    return len(re.findall(r"worker 0 of", (run / "logs" / "rank_0.log").read_text()))


def until_group(run: Path, workers: int, command: Command, seconds: float = 60) -> None:
    """Wait until so many workers have made a step that no other group had made."""

    def there() -> bool:
        assert command.process.poll() is None, command.wait(0)
        return workers_of(run) == workers

    until(there, f"{workers} workers", seconds, every=0.05)
    until_step(run, step_of(run) + 2, command, seconds)


@pytest.mark.parametrize(
    "words", [pytest.param(DCGAN, id="dcgan"), pytest.param(WGAN_GP, id="wgan_gp", marks=pytest.mark.long)]
)
def test_a_run_grows_and_shrinks_with_its_nodes_and_no_bit_is_lost(
    troupe: Commands, nodes: Nodes, words: tuple[str, ...]
) -> None:
    nodes.come()
    command = troupe.start("train", *words, *KEPT, "workers=1..3", "--address", nodes.address)
    run = troupe.path("run")
    until_step(run, 10, command, 120)
    assert workers_of(run) == 1
    nodes.come()
    until_group(run, 2, command)
    nodes.come()
    until_group(run, 3, command)
    nodes.go(nodes.of_worker(run, 1))
    until_group(run, 2, command)
    done = command.wait(200)
    assert done.code == 0, done
    assert "there is room for more workers than 1: saving first" in done.out
    (lost,) = RunFolder(run).read_restarts()
    assert (lost["kind"], lost["why"]) == ("node lost", "worker 1 died with its node")
    assert "worker 1 died with its node; going on from the newest checkpoint\n" in done.out, "it counts as no restart"
    troupe.train(*words, *KEPT[:-1], "straight", seconds=200)
    assert_same_run(run, troupe.path("straight"))


@pytest.mark.long
def test_a_node_that_is_about_to_go_is_left_in_time(troupe: Commands, nodes: Nodes) -> None:
    nodes.come()
    nodes.come()
    words = (*DCGAN, "steps=900", "checkpoint_every=1000", "log_every=1", "--name", "run", "workers=2")
    command = troupe.start("train", *words, "max_restarts=0", "--address", nodes.address)
    run = troupe.path("run")
    until_step(run, 30, command, 120)
    going = nodes.of_worker(run, 1)
    before = step_of(run)
    drain(troupe, nodes, going.node_id)
    nodes.come()
    until(lambda: groups_of(run) == 2, "another group, which has no worker on the node that goes", 60)
    nodes.go(going)
    done = command.wait(200)
    assert done.code == 0, done
    (row,) = RunFolder(run).read_restarts()
    assert row["kind"] == "preempted"
    assert re.fullmatch(r"the node of worker \d is about to go in \d+ s", row["why"])
    assert row["step"] >= before, "no step was made again"
    troupe.train(*words[:-3], "--name", "straight", seconds=200)
    assert_same_run(run, troupe.path("straight"))


def drain(troupe: Commands, nodes: Nodes, node: str) -> None:
    """What a cloud tells Ray before it takes a machine back."""
    done = troupe.call(
        RAY, "drain-node", "--address", nodes.address, "--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message", "spot", "--deadline-remaining-seconds", "60", environment={"RAY_AUTH_MODE": "disabled"},
    ).wait(30)  # fmt: skip
    assert done.code == 0, done
