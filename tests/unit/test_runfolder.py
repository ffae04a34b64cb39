"""Run folders: their names, their lock, and what is said where one is missing, damaged or busy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sentences import Sentences

from cluster.inspection import follow
from trainers.base.errors import CONFLICT, ENVIRONMENT, USAGE, TroupeError
from trainers.base.problems import sentence
from trainers.run_folders import removal, run_folder
from trainers.run_folders.run_folder import RunFolder


def make(runs: Path, name: str) -> RunFolder:
    return create(runs, "dcgan", name)


def create(runs: Path, family: str, name: str | None) -> RunFolder:
    told = {"family": family, "settings": {"steps": 4}, "facts": {}, "versions": {}}
    return run_folder.create(runs, family, name, lambda folder: folder.write_settings(told))


def test_new_runs_are_named_after_their_family_and_numbered(tmp_path: Path) -> None:
    runs = tmp_path / "not" / "there"
    assert [create(runs, "dcgan", None).name for _ in range(3)] == ["dcgan-1", "dcgan-2", "dcgan-3"]
    assert create(runs, "wgan", None).name == "wgan-1"
    assert create(runs, "wgan", "mine").path == runs / "mine"
    assert all((runs / "mine" / part).is_dir() for part in ("checkpoints", "grids", "logs"))


def test_runs_that_start_at_the_same_moment_get_names_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: create(tmp_path, "dcgan", None).name, range(24)))
    assert sorted(names) == sorted(f"dcgan-{number}" for number in range(1, 25))


def test_a_name_in_use_is_refused_with_what_to_do(tmp_path: Path, sentences: Sentences) -> None:
    create(tmp_path, "dcgan", "mine")
    with pytest.raises(TroupeError) as caught:
        create(tmp_path, "dcgan", "mine")
    assert caught.value.code == CONFLICT
    (problem,) = caught.value.problems
    assert (problem.code, problem.about, problem.value) == ("name-in-use", "--name", "mine")
    assert problem.hint
    sentences([problem])


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, sentences: Sentences) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TroupeError) as caught:
        create(tmp_path / "file" / "runs", "dcgan", None)
    assert caught.value.code == ENVIRONMENT
    assert [(one.code, one.about) for one in caught.value.problems] == [
        ("not-written", f"--runs-dir {tmp_path / 'file' / 'runs'}")
    ]
    sentences(caught.value.problems)


@pytest.mark.parametrize("name", ["a", "dcgan-1", "A.b_c-9", "0", "x" * 100])
def test_plain_names_are_taken(name: str) -> None:
    assert run_folder.check_run_name(name) is None


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a b", "ä", "a\n", "a\\b", "a:b"])
def test_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    problem, long = run_folder.check_run_name(name), run_folder.check_run_name("x" * 101)
    assert problem is not None
    assert (problem.code, problem.value) == ("bad-name", name)
    assert "starts with a letter or digit" in sentence(problem)
    assert long is not None
    assert "has 101 characters" in sentence(long)


def test_each_start_of_the_workers_is_noted_as_data(tmp_path: Path) -> None:
    folder = create(tmp_path, "dcgan", "mine")
    assert folder.read_starts() == []
    before = int(time.time())
    for workers in (1, 4):
        folder.note_start(workers)
    rows = [json.loads(line) for line in folder.starts.read_text().splitlines()]
    assert [row["workers"] for row in rows] == [1, 4]
    assert all(before <= start <= time.time() for start in folder.read_starts())
    with open(folder.starts, "ab") as file:
        file.write(b'7\n{"time": 3}\n{"time": "soon"}\n\xff\n{"workers": 2}\n{"ti')
    assert len(folder.read_starts()) == 2


def test_all_runs_come_by_name_with_2_before_10(tmp_path: Path) -> None:
    for name in ("dcgan-10", "dcgan-2", "dcgan-1", "10", "9", "zebra", "b2c10", "b2c9"):
        make(tmp_path, name)
    (tmp_path / "no-run").mkdir()
    assert [folder.name for folder in run_folder.all_runs(tmp_path)] == [
        "9", "10", "b2c9", "b2c10", "dcgan-1", "dcgan-2", "dcgan-10", "zebra",
    ]  # fmt: skip
    assert run_folder.all_runs(tmp_path / "missing") == []


def test_a_run_is_found_by_its_name_and_by_its_path(tmp_path: Path) -> None:
    make(tmp_path / "runs", "mine")
    by_name = run_folder.find_run(tmp_path / "runs", "mine")
    by_path = run_folder.find_run(tmp_path / "elsewhere", str(tmp_path / "runs" / "mine"))
    assert by_name.path == by_path.path == tmp_path / "runs" / "mine"


@pytest.mark.parametrize("name", ["min", "x" * 300, "a\0b"], ids=["near", "long", "zero"])
def test_an_unknown_run_is_told_in_one_line(tmp_path: Path, name: str, sentences: Sentences) -> None:
    make(tmp_path, "mine")
    with pytest.raises(TroupeError) as caught:
        run_folder.find_run(tmp_path, name)
    assert caught.value.code == USAGE
    assert [(one.code, one.about) for one in caught.value.problems] == [("unknown-run", name)]
    assert ("mine" in caught.value.problems[0].hint) == (name == "min")
    sentences(caught.value.problems)


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder = make(tmp_path, "mine")
    read = folder.read_settings()
    assert len(read.pop("digest")) == 64
    assert read == {
        "format": 1, "family": "dcgan", "settings": {"steps": 4}, "facts": {}, "versions": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\udcff",
        '{"settings": []}',
        '{"family": "dcgan"}',
        '{"family": 1, "settings": {}}',
        '{"family": "dcgan", "settings": {}, "facts": {}, "versions": {}}',
    ],
    ids=["empty", "half", "list", "null", "bytes", "no-family", "no-settings", "number", "no-steps"],
)
def test_damaged_settings_are_told_in_one_line(tmp_path: Path, text: str, sentences: Sentences) -> None:
    folder = make(tmp_path, "mine")
    folder.settings.write_text(text, errors="surrogateescape")
    with pytest.raises(TroupeError) as caught:
        folder.read_settings()
    assert caught.value.code == CONFLICT
    assert [(one.code, one.about) for one in caught.value.problems] == [("damaged", str(folder.settings))]
    assert "\n" not in str(caught.value)
    sentences(caught.value.problems)


def test_missing_settings_are_told_in_one_line(tmp_path: Path, sentences: Sentences) -> None:
    with pytest.raises(TroupeError) as caught:
        RunFolder(tmp_path).read_settings()
    assert caught.value.code == CONFLICT
    assert [(one.code, one.about) for one in caught.value.problems] == [("not-a-run", str(tmp_path))]
    sentences(caught.value.problems)


HOLDER = """
import sys
from pathlib import Path
from trainers.run_folders.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the lock of the run `mine`."""
    folder = make(tmp_path, "mine")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_run_that_another_process_holds_is_left_alone_until_that_process_dies(
    tmp_path: Path, holder: subprocess.Popen[str], sentences: Sentences
) -> None:
    folder = RunFolder(tmp_path / "mine")
    with pytest.raises(TroupeError) as caught, folder.lock():
        pass
    assert caught.value.code == CONFLICT
    assert [(one.code, one.about) for one in caught.value.problems] == [("held", "mine")]
    sentences(caught.value.problems)
    with pytest.raises(TroupeError) as caught:
        removal.remove_run(folder)
    assert caught.value.code == CONFLICT
    assert folder.settings.exists()
    holder.kill()
    holder.wait()
    with folder.lock(patience=5):
        pass


def test_a_lock_is_given_back_after_an_error_too(tmp_path: Path) -> None:
    folder = make(tmp_path, "mine")
    with pytest.raises(KeyError), folder.lock():
        raise KeyError
    with folder.lock():
        pass


def test_a_run_is_removed_as_a_whole(tmp_path: Path) -> None:
    folder = make(tmp_path, "mine")
    (folder.grids / "step_00000001.png").write_bytes(b"x" * 1000)
    assert folder.size() >= 1000
    assert removal.remove_run(folder) >= 1000
    assert list(tmp_path.iterdir()) == []


def test_what_vanishes_while_a_run_is_measured_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path, "mine")
    pruned = folder.checkpoints / "step_00000001"
    pruned.mkdir()
    (pruned / "state.pt").write_bytes(b"x" * 1000)
    (folder.grids / "step_00000001.png").write_bytes(b"x" * 500)
    stat = os.stat

    def racing(path: Any, **how: Any) -> os.stat_result:
        if str(path).endswith("state.pt"):
            shutil.rmtree(pruned, ignore_errors=True)
        return stat(path, **how)

    monkeypatch.setattr(os, "stat", racing)
    assert 500 <= folder.size() < 1000


def test_what_a_killed_removal_left_is_no_run(tmp_path: Path) -> None:
    folder = make(tmp_path, "mine")
    folder.path.rename(tmp_path / ".removed-mine-123")
    assert run_folder.all_runs(tmp_path) == []


def test_metrics_after_the_step_to_go_on_from_are_dropped_with_half_lines(tmp_path: Path) -> None:
    folder = make(tmp_path, "mine")
    rows = [json.dumps({"step": step, "loss": step / 10}) for step in (10, 20, 30, 40)]
    folder.metrics.write_text("\n".join([*rows, '{"step": 5, "lo', "[1]", "7", '{"loss": 1}', '{"step": "x"}', ""]))
    folder.truncate_metrics(30)
    assert folder.metrics.read_text() == "".join(row + "\n" for row in rows[:3])
    folder.truncate_metrics(0)
    assert folder.metrics.read_text() == ""


def test_there_may_be_no_metrics_yet(tmp_path: Path) -> None:
    folder = make(tmp_path, "mine")
    folder.truncate_metrics(30)
    assert not folder.metrics.exists()


def test_a_result_is_there_when_the_run_has_ended(tmp_path: Path) -> None:
    folder = make(tmp_path, "mine")
    assert folder.read_result() is None
    folder.result.write_text('{"ste')
    assert folder.read_result() is None
    folder.result.write_text('{"steps": 4}')
    assert folder.read_result() == {"steps": 4}


def test_all_who_asked_for_a_stop_hear_that_the_run_has_saved(tmp_path: Path) -> None:
    folder, said = create(tmp_path, "dcgan", "run"), list[str]()
    with ThreadPoolExecutor(2) as pool:
        with folder.driven(patience=1):
            asked = [pool.submit(follow.stop, tmp_path, "run", said.append) for _ in range(2)]
            while len(said) < 2:
                time.sleep(0.01)
            folder.stop.write_text(run_folder.SAVED)
        assert [one.result().result["saved"] for one in asked] == [True, True]
