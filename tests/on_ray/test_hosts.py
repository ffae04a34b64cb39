"""Workers on several hosts, whose names mean loopback: the same bits, whatever becomes of the network between them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import DCGAN, FRAGILE, Commands, assert_same_run, lives, step_of, until, until_step
from hosts import Hosts, hosts

from trainers.storage import checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(500)]

WORDS = ("fragile", "image_size=8", "batch_size=8", "microbatch_size=2", "log_every=1", "checkpoint_every=10",
         "--families", str(FRAGILE))  # fmt: skip
STEPS = "steps=60"
SLOW = ("pause=0.05", "workers=2", "worker_timeout=8")  # 0.2 s for a step of two phases with two micro-batches each
SOON_GIVEN_UP = {"RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000",
                 "RAY_health_check_timeout_ms": "1000", "RAY_health_check_failure_threshold": "5"}  # fmt: skip


@pytest.fixture(scope="module")
def straight(shared: Commands) -> Path:
    """A run that nobody disturbs, in one process."""
    shared.train(*WORDS, STEPS, "--name", "straight")
    return shared.path("straight")


@pytest.fixture(scope="module")
def pair(shared: Commands) -> Iterator[Hosts]:
    """Two hosts."""
    with hosts(shared, 2) as cluster:
        yield cluster


@pytest.fixture
def spare(troupe: Commands) -> Iterator[Hosts]:
    """Three hosts beside the one of the head, where no worker is; one that does not answer for 5 s is given up."""
    with hosts(troupe, 4, cpus=0, **SOON_GIVEN_UP) as cluster:
        yield cluster


def log(run: Path, rank: int) -> Path:
    return run / "logs" / f"rank_{rank}.log"


def written(run: Path) -> dict[str, str]:
    """All files of a run that its first worker alone writes to, by what is in them."""
    return {
        str(path): checkpoint.digest_of_file(path) for path in run.rglob("*")
        if path.is_file() and path.parent.name != "logs" and path.name not in ("starts.jsonl", "restarts.jsonl")
    }  # fmt: skip


def test_two_hosts_are_found_to_reach_one_another(pair: Hosts) -> None:
    done = pair.start("check", "dcgan", "data=digits", "workers=2").wait(120)
    assert done.code == 0, done
    assert "2 nodes: all-reduce of 4.2 MB at " in done.out, "a real all-reduce"


def test_workers_on_two_hosts_train_to_the_bits_of_one_process(shared: Commands, pair: Hosts) -> None:
    words = (*DCGAN, "steps=10", "log_every=1", "sample_every=5")
    done = pair.start("train", *words, "workers=2", "--name", "two").wait(120)
    assert done.code == 0, done
    assert done.err == ""
    shared.train(*words, "--name", "one")
    assert_same_run(shared.path("two"), shared.path("one"))


def test_a_link_that_is_down_for_two_seconds_only_delays_a_run(shared: Commands, pair: Hosts, straight: Path) -> None:
    run = shared.path("delayed")
    command = pair.start("train", *WORDS, STEPS, *SLOW, "--name", run.name)
    until_step(run, 25, command, 120)
    assert [pair.where(log(run, rank))[0] for rank in range(2)] == [1, 2]
    pair.cut(2)
    with pytest.raises(AssertionError, match="not within 2 s"):
        until_step(run, 28, command, 2)
    pair.mend(2)
    done = command.wait(120)
    assert done.code == 0, done
    assert done.err == ""
    assert "restart" not in done.out
    assert_same_run(run, straight)


def test_a_link_that_is_down_for_longer_is_seen_and_the_run_begun_anew(
    shared: Commands, pair: Hosts, straight: Path
) -> None:
    """The node is still the cluster's when its link is back; nothing of the old group then disturbs the new one."""
    run = shared.path("cut")
    command = pair.start("train", *WORDS, STEPS, *SLOW, "--name", run.name)
    until_step(run, 25, command, 120)
    old = [pair.where(log(run, rank))[1] for rank in range(2)]
    pair.cut(2)
    until(lambda: "restart 1 of 3" in command.out.read_text(), "the worker that does not answer is seen", 60)
    pair.mend(2)
    done = command.wait(200)
    assert done.code == 0, done
    assert done.err == ""
    (line,) = [line for line in done.out.splitlines() if "(restart " in line]
    assert re.match(r"troupe: worker 1 has not answered for \d+s; resuming from the newest checkpoint", line)
    assert not any(lives(pid) for pid in old)
    assert_same_run(run, straight)


def test_a_first_worker_that_is_cut_off_for_good_is_replaced_and_writes_no_more(
    troupe: Commands, spare: Hosts, straight: Path
) -> None:
    run = troupe.path("run")
    command = spare.start("train", *WORDS, STEPS, *SLOW, "--name", run.name)
    until_step(run, 25, command, 120)
    host, old = spare.where(log(run, 0))
    spare.cut(host)
    until(lambda: command.process.poll() is not None or step_of(run) < 24, "the run is taken over", 120)
    assert lives(old), "it still holds the run"
    done = command.wait(250)
    assert done.code == 0, done
    assert done.err == ""
    (line,) = [line for line in done.out.splitlines() if "resuming from the newest checkpoint" in line]
    assert line.startswith("troupe: worker 0 "), "does not answer, or died with its node: whatever is seen first"
    assert_same_run(run, straight)
    before = written(run)
    spare.mend(host)
    until(lambda: not lives(old), "the old worker 0 hears that it is one no more", 120)
    assert written(run) == before


def test_a_first_worker_that_is_cut_off_in_the_middle_of_a_write_may_end_it_and_nothing_more(
    troupe: Commands, shared: Commands, spare: Hosts
) -> None:
    """It is stopped while it makes a checkpoint: nobody else writes meanwhile, and the run says why it cannot go on."""
    heavy = (*WORDS, "steps=30", "ballast=128")
    shared.train(*heavy, "--name", "heavy", seconds=120)
    run = troupe.path("run")
    command = spare.start("train", *heavy, *SLOW, "--name", run.name)
    until_step(run, 12, command, 120)
    host, old = spare.where(log(run, 0))
    until(lambda: list((run / "checkpoints").glob(".making*")), "a checkpoint is being made", 60, every=0.001)
    os.kill(old, signal.SIGSTOP)
    spare.cut(host)
    before = written(run)
    done = command.wait(300)
    assert done.code == 4, done
    assert done.mistakes == [
        "troupe: run: a process of the previous group has been writing for 60 s; end it, then continue with "
        "--resume run"
    ]
    assert written(run) == before
    os.kill(old, signal.SIGCONT)
    spare.mend(host)
    until(lambda: not lives(old), "the old worker 0 hears that it is one no more", 120)
    troupe.train("--resume", run.name, "workers=1", "pause=0", "--families", str(FRAGILE))
    assert_same_run(run, shared.path("heavy"))
