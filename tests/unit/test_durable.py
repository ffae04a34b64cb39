"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trainers.storage import atomic_files


def test_what_a_killed_write_has_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    with atomic_files.replacing(tmp_path / "file") as making:
        left = making.name
    (tmp_path / "file").rename(tmp_path / left)  # as a kill would leave it
    for name in (".mine.making", ".of.0123456789abcdef.making.txt", "file.0123456789abcdef.making"):
        (tmp_path / name).write_text("important")
    atomic_files.clear_unfinished(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_is_made_durable_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        events.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(f"{tmp_path}/"))
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        events.append(f"-> {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    atomic_files.write(tmp_path / "file", "content")
    written, *others = events
    assert (written.startswith(".file."), written.endswith(".making")) == (True, True)
    assert others == ["-> file", str(tmp_path)]
    assert (tmp_path / "file").read_text() == "content"


def test_what_fails_half_way_leaves_the_file_of_before_and_nothing_else(tmp_path: Path) -> None:
    atomic_files.write(tmp_path / "file", "before")

    def fails() -> None:
        with atomic_files.replacing(tmp_path / "file") as making:
            making.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "before")]


def test_facts_tell_whether_they_are_as_they_were_written() -> None:
    facts = {"format": 1, "settings": {"rate": 0.1, "betas": [0.5, 1e-9], "data": "Größe"}, "none": None}
    read = json.loads(atomic_files.sealed(facts))
    assert atomic_files.is_intact(read)
    assert {key: value for key, value in read.items() if key != "digest"} == facts
    assert atomic_files.is_intact(json.loads(atomic_files.sealed(read))), "what was read can be written again"
    for harm in ({"format": 2}, {"settings": {**facts["settings"], "rate": 0.2}}, {"more": 1}):
        assert not atomic_files.is_intact({**read, **harm})
    assert atomic_files.is_intact(facts), "what 0.1.0 wrote has no digest"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_whoever_may_read_a_file_follows_the_umask_whatever_a_library_says(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        atomic_files.write(tmp_path / "plain", "content")
        with atomic_files.replacing(tmp_path / "private") as making:
            making.unlink()
            os.close(os.open(making, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("plain", "private")] == [0o666 & ~mask] * 2
