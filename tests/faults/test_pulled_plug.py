"""A pulled plug: what was not made durable is gone, and the run goes on to the same bits with every picture and row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import DCGAN, Commands, assert_same_run, checkpoints, until, until_step
from disks import JournalDisk
from PIL import Image
from tiers import long

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

RUN = (*DCGAN, "steps=40", "log_every=1", "sample_every=3", "checkpoint_every=5", "keep_checkpoints=2")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[JournalDisk]:
    disk = JournalDisk(tmp_path / "image", tmp_path / "disk")
    if reason := disk.make():
        pytest.skip(f"no file system can be made here: {reason}")
    if reason := disk.mount():
        pytest.skip(f"no disk can be mounted here: {reason}")
    yield disk
    disk.give_back()


@pytest.fixture(scope="module")
def straight(shared: Commands) -> Path:
    shared.train(*RUN, "--name", "straight")
    return shared.path("straight")


@pytest.mark.parametrize("step", [23, *long(0, 7, 33)])
def test_a_run_goes_on_to_the_same_bits(troupe: Commands, disk: JournalDisk, straight: Path, step: int) -> None:
    runs = ("--runs-dir", str(disk.path / "runs"))
    run = disk.path / "runs" / "run"
    command = troupe.start("train", *RUN, "--name", "run", *runs)
    if step:
        until_step(run, step, command)
    else:
        until(lambda: checkpoints(run), "the first checkpoint", every=0.001)
    disk.pull()
    command.kill()
    disk.unmount()
    assert disk.mount() == ""
    for picture in (*run.glob("grids/step_*.png"), *run.glob("real.png")):
        with Image.open(picture) as opened:
            opened.load()  # whole, or not there
    done = troupe.train("--resume", "run", *runs)
    assert "damaged" not in done.out
    assert_same_run(run, straight)
    assert (run / "real.png").read_bytes() == (straight / "real.png").read_bytes()
    assert (run / "timelapse.gif").read_bytes() == (straight / "timelapse.gif").read_bytes()
    assert json.loads((run / "result.json").read_text())["steps"] == 40


def test_without_making_files_durable_they_would_be_lost(disk: JournalDisk) -> None:
    """What the test above relies on: the plug is really pulled."""
    (disk.path / "file").write_text("written, and never made durable")
    disk.pull()
    disk.unmount()
    assert disk.mount() == ""
    assert not (disk.path / "file").exists() or (disk.path / "file").read_text() == ""
