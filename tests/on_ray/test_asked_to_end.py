"""What asks a command to end, sent to all of its processes, at any moment: saved, 130, and nothing is left."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from commands import DCGAN, Command, Commands, checkpoints, until, until_step
from tiers import long

from cluster.backend.local_ray import PREFIX
from cluster.host.signals import REQUESTS
from cluster.ranking import leaderboard
from cluster.ranking.leaderboard import INTERRUPTED
from trainers.storage import checkpoint

NAMED = [number for number in REQUESTS if number <= signal.SIGRTMIN]  # one of the real-time signals stands for all
pytestmark = [pytest.mark.ray, pytest.mark.timeout(150)]

SHORT = ("train", *DCGAN, "workers=2", "log_every=1", "--name", "run")
TRAIN = (*SHORT, "steps=100000", "checkpoint_every=1000")
EVALUATES = ("train", "classifier", "model=mlp_bn", "data=digits", "workers=2", "steps=100000", "log_every=1",
             "evaluate_every=1", "checkpoint_every=1000", "--name", "run")  # fmt: skip
SAVES = (*SHORT, "steps=100000", "checkpoint_every=1")
SEARCH = ("search", "classifier", "model=mlp_bn", "data=digits", "learning_rate=0.1,0.2,0.3", "steps=100000",
          "evaluate_every=50000", "--space", "none", "--name", "s")  # fmt: skip


def begun(troupe: Commands, temporary: Path, *words: str) -> Command:
    return troupe.start(*words, environment={"TMPDIR": str(temporary)})


def assert_ended(command: Command, temporary: Path, number: int) -> None:
    """Within 15 s, as promised, in a line, and nothing is left."""
    command.ask_all(number)
    done = command.wait(15)
    assert done.code == 130, done
    assert len(done.mistakes) == 1, done
    assert "before it had saved" not in done.err
    until(lambda: not command.members(), "the end of all its processes", 5)
    assert list(temporary.glob(f"{PREFIX}*")) == []


@pytest.mark.parametrize(
    ("words", "number"),
    [(TRAIN, signal.SIGALRM), *long(*((TRAIN, number) for number in NAMED if number != signal.SIGALRM),
                                    (EVALUATES, signal.SIGTERM), (SAVES, signal.SIGTERM))],
)  # fmt: skip
def test_a_run_of_two_workers_saves(troupe: Commands, temporary: Path, words: tuple[str, ...], number: int) -> None:
    command = begun(troupe, temporary, *words)
    reached = until_step(troupe.path("run"), 5, command, seconds=90)
    assert_ended(command, temporary, number)
    assert checkpoint.position_of(checkpoints(troupe.path("run"))[-1].name)[0] >= reached


@pytest.mark.parametrize("seconds", [1.0, *long(0.0, 3.0, 6.0, 9.0)])
def test_a_run_that_begins_ends_at_once(troupe: Commands, temporary: Path, seconds: float) -> None:
    command = begun(troupe, temporary, *TRAIN)
    until((troupe.path("run") / "settings.json").exists, "the run's folder")
    time.sleep(seconds)
    assert_ended(command, temporary, signal.SIGTERM)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *long(signal.SIGINT, signal.SIGUSR1, signal.SIGVTALRM, signal.SIGRTMIN)]
)
def test_a_search_saves_every_running_trial(troupe: Commands, temporary: Path, number: int) -> None:
    """Ray Tune hears SIGUSR1 itself, and would end as if all were done."""
    command = begun(troupe, temporary, *SEARCH)
    trials = [troupe.path("s") / "trials" / name for name in ("0001", "0002")]
    until(lambda: all((trial / "metrics.jsonl").exists() for trial in trials), "two trials train", 90)
    assert_ended(command, temporary, number)
    assert [trial.state for trial in leaderboard.read_search(troupe.path("s")).trials] == [
        INTERRUPTED,
        INTERRUPTED,
        "waiting",
    ]
    assert all(checkpoints(trial) for trial in trials)


@pytest.mark.long
def test_a_finished_run_whose_ray_ends_is_finished(troupe: Commands, temporary: Path) -> None:
    command = begun(troupe, temporary, *SHORT, "steps=5")
    until((troupe.path("run") / "result.json").exists, "the result", 90)
    command.ask_all(signal.SIGTERM)
    done = command.wait(15)
    assert done.code in (0, 130), done
    assert "Traceback" not in done.out + done.err
    until(lambda: not command.members(), "the end of all its processes", 5)
    assert list(temporary.glob(f"{PREFIX}*")) == []


def test_what_was_ignored_at_the_start_stays_ignored(troupe: Commands, temporary: Path) -> None:
    """Also while Ray starts and ends, whose core changes what SIGTERM does behind Python."""
    command = troupe.start(*SHORT, "steps=10", prefix=("sh", "-c", "trap '' TERM; exec \"$0\" \"$@\""),
                           environment={"TMPDIR": str(temporary)})  # fmt: skip
    until((troupe.path("run") / "settings.json").exists, "the run's folder")
    while command.process.poll() is None:
        command.ask_all(signal.SIGTERM)
        time.sleep(0.02)
    done = command.wait(90)
    assert (done.code, done.err) == (0, ""), done
