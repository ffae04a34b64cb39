"""`troupe stop` and `troupe logs`: what somebody else carries out, from any terminal."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest
from clusters import Cluster
from commands import DCGAN, FRAGILE_RUN, Commands, assert_same_run, checkpoints, step_of, until, until_step
from tiers import long

from cluster.ranking import leaderboard
from cluster.ranking.leaderboard import INTERRUPTED

pytestmark = [pytest.mark.ray, pytest.mark.timeout(150)]

RECIPE = (*DCGAN, "log_every=1", "checkpoint_every=1000")


@pytest.mark.parametrize("workers", [1, *long(2)])
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(troupe: Commands, cluster: Cluster, workers: int) -> None:
    on = cluster if workers > 1 else None
    command = troupe.start("train", *RECIPE, "steps=100000", f"workers={workers}", "--name", "run", on=on)
    until_step(troupe.path("run"), 3, command, seconds=90)
    following = troupe.start("logs", "run", "--follow")
    stopped = troupe.run("stop", "run")
    assert stopped.code == 0, stopped
    told = re.fullmatch(r"run: stopped and saved at step (\d+); resume with `troupe train --resume run`\n", stopped.out)
    assert told is not None, stopped
    done = command.wait(20)
    assert done.code == 130, done
    assert done.mistakes == [f"troupe: run: stopped at step {told[1]} of 100000 and saved; continue with --resume run"]
    log = following.wait(20)
    assert log.code == 0
    assert re.search(rf"worker 0 of {workers}, process \d+", log.out)
    again = troupe.run("stop", "run")
    assert again.code == 4
    assert again.mistakes == ["troupe: run: not running; `troupe runs` shows what is running"]
    steps = int(told[1]) + 3
    troupe.train("--resume", "run", f"steps={steps}", on=on)
    troupe.train(*RECIPE, f"steps={steps}", "sample_every=1000", "--name", "straight")
    assert_same_run_but_grids(troupe.path("run"), troupe.path("straight"))


def assert_same_run_but_grids(run: Path, other: Path) -> None:
    """Grids are drawn more often in the one."""
    for grid in (*(run / "grids").iterdir(), *(other / "grids").iterdir()):
        grid.unlink()
    assert_same_run(run, other)


def test_a_search_that_is_stopped_saves_every_running_trial(troupe: Commands, cluster: Cluster) -> None:
    command = troupe.start("search", "classifier", "model=mlp_bn", "data=digits", "learning_rate=0.1,0.2,0.3",
                           "steps=100000", "evaluate_every=50000", "--space", "none", "--name", "s",
                           on=cluster)  # fmt: skip
    trials = [troupe.path("s") / "trials" / name for name in ("0001", "0002")]
    until(lambda: all((trial / "metrics.jsonl").exists() for trial in trials), "two trials train", 60)
    one = troupe.run("stop", "s/0001")
    assert one.code == 2
    assert one.mistakes == ["troupe: s/0001: is a trial; stop its search, `troupe stop s`"]
    stopped = troupe.run("stop", "s")
    assert stopped.code == 0, stopped
    assert stopped.out == "s: stopped and saved; resume with `troupe search --resume s`\n"
    done = command.wait(30)
    assert done.code == 130, done
    assert [trial.state for trial in leaderboard.read_search(troupe.path("s")).trials] == [
        INTERRUPTED,
        INTERRUPTED,
        "waiting",
    ]


@pytest.mark.parametrize("seconds", [0.5, 2.0, *long(0.0, 5.0)])
def test_ctrl_c_while_ray_starts_ends_within_seconds_and_leaves_nothing(troupe: Commands, seconds: float) -> None:
    temporary = troupe.folder / "t"
    temporary.mkdir()
    command = troupe.start("train", *RECIPE, "steps=100000", "workers=2", "--name", "run",
                           environment={"TMPDIR": str(temporary)})  # fmt: skip
    until((troupe.path("run") / "settings.json").exists, "the run's folder")
    time.sleep(seconds)
    began = [checkpoint.name for checkpoint in checkpoints(troupe.path("run"))]
    command.interrupt()
    done = command.wait(12)
    assert done.code == 130, done
    assert len(done.mistakes) == 1, done
    assert "Traceback" not in done.out
    assert troupe.path("run").exists() == bool(began)
    assert "nothing of the run is kept" in done.err or "interrupted; saved" in done.err or began
    until(lambda: not command.members(), "the end of all its processes", 5)
    assert list(temporary.iterdir()) == []


@pytest.mark.long
def test_workers_that_go_on_while_their_watcher_is_stopped_are_not_taken_for_silent(
    troupe: Commands, cluster: Cluster
) -> None:
    """As by Ctrl-Z, which a session without a terminal cannot be sent."""
    command = troupe.start("train", *FRAGILE_RUN, "steps=100000", "pause=0.01", "worker_timeout=4", "max_restarts=0",
                           "workers=2", "--name", "run", on=cluster)  # fmt: skip
    reached = until_step(troupe.path("run"), 5, command, seconds=90)
    command.send(signal.SIGSTOP)
    time.sleep(10)
    command.send(signal.SIGCONT)
    time.sleep(2)
    assert step_of(troupe.path("run")) > reached + 5
    assert command.process.poll() is None, command.wait(0)
    command.interrupt()
    done = command.wait(30)
    assert done.code == 130, done
    assert "stopped at step" in done.err
    assert not (troupe.path("run") / "restarts.jsonl").exists()


@pytest.mark.long
def test_a_search_whose_terminal_closes_saves_every_running_trial(troupe: Commands) -> None:
    command = troupe.start("search", "classifier", "model=mlp_bn", "data=digits", "learning_rate=0.1,0.2,0.3",
                           "steps=100000", "evaluate_every=50000", "--space", "none", "--name", "s")  # fmt: skip
    trials = [troupe.path("s") / "trials" / name for name in ("0001", "0002")]
    until(lambda: all((trial / "metrics.jsonl").exists() for trial in trials), "two trials train", 60)
    command.hang_up()
    done = command.wait(30)
    assert done.code == 130, done
    assert done.mistakes == ["troupe: s: stopped and saved; resume with `troupe search --resume s`"]
    assert [trial.state for trial in leaderboard.read_search(troupe.path("s")).trials] == [
        INTERRUPTED,
        INTERRUPTED,
        "waiting",
    ]


def test_wrong_names_and_ranks_are_told(troupe: Commands) -> None:
    troupe.train(*RECIPE, "steps=1", "--name", "run")
    for words, code, line in (
        (("stop", "run"), 4, "run: already finished; `troupe runs` shows what is running"),
        (("stop", "rum"), 2, "rum: no such run in runs; did you mean run?"),
        (("logs", "run", "--rank", "3"), 2, "--rank 3: run has no log of it; ranks that have one: 0"),
        (("cancel", "run"), 2, "cancel: no such verb; use `troupe stop`; `troupe --help` lists them"),
    ):
        done = troupe.run(*words)
        assert (done.code, done.mistakes) == (code, [f"troupe: {line}"])
    shown = troupe.run("logs", "run")
    assert shown.code == 0
    assert shown.out == (troupe.path("run") / "logs" / "rank_0.log").read_text()
