"""Two workers on Ray: the same run as one, told in few lines, and started at all only where there is room."""

from __future__ import annotations

import json
import os
import re

import pytest
from clusters import Cluster
from commands import DCGAN, Commands, assert_same_run, process_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(150)]

RECIPE = (*DCGAN, "log_every=1", "checkpoint_every=10", "sample_every=10", "ema=0.9")
WORDS = (*RECIPE, "steps=30")


@pytest.fixture(scope="module")
def straight(shared: Commands) -> Commands:
    """One worker, without Ray."""
    shared.train(*WORDS, "--name", "run")
    return shared


def test_two_workers_give_the_run_of_one(troupe: Commands, straight: Commands, cluster: Cluster) -> None:
    done = troupe.train(*WORDS, "workers=2", "--name", "run", seconds=90, on=cluster)
    run = troupe.path("run")
    assert_same_run(run, straight.path("run"))
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0] == "troupe: run: training 30 steps of 8 samples with 2 workers, grad_sync=exact"
    own = [line for line in lines if not line.startswith("step ") and "bfloat16" not in line]  # see test_address.py
    assert len(own) <= 8, "nobody reads more than that"
    for rank in range(2):
        log = (run / "logs" / f"rank_{rank}.log").read_text()
        assert re.search(rf"worker {rank} of 2, process \d+", log)
    assert process_of(run, 0) != process_of(run, 1)


def test_two_workers_train_with_ddp(troupe: Commands, straight: Commands, cluster: Cluster) -> None:
    """In float32 the last bits differ from one worker's, the run is the same."""
    troupe.train(*WORDS, "workers=2", "grad_sync=ddp", "--name", "run", seconds=90, on=cluster)
    losses, known = (
        [
            row
            for line in (path / "metrics.jsonl").read_text().splitlines()
            if "generator_loss" in (row := json.loads(line))
        ]
        for path in (troupe.path("run"), straight.path("run"))
    )
    assert len(losses) == len(known) == 30
    for name in ("discriminator_loss", "generator_loss"):
        assert losses[0][name] == pytest.approx(known[0][name], rel=1e-4)


def test_a_run_goes_on_with_another_number_of_workers(troupe: Commands, straight: Commands) -> None:
    """Three workers on fewer cores, which share them on request."""
    run = troupe.path("run")
    troupe.train(*RECIPE, "steps=10", "--name", "run")
    troupe.train("--resume", "run", "steps=30", "workers=3", "--oversubscribe", seconds=90)
    assert process_of(run, 2)
    assert_same_run(run, straight.path("run"))


def test_more_workers_than_cpus_are_refused_at_once(troupe: Commands) -> None:
    done = troupe.run("train", *DCGAN[:-2], "batch_size=512", "microbatch_size=2", "workers=256", "--name", "run")
    assert done.code == 3
    (line,) = done.mistakes
    assert line.startswith("troupe: workers=256: needs 256 CPUs, this machine has ")
    assert "--oversubscribe" in line
    assert done.seconds < 10
    assert not troupe.path("run").exists()


def test_little_shared_memory_is_told_in_one_line(troupe: Commands, straight: Commands) -> None:
    """As in a container: /dev/shm of 1 MB, for Ray too."""
    small = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh")
    if troupe.call(*small, "true").wait(10).code:
        pytest.skip("no disk can be mounted here")
    command = troupe.start("train", *WORDS, "workers=2", "--name", "run", prefix=small)
    done = command.wait(90)
    assert done.code == 0, done
    assert done.err == ""
    (line,) = [line for line in done.out.splitlines() if "shared memory" in line]
    assert line.startswith(
        "troupe: too little shared memory in /dev/shm: workers of one host synchronize gradients by "
    )
    assert_same_run(troupe.path("run"), straight.path("run"))


def test_ray_takes_no_command_in_other_bytes_which_is_told_in_one_line(troupe: Commands) -> None:
    runs = os.fsdecode(os.fsencode(troupe.folder) + b"/runs\xff")
    done = troupe.start("train", *WORDS, "workers=2", "--runs-dir", runs, really=True).wait()
    assert done.code == 3
    assert done.mistakes == [
        "troupe: Ray did not start: it needs the arguments of a command in UTF-8; rename the files in them, or use "
        "workers=1"
    ]
    assert troupe.run("train", *WORDS, "--runs-dir", runs).code == 0
