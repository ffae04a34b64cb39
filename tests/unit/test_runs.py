"""`troupe runs`: every run has its row, and one that is damaged or cannot be read costs no other its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import train
from cluster.cli.main import command
from cluster.inspection import manage_runs
from cluster.terminal.progress import rows_of_runs
from tests.searches import make_search
from trainers.base.errors import ENVIRONMENT
from trainers.run_folders import run_folder
from trainers.run_folders.run_folder import RunFolder

NOBODY = 65534


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)  # for a user who is nobody
    told = {"family": "dcgan", "settings": {"steps": 4, "data": "digits"}, "facts": {}, "versions": {}}
    for name in ("good", "sick"):
        run_folder.create(Path("runs"), "dcgan", name, lambda folder: folder.write_settings(told))
    return Path("runs")


@contextlib.contextmanager
def as_nobody(*paths: Path) -> Iterator[None]:
    """As a user who may not read these: root may read all."""
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert command(["runs", "--json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)["result"]["runs"]}


@pytest.mark.parametrize("part", ["", "checkpoints", "settings.json", "logs"])
def test_a_run_that_cannot_be_read_is_told_and_costs_no_other_its_row(
    runs: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    rows(capsys)  # imports all that it takes, which nobody may be unable to read
    with as_nobody(runs / "sick" / part if part else runs / "sick"):
        found = rows(capsys)
    assert found["good"]["state"] == "stopped"
    assert (found["good"]["step"], found["good"]["steps"]) == (0, 4)
    if part == "":
        assert "Permission denied" in found["sick"]["note"]
    elif part == "checkpoints":
        assert (found["sick"]["state"], found["sick"]["note"]) in (
            ("stopped", None), ("damaged", "cannot be read (Permission denied)")
        )  # fmt: skip
    else:
        assert "sick" in found


@pytest.mark.parametrize("content", [b"", b"{", b'{"metric": "\xff"}', b"[]"])
def test_a_damaged_search_costs_no_run_its_row(runs: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (runs / "search" / "trials").mkdir(parents=True)
    (runs / "search" / "search.json").write_bytes(content)
    found = rows(capsys)
    assert found.keys() == {"good", "sick", "search"}
    assert (found["search"]["kind"], found["search"]["state"]) == ("search", "damaged")
    assert "search.json: damaged (" in found["search"]["note"]
    assert command(["runs"]) == 0
    assert "good" in capsys.readouterr().out


def test_a_runs_folder_that_cannot_be_read_is_told(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with as_nobody(runs):
        assert command(["runs"]) == ENVIRONMENT
    assert capsys.readouterr().err == "troupe: --runs-dir runs: cannot be read (Permission denied)\n"
    Path("file").write_text("")
    assert command(["runs", "--runs-dir", "file"]) == ENVIRONMENT
    assert capsys.readouterr().err == "troupe: --runs-dir file: cannot be read (Not a directory)\n"
    Path("loop").symlink_to("loop")
    assert command(["runs", "--runs-dir", "loop"]) == ENVIRONMENT
    assert "cannot be read (Too many levels of symbolic links)" in capsys.readouterr().err
    assert command(["runs", "--runs-dir", "none"]) == 0
    assert "no runs in none" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json", "verdict.json", "starts.jsonl", "restarts.jsonl"])
def test_bytes_that_are_no_text_in_any_file_of_a_run_cost_what_stood_there_only(
    runs: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = RunFolder((runs / "sick").resolve())
    (folder.path / name).write_bytes(b'{"step": 1, "why": "\xff\xfe"}\n\x80\x81\n{"step": 2, "why": "lost"}\n')
    assert [row["why"] for row in folder.read_restarts()] == (["lost"] if name == "restarts.jsonl" else [])
    assert folder.read_starts() == []
    assert folder.read_result() is None
    assert folder.read_verdict() == {}
    assert [row["step"] for row in folder.read_metrics()[0]] == ([2] if name == "metrics.jsonl" else [])
    assert folder.read_settings()["family"] == "dcgan"
    assert rows(capsys)["sick"]["family"] == "dcgan"


def test_a_result_or_settings_that_are_damaged_are_told_beside_the_run(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "good" / "result.json").write_text("")
    assert rows(capsys)["good"]["note"] == "result.json: damaged; `troupe train --resume` rewrites it"


def test_a_search_and_a_run_have_the_same_columns_in_the_same_order(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_search(runs.resolve(), trials=2)
    (runs / "sick" / "settings.json").write_text("{")
    heads = [[head for head in row if head] for row in rows_of_runs(manage_runs.list_runs(runs, []))]
    assert heads == [["name", "family", "data", "steps", "state", "time", "size"]] * 3
    assert command(["runs"]) == 0
    head, search, *_ = capsys.readouterr().out.splitlines()
    assert search.index("2/2 trials") == head.index("steps")
    assert search.index("finished") == head.index("state")


def test_a_run_whose_settings_are_lost_is_what_its_checkpoint_tells_to_every_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {"image_size": 16, "width": 4, "batch_size": 4, "microbatch_size": 2, "evaluate_every": 0}
    train("dcgan", name="run", steps=2, data_dir=tmp_path / "data", **words)
    before = json.loads(Path("runs/run/settings.json").read_text())
    Path("runs/run/settings.json").unlink()
    (row,) = manage_runs.list_runs(Path("runs"), [])
    assert (row["name"], row["step"], row["state"]) == ("run", 2, "finished")
    assert "settings.json: damaged (it is missing); the settings come from step_00000002" in row["note"]
    for words_of_verb in (("sample", "run"), ("export", "run"), ("report", "run"), ("logs", "run"),
                    ("runs", "--remove", "run", "--dry-run")):  # fmt: skip
        assert command(words_of_verb) == 0, words_of_verb
    train(resume="run", data_dir=tmp_path / "data", steps=3)
    after = json.loads(Path("runs/run/settings.json").read_text())
    assert after["settings"] == {**before["settings"], "steps": 3}


def test_a_run_that_has_lost_checkpoints_says_so_and_how_far_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {"image_size": 16, "width": 4, "batch_size": 4, "microbatch_size": 2, "evaluate_every": 0}
    train("dcgan", name="run", steps=4, checkpoint_every=2, data_dir=tmp_path / "data", **words)
    saved = sorted(Path("runs/run/checkpoints").iterdir())
    shutil.rmtree(saved[-1])
    (row,) = manage_runs.list_runs(Path("runs"), [])
    assert (row["step"], row["state"], row["note"]) == (4, "finished", "its last checkpoint is at step 2")
    for path in saved[:-1]:
        shutil.rmtree(path)
    (row,) = manage_runs.list_runs(Path("runs"), [])
    assert (row["step"], row["state"], row["note"]) == (4, "finished", "it has no checkpoint left")
