"""A cluster of somebody else's that dies in the middle of a run: one line says what died and how to go on."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import Cluster
from commands import DCGAN, Commands, checkpoints, state_of, until_step

from trainers.storage.checkpoint import position_of

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(240)]

WORDS = (*DCGAN, "steps=20000", "checkpoint_every=50", "log_every=50", "sample_every=1000", "workers=2")


@pytest.fixture
def mine(troupe: Commands) -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    yield Cluster(troupe, folder)
    troupe.clean()
    shutil.rmtree(folder, ignore_errors=True)


HEAD = "its head has not answered for 40 s; wait until it does, then continue with --resume {}"
RAYLET = "the raylet of this machine died; start it again with `ray start`, then continue with --resume {}"


@pytest.mark.parametrize(
    ("process", "seconds", "mistakes"),
    [("gcs_server", 75, (HEAD, RAYLET)), ("raylet", 30, (RAYLET,))],  # `ray start --block` ends one with the other
)
def test_a_cluster_that_dies_is_told_in_a_line_and_the_run_goes_on_elsewhere(
    troupe: Commands, mine: Cluster, process: str, seconds: float, mistakes: tuple[str, ...]
) -> None:
    command = troupe.start("train", *WORDS, "--name", "run", "--address", mine.address, environment=mine.environment)
    run = troupe.path("run")
    until_step(run, 100, command, 90)
    (victim,) = [pid for pid in mine.head.members() if Path(f"/proc/{pid}/comm").read_text().strip() == process]
    os.kill(victim, signal.SIGKILL)
    done = command.wait(seconds)
    assert done.code == 3, done
    (line,) = done.mistakes
    assert line in [f"troupe: --address {mine.address}: {mistake.format('run')}" for mistake in mistakes]
    mine.head.clean()
    (saved, *_) = reversed(checkpoints(run))
    further = position_of(saved.name)[0] + 50
    troupe.train("--resume", "run", "workers=1", f"steps={further}", seconds=120)
    assert state_of(run)["step"] == further
