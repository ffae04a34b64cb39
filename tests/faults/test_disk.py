"""Disks that are full or cannot be written, and too little shared memory: one clear line, and nothing saved is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import (
    FRAGILE,
    FRAGILE_RUN,
    Commands,
    assert_same_run,
    assert_same_state,
    checkpoints,
    leftovers,
    until,
)
from disks import SmallDisk

from trainers.storage import checkpoint

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150)]

FULL = "no space left; free space, or move the run to another disk, then continue with --resume {}"


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk", getattr(request, "param", 24))
    if reason := disk.mount():
        pytest.skip(f"no disk can be mounted here: {reason}")
    yield disk
    disk.give_back()


def test_a_disk_that_fills_up_ends_the_run_and_a_resume_ends_with_the_same_bits(
    troupe: Commands, disk: SmallDisk
) -> None:
    """The metrics are what is written next: in every step."""
    runs = ("--runs-dir", str(disk.path))
    run = disk.path / "run"
    command = troupe.start(
        "train", *FRAGILE_RUN, "steps=150", "checkpoint_every=10", "pause=0.005", "--name", "run", *runs
    )
    until(lambda: len(checkpoints(run)) > 2, "two checkpoints after the first", every=0.005)
    disk.fill()
    done = command.wait(30)
    assert done.code == 3, done
    (line,) = done.mistakes
    assert line in (f"troupe: {path}: {FULL.format('run')}" for path in (run, run / "checkpoints"))
    saved = checkpoints(run)
    assert [path for path in saved if checkpoint.damage_of(path)] == []
    again = troupe.run("train", "--resume", "run", *runs, "--families", str(FRAGILE))
    assert again.code == 3
    assert again.mistakes == [f"troupe: {run}: no space left (less than 16 MB); free some, or use another folder"]
    assert checkpoints(run) == saved
    disk.clear()
    troupe.train("--resume", "run", "pause=0", *runs, "--families", str(FRAGILE))
    troupe.train(*FRAGILE_RUN, "steps=150", "checkpoint_every=10", "--name", "straight")
    assert_same_run(run, troupe.path("straight"))


def test_a_run_that_has_finished_needs_no_room_to_say_so(troupe: Commands, disk: SmallDisk) -> None:
    runs = ("--runs-dir", str(disk.path), "--families", str(FRAGILE))
    troupe.train(*FRAGILE_RUN, "steps=4", "--name", "run", *runs[:2])
    disk.fill()
    again = troupe.run("train", "--resume", "run", *runs)
    assert again.code == 0, again
    assert "run: already finished at step 4; increase steps to continue" in again.out + again.err
    more = troupe.run("train", "--resume", "run", "steps=8", *runs)
    assert more.code == 3
    assert more.mistakes == [
        f"troupe: {disk.path}/run: no space left (less than 16 MB); free some, or use another folder"
    ]
    assert troupe.run("runs", *runs[:2]).code == 0


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_whole(troupe: Commands, disk: SmallDisk) -> None:
    """Two checkpoints of 8 MB fit, and the third does not."""
    words = (*FRAGILE_RUN, "steps=6", "checkpoint_every=2", "ballast=8")
    runs = ("--runs-dir", str(disk.path))
    run = disk.path / "run"
    done = troupe.run("train", *words, "--name", "run", *runs)
    assert done.code == 3, done
    (line,) = done.mistakes
    assert line == f"troupe: {run}/checkpoints: {FULL.format('run')}"
    assert [path.name for path in checkpoints(run)] == ["step_00000000", "step_00000002"]
    assert [path for path in checkpoints(run) if checkpoint.damage_of(path)] == []
    assert leftovers(run) == []
    disk.remount("size=96m")
    troupe.train("--resume", "run", *runs, "--families", str(FRAGILE))
    troupe.train(*words, "--name", "straight")
    assert_same_run(run, troupe.path("straight"))


@pytest.mark.long
@pytest.mark.parametrize("disk", [160], indirect=True)
def test_a_disk_that_fills_up_stops_a_search_and_nothing_is_lost(troupe: Commands, disk: SmallDisk) -> None:
    runs = ("--runs-dir", str(disk.path))
    command = troupe.start("search", "classifier", "model=mlp_bn", "data=digits", "learning_rate=0.1,0.2,0.3",
                           "steps=1000", "evaluate_every=500", "checkpoint_every=50", "--space", "none", "--name", "s",
                           *runs)  # fmt: skip
    trials = [disk.path / "s" / "trials" / name for name in ("0001", "0002")]
    until(lambda: all(len(checkpoints(trial)) > 1 for trial in trials), "two trials have saved", 120)
    disk.fill()
    done = command.wait(120)
    assert done.code == 3, done
    line = done.mistakes[-1]
    assert line in (  # whoever wants to write next
        f"troupe: {disk.path}/s: {FULL.format('s')}",
        "troupe: s: the disk is full, and only running trials and the best one have checkpoints; free some space, then "
        "resume with `troupe search --resume s`",
    ) or re.fullmatch(
        r"troupe: s: 000\d was interrupted: .*: no space left; .*; resume with `troupe search --resume s`", line
    )
    disk.clear()
    assert not any(checkpoint.damage_of(path) for trial in trials for path in checkpoints(trial))
    done = troupe.run("search", "--resume", "s", *runs, seconds=120)
    assert done.code == 0, done
    troupe.train("classifier", "model=mlp_bn", "data=digits", "learning_rate=0.1", "steps=1000", "evaluate_every=500",
                 "evaluate_on=validation", "--name", "alone")  # fmt: skip
    assert_same_state(trials[0], troupe.path("alone"))


def test_a_runs_folder_that_cannot_be_written_is_told_at_once(troupe: Commands, disk: SmallDisk) -> None:
    troupe.train(*FRAGILE_RUN, "steps=2", "--name", "run", "--runs-dir", str(disk.path))
    disk.remount("ro")
    runs = ("--runs-dir", str(disk.path))
    done = troupe.run("train", *FRAGILE_RUN, "--name", "new", *runs)
    assert done.code == 3, done
    assert done.mistakes == [f"troupe: --runs-dir {disk.path}: cannot be written (Read-only file system)"]
    done = troupe.run("train", "--resume", "run", "steps=4", "--families", str(FRAGILE), *runs)
    assert done.code == 3, done
    assert done.mistakes == [f"troupe: {disk.path}/run: cannot be written (Read-only file system)"]
    (troupe.folder / "file").write_text("")
    done = troupe.run("train", *FRAGILE_RUN, "--runs-dir", "file/runs")
    assert done.code == 3
    assert done.mistakes == ["troupe: --runs-dir file/runs: cannot be written (Not a directory)"]
