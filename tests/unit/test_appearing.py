"""A folder of a run or a search appears whole, or not at all; what a killed maker leaves keeps nobody's name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sentences import Sentences

from cluster import search
from cluster.cli import main
from cluster.ranking.leaderboard import read_search
from cluster.requests.models import SearchRequest
from cluster.searching import launch_search
from cluster.searching.prepare_search import prepare_search
from cluster.training import launch_run
from trainers.base.errors import CONFLICT, ENVIRONMENT, TroupeError
from trainers.run_folders import run_folder
from trainers.run_folders.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
TOLD = {"family": "dcgan", "settings": {"steps": 4}, "facts": {}, "versions": {}}


def write(folder: RunFolder) -> None:
    folder.write_settings(TOLD)


KILLED = """
import os, signal, sys
from pathlib import Path
from typing import Any
from trainers.run_folders import run_folder
def fill(folder):
    if sys.argv[2] == "filled":
        folder.write_settings({"family": "dcgan", "settings": {"steps": 4}, "facts": {}, "versions": {}})
    os.kill(os.getpid(), signal.SIGKILL)
run_folder.create(Path(sys.argv[1]), "dcgan", "mine", fill)
"""


@pytest.mark.parametrize("moment", ["empty", "filled"])
def test_a_maker_that_is_killed_leaves_no_run_and_keeps_no_name(tmp_path: Path, moment: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), moment], check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert run_folder.all_runs(tmp_path) == []
    assert not (tmp_path / "mine").exists()
    folder = run_folder.create(tmp_path, "dcgan", "mine", write)
    assert folder.read_settings()["family"] == "dcgan"
    assert os.listdir(tmp_path) == ["mine"]


@pytest.mark.parametrize("place", ["mine", ".making-mine"])
@pytest.mark.parametrize("content", ["", "checkpoints/", "notes.txt", ".lock"])
def test_what_only_looks_like_a_makers_stays_and_keeps_its_name(
    tmp_path: Path, place: str, content: str, sentences: Sentences
) -> None:
    theirs = tmp_path / place / content
    theirs.mkdir(parents=True) if content in ("", "checkpoints/") else theirs.parent.mkdir()
    if not theirs.is_dir():
        theirs.write_text("important")
    with pytest.raises(TroupeError) as caught:
        run_folder.create(tmp_path, "dcgan", "mine", write)
    assert [(one.code, one.about, one.value) for one in caught.value.problems] == [("name-in-use", "--name", "mine")]
    sentences(caught.value.problems)
    assert run_folder.create(tmp_path, "mine", None, write).name == "mine-1"
    assert theirs.is_dir() or theirs.read_text() == "important"


@pytest.mark.parametrize("content", [None, "notes.txt", "logs/rank_0.log"])
def test_a_folder_that_is_somebody_elses_keeps_its_name(
    tmp_path: Path, content: str | None, sentences: Sentences
) -> None:
    (tmp_path / "mine" / "logs").mkdir(parents=True) if content else (tmp_path / "mine").mkdir()
    if content:
        (tmp_path / "mine" / content).write_text("important")
    with pytest.raises(TroupeError) as caught:
        run_folder.create(tmp_path, "dcgan", "mine", write)
    assert caught.value.code == CONFLICT
    assert [(one.code, one.about, one.value) for one in caught.value.problems] == [("name-in-use", "--name", "mine")]
    assert "--resume" not in caught.value.problems[0].hint
    sentences(caught.value.problems)
    assert run_folder.create(tmp_path, "mine", None, write).name == "mine-1"
    assert not content or (tmp_path / "mine" / content).read_text() == "important"


def test_nobody_sees_a_run_before_it_is_whole_and_two_at_once_get_names_of_their_own(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def fill(folder: RunFolder) -> None:
        seen.append([run.name for run in run_folder.all_runs(tmp_path)])
        assert folder.name.startswith("dcgan-")
        write(folder)
        assert not (tmp_path / folder.name).exists()

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: run_folder.create(tmp_path, "dcgan", None, fill), range(12)))
    assert sorted(folder.name for folder in made) == sorted(f"dcgan-{number}" for number in range(1, 13))
    assert all(folder.read_settings()["family"] == "dcgan" for folder in made)
    assert sorted(os.listdir(tmp_path)) == sorted(folder.name for folder in made)


def test_a_run_that_could_not_be_filled_leaves_nothing(tmp_path: Path, sentences: Sentences) -> None:
    def full(folder: RunFolder) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(TroupeError) as caught:
        run_folder.create(tmp_path, "dcgan", "mine", full)
    assert caught.value.code == ENVIRONMENT
    assert [(one.code, one.about, one.kept) for one in caught.value.problems] == [
        ("no-space", f"--runs-dir {tmp_path}", False)
    ]
    sentences(caught.value.problems)
    assert os.listdir(tmp_path) == []


def test_the_folder_of_a_search_appears_with_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = SearchRequest(family="dcgan", settings={"learning_rate": "1e-4,2e-4", "data": "digits"}, name="mine",
                            space="none", runs=tmp_path)  # fmt: skip
    prepared = prepare_search(command)
    made = launch_search._new_folder(command, prepared)
    assert (made.path, made.name) == (tmp_path / "mine", "mine")
    assert [vars(trial) for trial in read_search(tmp_path / "mine").trials] == [vars(trial) for trial in made.trials]
    assert "mine/0001" in (tmp_path / "mine" / "leaderboard.csv").read_text()
    monkeypatch.setattr(launch_search.Search, "write", lambda *words, **more: os.abort())
    monkeypatch.setattr(os, "abort", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        launch_search._new_folder(SearchRequest(family="dcgan", name="other", runs=tmp_path), prepared)
    assert os.listdir(tmp_path) == ["mine"]


def test_resume_and_remove_of_a_name_that_never_began_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sentences: Sentences
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / ".making-mine").mkdir(parents=True)
    assert main.command(["runs"]) == 0
    assert "no runs in runs" in capsys.readouterr().out
    assert main.command(["train", "--resume", "mine", "--json"]) == 2
    told, err = capsys.readouterr()
    (error,) = json.loads(told)["errors"]
    assert (error["code"], error["about"], error["value"]) == ("unknown-run", "--resume", "mine")
    assert err == f"troupe: {error['text']}\n"
    sentences([error["text"]])


def test_a_search_that_is_not_begun_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    words: dict[str, Any] = {"width": "8,16", "steps": 1, "space": "none", "name": "s", "runs_dir": tmp_path / "runs",
                             "data_dir": tmp_path / "data"}  # fmt: skip
    with launch_run.alone(), pytest.raises(TroupeError) as caught:
        search("dcgan", **words)
    assert [(one.code, one.about) for one in caught.value.problems] == [("held", "")]
    sentences(caught.value.problems)
    assert not (tmp_path / "runs" / "s").exists()
    make, made = launch_search._new_folder, []

    def then_stopped(*asked: Any) -> Any:
        found = make(*asked)
        made.append(found.path.exists())
        os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(launch_search, "_new_folder", then_stopped)
    with pytest.raises(KeyboardInterrupt):
        search("dcgan", **words)
    assert made == [True]
    assert not (tmp_path / "runs" / "s").exists()
