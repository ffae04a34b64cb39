"""What the tests of this folder share."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from wrong import Wrong

from cluster.cli import main


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> Wrong:
    """What was wrong with the newest command in this process."""
    return Wrong(monkeypatch)


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a run that learned from them, and its export. Not to be changed: take `room`."""
    room = tmp_path_factory.mktemp("learned")
    for folder in (room / "pets" / part / name for part in ("train", "test") for name in ("cat", "dog")):
        folder.mkdir(parents=True)
        for number in range(16):
            pixels = np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)
            Image.fromarray(pixels).save(folder / f"{folder.parent.name}{number}.png")
    words = ("train", "classifier", "model=mlp_bn", "image_size=8", "batch_size=16", "microbatch_size=8", "steps=1",
             "device=cpu", "data=imagefolder:pets", "--data-dir", "data", "--name", "run")  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(room)
        assert main.command([*words]) == 0
        assert main.command(["export", "run", "--out", "out"]) == 0
    return room


@pytest.fixture
def room(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of `learned`, without the packed images."""
    room = tmp_path / "room"
    shutil.copytree(learned, room, ignore=shutil.ignore_patterns("data"))
    monkeypatch.chdir(room)
    return room
