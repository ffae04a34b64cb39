"""A pulled plug: what was not made durable is gone, and the run goes on to the same bits with every picture and row."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import DCGAN, Commands, assert_same_run, checkpoints, until, until_step
from PIL import Image

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

SHUT_DOWN, WITHOUT_THE_LOG = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN: nothing more reaches the disk, the rest of its journal
RUN = (*DCGAN, "steps=40", "log_every=1", "sample_every=3", "checkpoint_every=5", "keep=2")


class Disk:
    """A file system of its own, with a journal, whose plug can be pulled."""

    def __init__(self, image: Path, path: Path) -> None:
        self.image, self.path = image, path

    def mount(self) -> str:
        """Plug it in; the kernel's reason where that may not be."""
        done = subprocess.run(
            ["mount", "-o", "loop,commit=300", str(self.image), str(self.path)], capture_output=True, text=True
        )
        return done.stderr.strip() if done.returncode else ""

    def pull(self) -> None:
        """Drop all that was not made durable."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUT_DOWN, struct.pack("I", WITHOUT_THE_LOG))
        finally:
            os.close(folder)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    image, path = tmp_path / "image", tmp_path / "disk"
    path.mkdir()
    with open(image, "wb") as file:
        file.truncate(256 << 20)
    made = subprocess.run(["mkfs.ext4", "-q", str(image)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be made here: {made.stderr.strip()}")
    disk = Disk(image, path)
    if reason := disk.mount():
        pytest.skip(f"no disk can be mounted here: {reason}")
    yield disk
    subprocess.run(["umount", "--lazy", str(path)], check=False)


@pytest.fixture(scope="module")
def straight(shared: Commands) -> Path:
    shared.train(*RUN, "--name", "straight")
    return shared.path("straight")


@pytest.mark.parametrize("step", [0, 7, 23, 33])
def test_a_run_goes_on_to_the_same_bits(troupe: Commands, disk: Disk, straight: Path, step: int) -> None:
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


def test_without_making_files_durable_they_would_be_lost(disk: Disk) -> None:
    """What the test above relies on: the plug is really pulled."""
    (disk.path / "file").write_text("written, and never made durable")
    disk.pull()
    disk.unmount()
    assert disk.mount() == ""
    assert not (disk.path / "file").exists() or (disk.path / "file").read_text() == ""
