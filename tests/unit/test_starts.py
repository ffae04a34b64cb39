"""Runs whose start fails: an old one stays as it was, and of a new one nothing is left. In this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch

from cluster import begun_from, exporting, launch, train
from trainers import registry
from trainers.engine import durable
from trainers.engine.errors import CONFLICT, SURROUNDINGS, TroupeError
from trainers.engine.problems import Problem
from trainers.engine.runfolder import RunFolder
from trainers.engine.tensors import read_weights

TINY: dict[str, Any] = {**registry.config_class("dcgan").tiny["tiny"], "steps": 2, "device": "cpu"}


class Killed(BaseException):
    """What nobody catches, as where the process is killed."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two steps, `old`."""
    folder = tmp_path_factory.mktemp("made")
    train("dcgan", name="old", runs_dir=folder / "runs", **TINY)
    return folder


@pytest.fixture
def old(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of it, that may be changed."""
    monkeypatch.chdir(tmp_path)
    return RunFolder(Path(shutil.copytree(made / "runs" / "old", tmp_path / "runs" / "old")))


def refused(code: int, **words: Any) -> str:
    """The one line with which `train` refuses."""
    with pytest.raises(TroupeError) as caught:
        train(**words)
    assert caught.value.code == code, caught.value
    (line,) = caught.value.mistakes
    assert "\n" not in line
    return line


CHANGED: dict[str, Any] = {"resume": "old", "steps": 4, "allow_changes": True}


def test_a_change_that_the_checkpoint_does_not_fit_leaves_the_run_as_it_was(old: RunFolder) -> None:
    before = old.settings.read_text()
    with pytest.raises(TroupeError) as caught:
        train(**CHANGED, width=16)
    assert caught.value.code == CONFLICT
    assert all("does not fit" in line and len(line) < 230 for line in caught.value.mistakes)
    assert old.settings.read_text() == before
    assert not old.before.exists()
    assert train(resume="old")["steps"] == 2
    assert train(resume="old", steps=3)["steps"] == 3


@pytest.mark.parametrize("code", [1, SURROUNDINGS, CONFLICT])
def test_the_settings_come_back_after_any_failure_before_a_new_checkpoint(
    old: RunFolder, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fails(*_: Any) -> Any:
        assert json.loads(old.settings.read_text())["settings"]["learning_rate"] == 0.5
        raise TroupeError(Problem("weights-misfit", reason="the checkpoint does not fit generator"), code)

    before = old.settings.read_text()
    monkeypatch.setattr(launch, "_here", fails)
    refused(code, **CHANGED, learning_rate=0.5)
    assert old.settings.read_text() == before
    assert sorted(path.name for path in old.path.glob("settings*")) == ["settings.json"]


def test_the_settings_come_back_where_the_process_was_killed_before_a_new_checkpoint(
    old: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> Any:
        raise Killed

    before = json.loads(old.settings.read_text())
    with monkeypatch.context() as patched:
        patched.setattr(launch, "_here", killed)
        with pytest.raises(Killed):
            train(**CHANGED, width=16)
    assert json.loads(old.settings.read_text())["settings"]["width"] == 16
    assert old.read_settings() == before
    assert train(resume="old", steps=3)["steps"] == 3
    assert old.read_settings()["settings"] == {**before["settings"], "steps": 3}
    assert not old.before.exists()


def test_changed_settings_stay_where_a_checkpoint_was_made_under_them(
    old: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = launch._here

    def killed_late(*given: Any) -> Any:
        here(*given)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(launch, "_here", killed_late)
        with pytest.raises(Killed):
            train(**CHANGED, learning_rate=0.5)
    assert old.before.exists()
    assert old.read_settings()["settings"]["learning_rate"] == 0.5
    train(resume="old", steps=5)
    assert old.read_settings()["settings"]["learning_rate"] == 0.5
    assert not old.before.exists()


def test_a_damaged_checkpoint_after_the_one_that_was_gone_on_from_proves_nothing(old: RunFolder) -> None:
    damaged = old.checkpoints / "step_00000003"
    shutil.copytree(old.checkpoints / "step_00000002", damaged)
    (damaged / "state.pt").write_bytes(b"")
    before = old.read_settings()
    old.change_settings({**before, "settings": {"steps": 9}})
    assert old.read_settings() == before
    old.settle_settings()
    assert old.read_settings() == before


def test_settings_are_changed_under_the_lock_of_the_run(old: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    change = RunFolder.change_settings
    seen: list[str] = []

    def looked_at(folder: RunFolder, facts: Any) -> None:
        with pytest.raises(TroupeError, match="another process is working on this run"), old.lock():
            pass
        seen.append(folder.name)
        change(folder, facts)

    monkeypatch.setattr(RunFolder, "change_settings", looked_at)
    train(**CHANGED)
    assert seen == ["old"]


def test_a_file_without_weights_is_told_in_one_line_and_leaves_nothing(old: RunFolder) -> None:
    Path("bad.safetensors").write_bytes(b"no weights" * 10)
    line = refused(CONFLICT, family="dcgan", name="new", from_run="bad.safetensors", **TINY)
    assert line.startswith("--from bad.safetensors: no weights can be read (")
    assert line.endswith("); give a state dict that torch saved, or a file or folder that `troupe export` wrote")
    assert [path.name for path in Path("runs").iterdir()] == ["old"]
    train("dcgan", name="new", from_run="old", **TINY)


def test_a_file_that_cannot_be_read_or_copied_leaves_nothing(old: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    words: dict[str, Any] = {"family": "dcgan", "name": "new", "from_run": "old", **TINY}
    with monkeypatch.context() as patched:
        patched.setattr(begun_from, "weights_path", lambda given, runs: Path("gone.safetensors"))
        patched.setattr(begun_from, "refuse_unfit", lambda *_: None)  # gone since
        assert refused(CONFLICT, **words) == "--from old: cannot be read (No such file or directory)"
    for error, code in ((OSError(28, "No space left on device"), SURROUNDINGS), (Killed(), None)):

        def fails(*_: Any, error: BaseException = error) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(shutil, "copyfileobj", fails)
            if code is None:
                with pytest.raises(Killed):
                    train(**words)
            else:
                assert "no space left" in refused(code, **words)
        assert [path.name for path in Path("runs").iterdir()] == ["old"]


def test_settings_that_cannot_be_written_leave_no_folder(old: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "write", fails)
    refused(SURROUNDINGS, family="dcgan", name="new", **TINY)
    assert [path.name for path in Path("runs").iterdir()] == ["old"]


@pytest.mark.parametrize("name", ["state.pt", "weights.safetensors", "gone.pt"])
def test_weights_that_cannot_be_read_are_told_in_one_line(tmp_path: Path, name: str) -> None:
    if "gone" not in name:
        (tmp_path / name).write_bytes(b"no weights\n" * 10)
    with pytest.raises(TroupeError) as caught:
        read_weights(tmp_path / name)
    assert caught.value.code == CONFLICT
    (line,) = caught.value.mistakes
    assert line.startswith(f"{tmp_path / name}: no weights can be read (")
    assert "\n" not in line


def test_an_export_to_a_full_disk_is_told_in_one_line_and_leaves_no_half_file(
    old: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(tensors: Any, path: Path, facts: Any) -> None:
        path.write_bytes(b"half")
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", fails)
    with pytest.raises(TroupeError) as caught:
        exporting.export("old", Path("runs"), (), Path("out"))
    assert caught.value.code == SURROUNDINGS
    (line,) = caught.value.mistakes
    assert line.startswith("--out out: cannot be written (Error while serializing: I/O error: No space left")
    assert not Path("out").exists()
    Path("out").mkdir()
    with pytest.raises(TroupeError):
        exporting.export("old", Path("runs"), (), Path("out"))
    assert list(Path("out").iterdir()) == []
