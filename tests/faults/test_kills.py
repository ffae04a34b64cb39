"""`kill -9` at any moment loses at most the steps since the last checkpoint, and changes no bit of the result."""

from __future__ import annotations

import random
import signal
import time

import pytest
from commands import (
    FRAGILE,
    OWN_FAMILIES,
    Commands,
    assert_same_run,
    checkpoints,
    leftovers,
    metrics,
    until,
    until_step,
)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150)]

# Several critic steps in a step, carried state, L-BFGS, averages, evaluation with a best checkpoint
EVERYTHING = (
    "everything", "batch_size=16", "microbatch_size=4", "ema=0.9", "memory_format=contiguous", "log_every=1",
    "checkpoint_every=7", "evaluate_every=5", "sample_every=10", "keep_checkpoints=2", "--families", str(OWN_FAMILIES),
)  # fmt: skip
STEPS = 60


@pytest.fixture(scope="module")
def straight(shared: Commands) -> Commands:
    """A run that nobody disturbed."""
    shared.train(*EVERYTHING, f"steps={STEPS}", "--name", "run")
    return shared


@pytest.mark.long
def test_killed_again_and_again_a_run_ends_with_the_same_bits(troupe: Commands, straight: Commands) -> None:
    seed = time.time_ns()
    print(f"random moments from seed {seed}")
    moments = random.Random(seed)
    run = troupe.path("run")
    killed_at = 0
    for attempt in range(3):
        words = ("--resume", "run", "--families", str(OWN_FAMILIES)) if attempt else (*EVERYTHING, "--name", "run")
        command = troupe.start("train", *words, f"steps={STEPS}")
        until_step(run, killed_at + moments.randint(1, 14), command)
        time.sleep(moments.random() * 0.03)
        command.kill()
        killed_at = metrics(run)[-1]["step"]
        newest = int(checkpoints(run)[-1].name.removeprefix("step_")[:8])
        assert killed_at - 8 <= newest <= killed_at + 1, "more was lost than the steps since the last checkpoint"
    done = troupe.train("--resume", "run", "--families", str(OWN_FAMILIES))
    assert done.err == ""
    assert_same_run(run, straight.path("run"))


def test_killed_in_the_middle_of_a_step(troupe: Commands) -> None:
    """Each micro-batch sleeps for a while, so that the moment of the kill lies inside a step."""
    words = ("fragile", "image_size=8", "batch_size=8", "microbatch_size=2", "log_every=1", "checkpoint_every=2",
             "--families", str(FRAGILE))  # fmt: skip
    command = troupe.start("train", *words, "steps=4", "pause=0.25", "--name", "run")
    until_step(troupe.path("run"), 1, command)
    time.sleep(1.2)  # in the second of two phases of 1 s
    command.kill()
    assert [path.name for path in checkpoints(troupe.path("run"))] == ["step_00000000"]
    troupe.train("--resume", "run", "pause=0", "--families", str(FRAGILE))
    troupe.train(*words, "steps=4", "--name", "straight")
    assert_same_run(troupe.path("run"), troupe.path("straight"))


def test_killed_in_the_middle_of_a_checkpoint_write(troupe: Commands) -> None:
    """The process is halted when half a checkpoint lies there, looked at, and killed."""
    words = ("fragile", "image_size=8", "batch_size=8", "microbatch_size=2", "ballast=48", "log_every=1",
             "steps=9", "--families", str(FRAGILE))  # fmt: skip
    run = troupe.path("run")
    command = troupe.start("train", *words, "checkpoint_every=3", "--name", "run")
    half = ".making_step_00000006-*/state.pt"
    until(lambda: any((run / "checkpoints").glob(half)), "a checkpoint is being written", every=0.001)
    command.send(signal.SIGSTOP)
    assert "step_00000006" not in [path.name for path in checkpoints(run)], "halted too late to test anything"
    assert any(name.startswith(".making_step_00000006-") for name in leftovers(run))
    command.kill()
    done = troupe.train("--resume", "run", "checkpoint_every=4", "--families", str(FRAGILE))
    assert done.err == ""
    troupe.train(*words, "checkpoint_every=4", "--name", "straight")
    assert_same_run(run, troupe.path("straight"))


@pytest.mark.long
def test_killed_before_its_first_checkpoint_a_run_begins_again(troupe: Commands, straight: Commands) -> None:
    command = troupe.start("train", *EVERYTHING, f"steps={STEPS}", "--name", "run")
    until((troupe.path("run") / "settings.json").exists, "the run's folder", every=0.001)
    command.kill()
    assert checkpoints(troupe.path("run")) == []
    troupe.train("--resume", "run", "--families", str(OWN_FAMILIES))
    assert_same_run(troupe.path("run"), straight.path("run"))
