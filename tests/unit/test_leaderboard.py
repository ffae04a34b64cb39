"""What a search keeps of its trials: right after every report, readable wherever its folder lies."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from sentences import Sentences

from cluster.ranking import leaderboard
from cluster.ranking.leaderboard import FAILED, FINISHED, RUNNING, Search, TrialRecord
from trainers.base.errors import CONFLICT, USAGE, TroupeError
from trainers.run_folders import run_folder


def search_of(path: Path, *values: float | None, mode: str = "max", seeds: int = 1) -> Search:
    told = {"family": "dcgan", "metric": "eval_x", "mode": mode, "fixed": {"steps": "9"}, "seconds": 1.0}
    search = Search(path, told)
    for place, value in enumerate(values):
        settings: dict[str, Any] = {"width": 8 * (1 + place // seeds)}
        if seeds > 1:
            settings["seed"] = place % seeds
        state = FINISHED if value is not None else RUNNING
        search.trials.append(TrialRecord(place + 1, settings, state, value=value))
    path.mkdir(parents=True, exist_ok=True)
    search.write()
    return search


def test_trials_are_ranked_by_the_metric_and_those_without_a_value_come_last(tmp_path: Path) -> None:
    search = search_of(tmp_path / "s", 0.2, None, 0.9, None, 0.5)
    assert [row["trial"] for row in search.leaderboard()] == ["s/0003", "s/0005", "s/0001", "s/0002", "s/0004"]
    search.terms["mode"] = "min"
    assert [row["trial"] for row in search.leaderboard()][:3] == ["s/0001", "s/0005", "s/0003"]
    assert search.better(0.1, 0.2)
    assert not search.better(0.3, 0.2)


def test_points_are_ranked_by_the_mean_of_their_seeds_and_show_the_spread(tmp_path: Path) -> None:
    search = search_of(tmp_path / "s", 0.9, 0.1, 0.6, 0.7, None, 0.99, seeds=2)
    rows = search.points()
    assert [[trial.number for trial in row.trials] for row in rows] == [[5, 6], [3, 4], [1, 2]]
    assert [row.mean for row in rows] == pytest.approx([0.99, 0.65, 0.5])
    assert rows[0].spread is None, "one value has no spread"
    assert rows[1].spread == pytest.approx(0.1 / math.sqrt(2))


def test_both_files_say_the_same_after_every_report_and_the_folder_may_be_moved(tmp_path: Path) -> None:
    search = search_of(tmp_path / "s", 0.2, 0.9)
    search.trials[0].value, search.trials[0].reason = 0.95, "none, <b>really</b>"
    search.write()
    moved = tmp_path / "elsewhere" / "s"
    moved.parent.mkdir()
    search.path.rename(moved)
    again = leaderboard.read_search(moved)
    assert again.trials == search.trials
    assert again.terms == search.terms
    with open(moved / "leaderboard.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["s/0001", "s/0002"]
    assert rows[0]["eval_x"] == "0.95"
    assert rows[0]["reason"] == "none, <b>really</b>"
    assert str(tmp_path) not in (moved / "search.json").read_text()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"trials": []}', '{"format": 1, "trials": [{"x": 1}]}'],
    ids=["empty", "half", "list", "no-format", "other-trials"],
)
def test_a_damaged_search_is_told_in_one_line(tmp_path: Path, content: str, sentences: Sentences) -> None:
    (tmp_path / "search.json").write_text(content)
    with pytest.raises(TroupeError) as error:
        leaderboard.read_search(tmp_path)
    assert error.value.code == CONFLICT
    assert [(one.code, one.about) for one in error.value.problems] == [("damaged", str(tmp_path / "search.json"))]
    sentences(error.value.problems)


def test_a_search_of_a_newer_format_is_told(tmp_path: Path, sentences: Sentences) -> None:
    search_of(tmp_path / "s", 0.1)
    told = json.loads((tmp_path / "s" / "search.json").read_text())
    (tmp_path / "s" / "search.json").write_text(json.dumps({**told, "format": 99}))
    with pytest.raises(TroupeError) as error:
        leaderboard.read_search(tmp_path / "s")
    assert [(one.code, one.about) for one in error.value.problems] == [("newer", str(tmp_path / "s"))]
    sentences(error.value.problems)


def test_a_trial_is_found_by_the_name_of_its_search(tmp_path: Path, sentences: Sentences) -> None:
    search = search_of(tmp_path / "widths", 0.1)
    folder = search.folder(search.trials[0])
    folder.path.mkdir(parents=True)
    folder.settings.write_text("{}")
    found = run_folder.find_run(tmp_path, "widths/0001")
    assert found.path == folder.path
    assert found.name == "widths/0001"
    for name, code in (("widths", "not-a-run"), ("widths/0002", "unknown-run"), ("width/0001", "unknown-run")):
        with pytest.raises(TroupeError) as error:
            run_folder.find_run(tmp_path, name)
        assert error.value.code == USAGE
        assert [(one.code, one.about) for one in error.value.problems] == [(code, name)]
        sentences(error.value.problems)


def test_searches_are_found_by_name_and_runs_are_none(tmp_path: Path, sentences: Sentences) -> None:
    search_of(tmp_path / "widths", 0.1)
    (tmp_path / "dcgan-1").mkdir()
    (tmp_path / "dcgan-1" / "settings.json").write_text("{}")
    assert leaderboard.find_search(tmp_path, "widths").name == "widths"
    for name, code in (("width", "unknown-run"), ("dcgan-1", "not-a-search")):
        with pytest.raises(TroupeError) as error:
            leaderboard.find_search(tmp_path, name)
        assert [(one.code, one.about) for one in error.value.problems] == [(code, name)]
        assert ("widths" in error.value.problems[0].hint) == (name == "width")
        sentences(error.value.problems)


def test_one_driver_at_a_time_works_on_a_search(tmp_path: Path) -> None:
    search = search_of(tmp_path / "s", 0.1)
    assert not search.working
    with search.lock():
        assert search.working
    assert not search.working


def test_a_failed_trial_counts_for_nothing(tmp_path: Path) -> None:
    search = search_of(tmp_path / "s", 0.1, None)
    search.trials[1].state, search.trials[1].reason = FAILED, "why"
    assert [trial.number for trial in search.ranked()] == [1]


def test_the_command_of_a_trial_repeats_it(tmp_path: Path) -> None:
    search = search_of(tmp_path / "s", 0.1, 0.2, seeds=2)
    assert search.command_of(search.trials[1]) == "troupe train dcgan steps=9 width=8 seed=1"
