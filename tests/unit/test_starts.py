"""Runs whose start fails: an old one stays as it was, and of a new one nothing is left. In this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
from sentences import Sentences

from cluster import train
from cluster.inspection import export
from cluster.training import initial_weights, launch_run
from trainers.base.errors import CONFLICT, ENVIRONMENT, TroupeError
from trainers.base.problems import Problem
from trainers.families import registry
from trainers.run_folders.run_folder import RunFolder
from trainers.storage import atomic_files
from trainers.storage.tensors import read_weights

TINY: dict[str, Any] = {**registry.config_class("dcgan").tiny["tiny"], "steps": 2, "device": "cpu", "evaluate_every": 0}


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


def refused(code: int, **words: Any) -> Problem:
    """The one problem for which `train` refuses."""
    with pytest.raises(TroupeError) as caught:
        train(**words)
    assert caught.value.code == code, caught.value
    (problem,) = caught.value.problems
    assert "\n" not in str(caught.value)
    return problem


CHANGED: dict[str, Any] = {"resume": "old", "steps": 4, "allow_changes": True}


def test_a_change_that_the_checkpoint_does_not_fit_leaves_the_run_as_it_was(
    old: RunFolder, sentences: Sentences
) -> None:
    before = old.settings.read_text()
    with pytest.raises(TroupeError) as caught:
        train(**CHANGED, width=16)
    assert caught.value.code == CONFLICT
    assert {one.code for one in caught.value.problems} == {"weights-misfit"}
    assert all(len(line) < 230 for line in caught.value.mistakes)
    sentences(caught.value.problems)
    assert old.settings.read_text() == before
    assert "before" not in json.loads(old.settings.read_text())
    assert train(resume="old")["steps"] == 2
    assert train(resume="old", steps=3)["steps"] == 3


@pytest.mark.parametrize("code", [1, ENVIRONMENT, CONFLICT])
def test_the_settings_come_back_after_any_failure_before_a_new_checkpoint(
    old: RunFolder, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fails(*_: Any) -> Any:
        assert json.loads(old.settings.read_text())["settings"]["learning_rate"] == 0.5
        raise TroupeError(Problem("weights-misfit", reason="the checkpoint does not fit generator"), code)

    before = old.settings.read_text()
    monkeypatch.setattr(launch_run, "_run_locally", fails)
    assert refused(code, **CHANGED, learning_rate=0.5).code == "weights-misfit"
    assert old.settings.read_text() == before
    assert sorted(path.name for path in old.path.glob("settings*")) == ["settings.json"]


def test_the_settings_come_back_where_the_process_was_killed_before_a_new_checkpoint(
    old: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> Any:
        raise Killed

    before = json.loads(old.settings.read_text())
    with monkeypatch.context() as patched:
        patched.setattr(launch_run, "_run_locally", killed)
        with pytest.raises(Killed):
            train(**CHANGED, width=16)
    assert json.loads(old.settings.read_text())["settings"]["width"] == 16
    assert old.read_settings() == before
    assert train(resume="old", steps=3)["steps"] == 3
    assert old.read_settings()["settings"] == {**before["settings"], "steps": 3}
    assert "before" not in json.loads(old.settings.read_text())


def test_changed_settings_stay_where_a_checkpoint_was_made_under_them(
    old: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = launch_run._run_locally

    def killed_late(*given: Any) -> Any:
        here(*given)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(launch_run, "_run_locally", killed_late)
        with pytest.raises(Killed):
            train(**CHANGED, learning_rate=0.5)
    assert "before" in json.loads(old.settings.read_text())
    assert old.read_settings()["settings"]["learning_rate"] == 0.5
    train(resume="old", steps=5)
    assert old.read_settings()["settings"]["learning_rate"] == 0.5
    assert "before" not in json.loads(old.settings.read_text())


def test_a_damaged_checkpoint_after_the_one_that_was_gone_on_from_proves_nothing(old: RunFolder) -> None:
    damaged = old.checkpoints / "step_00000003"
    shutil.copytree(old.checkpoints / "step_00000002", damaged)
    (damaged / "state.pt").write_bytes(b"")
    before = old.read_settings()
    old.change_settings({**before, "settings": {"steps": 9}})
    assert old.read_settings() == before
    old.resolve_settings_change()
    assert old.read_settings() == before


def test_settings_are_changed_under_the_lock_of_the_run(
    old: RunFolder, monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    change = RunFolder.change_settings
    seen: list[str] = []

    def looked_at(folder: RunFolder, facts: Any) -> None:
        with pytest.raises(TroupeError) as error, old.lock():
            pass
        assert [(one.code, one.about) for one in error.value.problems] == [("held", "old")]
        sentences(error.value.problems)
        seen.append(folder.name)
        change(folder, facts)

    monkeypatch.setattr(RunFolder, "change_settings", looked_at)
    train(**CHANGED)
    assert seen == ["old"]


def test_a_file_without_weights_is_told_in_one_line_and_leaves_nothing(old: RunFolder, sentences: Sentences) -> None:
    Path("bad.safetensors").write_bytes(b"no weights" * 10)
    problem = refused(CONFLICT, family="dcgan", name="new", init_from="bad.safetensors", **TINY)
    assert (problem.code, problem.about, problem.value) == ("no-weights", "--init-from", "bad.safetensors")
    sentences([problem])
    assert [path.name for path in Path("runs").iterdir()] == ["old"]
    train("dcgan", name="new", init_from="old", **TINY)


def test_a_file_that_cannot_be_read_or_copied_leaves_nothing(
    old: RunFolder, monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    words: dict[str, Any] = {"family": "dcgan", "name": "new", "init_from": "old", **TINY}
    with monkeypatch.context() as patched:
        patched.setattr(initial_weights, "weights_path", lambda given, runs: Path("gone.safetensors"))
        patched.setattr(initial_weights, "refuse_unfit", lambda *_: None)  # gone since
        problem = refused(CONFLICT, **words)
        assert (problem.code, problem.about, problem.value) == ("not-read", "--init-from", "old")
        sentences([problem])
    for error, code in ((OSError(28, "No space left on device"), ENVIRONMENT), (Killed(), None)):

        def fails(*_: Any, error: BaseException = error) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(shutil, "copyfileobj", fails)
            if code is None:
                with pytest.raises(Killed):
                    train(**words)
            else:
                problem = refused(code, **words)
                assert (problem.code, problem.about) == ("no-space", "--runs-dir runs")
                sentences([problem])
        assert [path.name for path in Path("runs").iterdir()] == ["old"]


def test_settings_that_cannot_be_written_leave_no_folder(old: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files, "write", fails)
    assert refused(ENVIRONMENT, family="dcgan", name="new", **TINY).code == "no-space"
    assert [path.name for path in Path("runs").iterdir()] == ["old"]


@pytest.mark.parametrize("name", ["state.pt", "weights.safetensors", "gone.pt"])
def test_weights_that_cannot_be_read_are_told_in_one_line(tmp_path: Path, name: str, sentences: Sentences) -> None:
    if "gone" not in name:
        (tmp_path / name).write_bytes(b"no weights\n" * 10)
    with pytest.raises(TroupeError) as caught:
        read_weights(tmp_path / name)
    assert caught.value.code == CONFLICT
    assert [(one.code, one.about) for one in caught.value.problems] == [("no-weights", str(tmp_path / name))]
    assert "\n" not in str(caught.value)
    sentences(caught.value.problems)


def test_an_export_to_a_full_disk_is_told_in_one_line_and_leaves_no_half_file(
    old: RunFolder, monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    def fails(tensors: Any, path: Path, facts: Any) -> None:
        path.write_bytes(b"half")
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", fails)
    with pytest.raises(TroupeError) as caught:
        export.export("old", Path("runs"), (), Path("out"))
    assert caught.value.code == ENVIRONMENT
    assert [(one.code, one.about, one.value) for one in caught.value.problems] == [("not-written", "--out", "out")]
    sentences(caught.value.problems)
    assert not Path("out").exists()
    Path("out").mkdir()
    with pytest.raises(TroupeError):
        export.export("old", Path("runs"), (), Path("out"))
    assert list(Path("out").iterdir()) == []
