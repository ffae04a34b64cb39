"""Checkpoints: whole or not there, proved by their manifest, and read without running anything."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentences import Sentences

from trainers.base.errors import CONFLICT, ENVIRONMENT, TroupeError
from trainers.storage import atomic_files, checkpoint, ownership


def state_of(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "networks": {"generator": {"weight": torch.arange(6.0).view(2, 3) + step, "count": torch.tensor(step)}},
        "carried": {3: {"hidden": torch.ones(2, dtype=torch.float64)}},
        "best": {"step": 1, "value": 0.5},
        "phase_counts": {"generator": 7},
    }


def save(folder: Path, step: int) -> Path:
    return checkpoint.save(
        folder, checkpoint.checkpoint_name(step), state_of(step), {"step": step, "versions": {"torch": "x"}}
    )


def nothing(line: str) -> None:
    raise AssertionError(f"warned: {line}")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, 500)
    assert path == tmp_path / "step_00000500"
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "state.pt"]
    loaded, expected = checkpoint.load(path), state_of(500)
    weights = loaded["networks"]["generator"]
    assert torch.equal(weights["weight"], expected["networks"]["generator"]["weight"])
    assert weights["count"].dtype == torch.int64
    assert loaded["carried"][3]["hidden"].dtype == torch.float64
    assert {key: loaded[key] for key in ("step", "best", "phase_counts")} == {
        key: expected[key] for key in ("step", "best", "phase_counts")
    }


def test_the_manifest_says_what_is_in_the_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path, 500)
    manifest = checkpoint.manifest_of(path)
    assert (manifest["format"], manifest["step"], manifest["versions"]) == (checkpoint.FORMAT, 500, {"torch": "x"})
    assert manifest["files"] == {
        "state.pt": {
            "bytes": (path / "state.pt").stat().st_size, "sha256": checkpoint.digest_of_file(path / "state.pt"),
        }
    }  # fmt: skip
    assert checkpoint.damage_of(path) is None


def test_saving_again_replaces(tmp_path: Path) -> None:
    save(tmp_path, 500)
    checkpoint.save(tmp_path, "step_00000500", {"step": "other"}, {})
    assert checkpoint.load(tmp_path / "step_00000500") == {"step": "other"}
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000500"]


def test_the_manifest_is_written_last_and_the_name_is_given_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    write, rename = atomic_files.write, os.rename

    def watched_write(path: Path, text: str) -> None:
        assert (path.parent / "state.pt").stat().st_size == json.loads(text)["files"]["state.pt"]["bytes"]
        assert not (tmp_path / "step_00000500").exists()
        events.append(path.name)
        write(path, text)

    def watched_rename(source: Path, target: Path) -> None:
        assert (Path(source) / "manifest.json").exists()
        assert not (Path(target) / ownership.MARK).exists()
        events.append(Path(target).name)
        rename(source, target)

    monkeypatch.setattr(atomic_files, "write", watched_write)
    monkeypatch.setattr(os, "rename", watched_rename)
    save(tmp_path, 500)
    assert events == ["manifest.json", "step_00000500"]


def full(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_a_file(state: Any, file: Any) -> None:
    file.write(b"half")
    raise RuntimeError("unexpected pos 64 vs 4\nmore lines")


@pytest.mark.parametrize(
    ("owner", "name", "failing", "code"),
    [
        (torch, "save", half_a_file, "not-written"),
        (torch, "save", full, "no-space"),
        (os, "fsync", full, "no-space"),
        (os, "rename", full, "no-space"),
        (checkpoint, "digest_of_file", full, "no-space"),
        (atomic_files, "write", full, "no-space"),
    ],
    ids=["half-a-file", "save", "fsync", "rename", "digest", "write"],
)
def test_nothing_half_made_is_left_when_a_write_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, failing: Callable[..., Any], code: str,
    sentences: Sentences,
) -> None:  # fmt: skip
    save(tmp_path, 100)
    with monkeypatch.context() as broken:
        broken.setattr(owner, name, failing)
        with pytest.raises(TroupeError) as caught:
            save(tmp_path, 200)
    assert caught.value.code == ENVIRONMENT
    assert [(one.code, one.about) for one in caught.value.problems] == [(code, str(tmp_path))]
    assert "\n" not in str(caught.value)
    sentences(caught.value.problems)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000100"]
    assert checkpoint.newest(tmp_path, nothing) == tmp_path / "step_00000100"


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path, sentences: Sentences) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TroupeError) as caught:
        save(tmp_path / "file" / "checkpoints", 1)
    assert caught.value.code == ENVIRONMENT
    assert [(one.code, one.about) for one in caught.value.problems] == [
        ("not-written", str(tmp_path / "file" / "checkpoints"))
    ]
    sentences(caught.value.problems)


def test_what_a_killed_writer_left_is_no_checkpoint(tmp_path: Path) -> None:
    left = ownership.make(tmp_path / ".making_step_00000200-1234abcd", checkpoint.WHAT)
    (left / "state.pt").write_bytes(b"half")
    assert checkpoint.all_in(tmp_path) == []
    save(tmp_path, 200)
    assert checkpoint.newest(tmp_path, nothing) == tmp_path / "step_00000200"
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000200"]


def test_nothing_is_removed_that_is_not_proved_to_be_a_checkpoint(tmp_path: Path) -> None:
    theirs = [
        tmp_path / "step_00000100",
        tmp_path / "step_00000200",
        tmp_path / ".making_step_00000300",
        tmp_path / "x",
    ]
    theirs[0].mkdir()
    save(tmp_path, 200)
    theirs[2].mkdir()
    (tmp_path / "x").symlink_to(theirs[1])
    for folder in theirs[:3]:
        (folder / "notes.txt").write_text("important")
    for step in (300, 400, 500):
        save(tmp_path, step)
    warnings: list[str] = []
    assert checkpoint.newest(tmp_path, warnings.append) == tmp_path / "step_00000500"
    (line,) = warnings
    assert line.startswith(f"{theirs[2]}: may not be troupe's")
    checkpoint.prune(tmp_path, 1, None)
    assert not checkpoint.remove_checkpoint(tmp_path / "x")
    assert sorted(os.listdir(tmp_path)) == sorted([*(path.name for path in theirs), "step_00000500"])
    assert all((folder / "notes.txt").read_text() == "important" for folder in theirs)
    save(tmp_path, 200)
    assert (tmp_path / "step_00000200.damaged" / "notes.txt").read_text() == "important"


def flip(path: Path) -> None:
    content = bytearray((path / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "state.pt").write_bytes(content)


def truncate(path: Path) -> None:
    (path / "state.pt").write_bytes((path / "state.pt").read_bytes()[:-1])


def rewrite(text: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / "manifest.json").write_text(text)

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit is flipped": (flip, "differs in SHA-256"),
    "the state is cut off": (truncate, "differs in size"),
    "the state is missing": (lambda path: (path / "state.pt").unlink(), "FileNotFoundError"),
    "the manifest is missing": (lambda path: (path / "manifest.json").unlink(), "FileNotFoundError"),
    "the manifest is empty": (rewrite(""), "JSONDecodeError"),
    "the manifest is no JSON": (lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe{"), "Unicode"),
    "the manifest is another JSON": (rewrite("[1, 2]"), "manifest"),
    "the manifest has no files": (rewrite('{"format": 1}'), "manifest"),
    "the manifest proves nothing": (rewrite('{"format": 1, "files": {}}'), "manifest"),
    "the manifest has a list of files": (rewrite('{"format": 1, "files": ["state.pt"]}'), "manifest"),
    "the manifest has no digest": (rewrite('{"format": 1, "files": {"state.pt": {}}}'), "manifest"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 100)
    path = save(tmp_path, 200)
    break_it, reason = DAMAGES[damage]
    break_it(path)
    warnings: list[str] = []
    assert checkpoint.newest(tmp_path, warnings.append) == tmp_path / "step_00000100"
    (line,) = warnings
    assert "\n" not in line
    assert reason in line
    assert line.startswith("step_00000200: damaged (")
    assert line.endswith("set aside as step_00000200.damaged, the previous one is used")
    assert (tmp_path / "step_00000200.damaged").is_dir()
    assert checkpoint.newest(tmp_path, nothing) == tmp_path / "step_00000100"  # told once


def test_nothing_is_found_where_none_is_there(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "missing", nothing) is None


def test_where_all_are_damaged_nothing_is_changed_and_one_line_says_so(tmp_path: Path, sentences: Sentences) -> None:
    for step in (100, 200):
        flip(save(tmp_path, step))
    warnings: list[str] = []
    with pytest.raises(TroupeError) as caught:
        checkpoint.newest(tmp_path, warnings.append)
    assert caught.value.code == CONFLICT
    assert [(one.code, one.about) for one in caught.value.problems] == [("damaged", str(tmp_path))]
    sentences(caught.value.problems)
    assert len(checkpoint.all_in(tmp_path)) == 2
    assert warnings == []


@pytest.mark.parametrize(
    ("best", "kept"),
    [(None, [300, 400]), (100, [100, 300, 400]), (400, [300, 400]), (777, [300, 400])],
)
def test_the_newest_and_the_best_are_kept(tmp_path: Path, best: int | None, kept: list[int]) -> None:
    for step in (0, 100, 200, 300, 400):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, 2, checkpoint.checkpoint_name(best) if best is not None else None)
    assert checkpoint.all_in(tmp_path) == [tmp_path / checkpoint.checkpoint_name(step) for step in kept]


class Bomb:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, "step_00000001", {"step": 1, "bomb": Bomb(tmp_path / "exploded")}, {})
    assert checkpoint.damage_of(path) is None
    with pytest.raises(TroupeError) as caught:
        checkpoint.load(path)
    assert caught.value.code == CONFLICT
    (problem,) = caught.value.problems
    assert (problem.code, problem.about) == ("damaged", str(path / "state.pt"))
    assert not (tmp_path / "exploded").exists()


def test_checkpoints_are_ordered_by_their_step(tmp_path: Path) -> None:
    names = [
        "step_00000000", "step_00000900", "step_00001000", "step_00001000_phase_2", "step_00001000_phase_10",
        "step_99999999", "step_100000000", "step_100000000_phase_1",
    ]  # fmt: skip
    for name in reversed(names):
        (tmp_path / name).mkdir()
    for other in ("step_500", "step_00000500.damaged", ".making_step_00000500", "best", "step_00000500_phase_x"):
        (tmp_path / other).mkdir()
    assert [path.name for path in checkpoint.all_in(tmp_path)] == names


def test_names_are_those_of_steps_and_of_phases_within_them() -> None:
    assert checkpoint.checkpoint_name(500) == "step_00000500"
    assert checkpoint.checkpoint_name(500, 3) == "step_00000500_phase_3"
    assert checkpoint.checkpoint_name(123456789) == "step_123456789"


def test_a_small_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_files.write(tmp_path / "file", "before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic_files.write(tmp_path / "file", "after")
    assert (tmp_path / "file").read_text() == "before"


def test_a_checkpoint_that_is_pruned_while_it_is_read_gives_way_to_the_next(tmp_path: Path) -> None:
    for step in (10, 20):
        checkpoint.save(tmp_path, checkpoint.checkpoint_name(step), {"of": step}, {"step": step})

    def read(path: Path) -> int:
        if path.name == checkpoint.checkpoint_name(20) and not (tmp_path / checkpoint.checkpoint_name(30)).exists():
            checkpoint.save(tmp_path, checkpoint.checkpoint_name(30), {"of": 30}, {"step": 30})
            shutil.rmtree(path)
        return int(checkpoint.load(path)["of"])

    assert checkpoint.read_newest(tmp_path, read) == (tmp_path / checkpoint.checkpoint_name(30), 30)

    def fails(path: Path) -> int:
        raise OSError("a disk that fails")

    with pytest.raises(OSError, match="a disk that fails"):
        checkpoint.read_newest(tmp_path, fails)
    assert checkpoint.read_newest(tmp_path / "nowhere", read) is None
