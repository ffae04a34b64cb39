"""Nodes that come and go in the middle of a run: it grows, shrinks, saves just in time, and ends with the same bits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from clusters import RAY, Cluster
from commands import (
    FRAGILE,
    Command,
    Commands,
    assert_same_run,
    checkpoints,
    process_of,
    state_of,
    step_of,
    until,
    until_step,
)

from trainers.run_folders.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(400)]

FAMILIES = ("--families", str(FRAGILE))
SLOW = "pause=0.02"  # each step of one worker takes 0.16 s, in which nodes have the processor
TINY = ("fragile", "image_size=8", "batch_size=8", "microbatch_size=2", *FAMILIES)
WGAN_GP = ("wgan_gp", "data=digits", "image_size=16", "width=4", "latent_dim=8", "evaluate_every=0", "batch_size=8",
           "microbatch_size=2", "n_critic=2", "sample_every=100000")  # fmt: skip
ENDLESS = ("steps=100000", "log_every=1", "--name", "run")


def workers_of(run: Path) -> int:
    """How many workers the newest group has, as their first log says."""
    log = run / "logs" / "rank_0.log"
    found = re.findall(r"worker 0 of (\d+), process", log.read_text()) if log.exists() else []
    return int(found[-1]) if found else 0


def groups_of(run: Path) -> int:
    """How many groups have begun."""
    return len(re.findall(r"worker 0 of", (run / "logs" / "rank_0.log").read_text()))


def until_group(run: Path, workers: int, command: Command, seconds: float = 120) -> None:
    """Wait until so many workers have made a step that no other group had made."""

    def there() -> bool:
        assert command.process.poll() is None, command.wait(0)
        return workers_of(run) == workers

    until(there, f"{workers} workers", seconds, every=0.05)
    until_step(run, step_of(run) + 2, command, seconds)


def until_end(troupe: Commands, command: Command, words: tuple[str, ...], quick: tuple[str, ...]) -> str:
    """Stop a run, let it end five steps later with one worker, and compare it with one that nobody disturbs; returns
    what the stopped one had said."""
    command.interrupt()
    done = command.wait(120)
    assert done.code == 130, done
    run = troupe.path("run")
    (saved, *_) = reversed(checkpoints(run))
    steps = int(state_of(run)["step"]) + 5
    assert saved.name.startswith(f"step_{steps - 5:08d}")
    families = FAMILIES if FAMILIES[0] in words else ()
    troupe.train("--resume", "run", "workers=1", f"steps={steps}", *quick, *families, seconds=120)
    troupe.train(*words, f"steps={steps}", "log_every=1", "--name", "straight", seconds=120)
    assert_same_run(run, troupe.path("straight"))
    return done.out


@pytest.mark.parametrize(
    ("words", "slow", "quick"),
    [
        pytest.param(TINY, (SLOW,), ("pause=0",), id="tiny"),
        pytest.param(WGAN_GP, (), (), id="wgan_gp", marks=pytest.mark.long),
    ],
)
def test_a_run_grows_and_shrinks_with_its_nodes_and_no_bit_is_lost(
    troupe: Commands, cluster: Cluster, words: tuple[str, ...], slow: tuple[str, ...], quick: tuple[str, ...]
) -> None:
    command = troupe.start("train", *words, *slow, *ENDLESS, "checkpoint_every=10", "workers=1..3", on=cluster)
    run = troupe.path("run")
    until_step(run, 5, command, 120)
    assert workers_of(run) == 2
    with cluster.node(cpus=1) as node:
        until_group(run, 3, command)
        (rank,) = [rank for rank in range(3) if process_of(run, rank) in node.members()]
    until_group(run, 2, command)
    said = until_end(troupe, command, words, quick)
    assert "there is room for more workers than 2: saving first" in said
    (lost,) = RunFolder(run).read_restarts()
    assert (lost["kind"], lost["why"]) == ("node lost", f"worker {rank} died with its node")
    line = f"worker {rank} died with its node; resuming from the newest checkpoint\n"
    assert line in said, "it counts as no restart"


@pytest.mark.long
def test_a_node_that_is_about_to_go_is_left_in_time(troupe: Commands, cluster: Cluster) -> None:
    before = cluster.nodes()
    with cluster.node(cpus=1) as leaving:
        words = (SLOW, *ENDLESS, "checkpoint_every=100000", "workers=3", "max_restarts=0")
        command = troupe.start("train", *TINY, *words, on=cluster)
        run = troupe.path("run")
        until_step(run, 10, command, 120)
        (going,) = cluster.nodes() - before
        last = step_of(run)
        drain(troupe, cluster, going)
        with cluster.node(cpus=1):
            until(lambda: groups_of(run) == 2, "another group, which has no worker on the node that goes", 120)
            leaving.clean()
            until_step(run, step_of(run) + 2, command, 120)
            said = until_end(troupe, command, TINY, ("pause=0",))
    assert "will leave in" in said
    (row,) = RunFolder(run).read_restarts()
    assert row["kind"] == "preempted"
    assert re.fullmatch(r"the node of worker \d will leave in \d+ s", row["why"])
    assert row["step"] >= last, "no step was made again"


def drain(troupe: Commands, cluster: Cluster, node: str) -> None:
    """What a cloud tells Ray before it takes a machine back."""
    done = troupe.call(
        RAY, "drain-node", "--address", cluster.address, "--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message", "spot", "--deadline-remaining-seconds", "60", environment=cluster.environment,
    ).wait(60)  # fmt: skip
    assert done.code == 0, done
