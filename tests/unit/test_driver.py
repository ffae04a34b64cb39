"""The driver of a search beside Ray: which checkpoints are kept, what it says, and when it stops."""

from __future__ import annotations

import io
import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.ranking.leaderboard import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    NO_METRIC,
    PRUNED,
    RUNNING,
    WAITING,
    Search,
    StopReason,
    TrialRecord,
)
from cluster.requests.models import SearchRequest
from cluster.searching import prepare_search, tune_job
from cluster.searching.driver import Driver, rooms
from cluster.terminal.progress import Progress
from tests.folder_buckets import machine
from trainers.run_folders import bucket
from trainers.run_folders.sync_state import bytes_of
from trainers.storage import atomic_files, checkpoint

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def driver(tmp_path: Path) -> Callable[..., Driver]:
    """One of four trials that ended with 0.1, 0.2, 0.3 and 0.4, each with a checkpoint of a kilobyte."""

    def made(**options: Any) -> Driver:
        command = SearchRequest(family="dcgan", settings={"width": "8,16", "steps": "4"}, space="none", runs=tmp_path)
        prepared = prepare_search.prepare_search(command)
        prepared.terms["keep_best"] = options.pop("keep_best", None)
        search = Search(tmp_path / "s", {**prepared.terms, "metric": "eval_x", "mode": "max"})
        for number in (1, 2, 3, 4):
            record = TrialRecord(number, {"width": 8 * number}, FINISHED, 4, 4, number / 10, number / 10, 4, 60.0)
            search.trials.append(record)
            path = search.folder(record).checkpoints / checkpoint.checkpoint_name(4)
            path.mkdir(parents=True)
            manifest = atomic_files.sealed({"format": 1, "files": {"state.pt": {"bytes": 900, "sha256": "x"}}})
            (path / "manifest.json").write_text(manifest)
            (path / "state.pt").write_bytes(b"x" * (1000 - len(manifest)))
        return Driver(search, prepared, command.model_copy(update=options), Progress(io.StringIO()))

    return made


def kept(driver: Driver) -> list[int]:
    return [trial.number for trial in driver.search.trials
            if checkpoint.all_in(driver.search.folder(trial).checkpoints)]  # fmt: skip


def said(driver: Driver) -> list[str]:
    return driver.progress.stream.getvalue().splitlines()  # type: ignore[attr-defined]


def test_only_the_best_trials_keep_their_checkpoints_where_that_was_asked_for(driver: Callable[..., Driver]) -> None:
    one = driver(keep_best=2)
    one.search.trials[0].state = RUNNING
    one.changed(one.search.trials[1], True)
    assert kept(one) == [1, 3, 4], "a running trial keeps its own"


def test_a_disk_budget_is_kept_by_the_checkpoints_of_the_worst(driver: Callable[..., Driver]) -> None:
    one = driver(disk_budget=2500e-9)
    one._check_disk()
    assert kept(one) == [3, 4]
    assert said(one) == [
        f"troupe: the disk budget of 2.5 kB is nearly full: removing the checkpoints of s/000{number}"
        for number in (1, 2)
    ]
    assert not one.stop_requested()


def test_a_full_disk_takes_nothing_from_the_bucket_and_a_budget_takes_it_from_both(
    driver: Callable[..., Driver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = machine(tmp_path, "runs")
    monkeypatch.setattr(bucket, "bucket_of_run", lambda path: there)
    one = driver()
    there.folder = tmp_path
    for trial in one.search.trials:
        (one.search.folder(trial).path / "metrics.jsonl").write_text("")
        there.send(one.search.folder(trial).path)
    elsewhere = one.search.folder(one.search.trials[0])  # a trial that ran on another machine
    shutil.rmtree(elsewhere.checkpoints)
    rooms = iter([50_000_000, 50_000_000, 2_000_000_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, next(rooms)))
    one._check_disk()
    assert kept(one) == [4], "the second and the third made room"
    assert [len(there.saved(one.search.folder(trial).path)) for trial in one.search.trials] == [1, 1, 1, 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**11))
    one.command = one.command.model_copy(
        update={"disk_budget": (bytes_of(one.search.path) - 1500.0) / 1e9}
    )  # most of it lies there only
    one._check_disk()
    assert [len(there.saved(one.search.folder(trial).path)) for trial in one.search.trials] == [0, 0, 1, 1]
    assert not one.stops


def test_a_budget_that_the_best_alone_exceeds_stops_the_search_loudly(driver: Callable[..., Driver]) -> None:
    one = driver(disk_budget=500e-9)
    one.disk_checked_at = -100.0
    one.tick()
    assert kept(one) == [4]
    assert one.stop_requested()
    assert "full, and only running trials and the best one have checkpoints" in one.stops[StopReason.DISK_FULL]
    assert (one.search.path / ".stop").exists(), "the trials hear of it"


def test_a_disk_that_is_nearly_full_is_noticed_before_it_is(
    driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = driver()
    frees = iter([1000, 1000, 10**10])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**10, 0, next(frees, 10**10)))
    one._check_disk()
    assert kept(one) == [3, 4]
    assert not one.stops


def test_a_time_budget_ends_the_search_and_says_so(driver: Callable[..., Driver]) -> None:
    one = driver(time_budget=1.0)
    one.tick()
    assert not one.stop_requested()
    one.started = time.monotonic() - 61
    one.tick()
    assert one.stop_requested()
    assert said(one)[-1] == "troupe: the time budget of 1m00s is used up: saving running trials"


def test_one_line_says_how_far_the_search_is(driver: Callable[..., Driver]) -> None:
    one = driver()
    one.search.trials[0].state, one.search.trials[1].state = RUNNING, WAITING
    one.search.trials[0].seconds, one.search.trials[0].value = 30.0, None
    assert one.state() == "2/4 trials, 1 running, best eval_x 0.4 (0004), about 1m30s left"


def test_a_trial_that_has_ended_is_told_in_one_line(driver: Callable[..., Driver]) -> None:
    one = driver()
    trials = one.search.trials
    trials[0].state, trials[1].state, trials[1].reason = PRUNED, FAILED, "no luck"
    assert one.line(trials[3]) == "s/0004: eval_x 0.4, the best so far, after 1m00s (width=32)"
    assert one.line(trials[0]) == "s/0001: stopped early at step 4, eval_x 0.1, after 1m00s (width=8)"
    assert one.line(trials[1]) == "s/0002: failed: no luck (width=16)"
    trials[2].state, trials[2].reason = INTERRUPTED, "s3://b: cannot be reached"
    assert one.line(trials[2]) == "s/0003: interrupted at step 4, s3://b: cannot be reached (width=24)"


@pytest.mark.parametrize(
    ("each", "workers", "nodes", "count"),
    [
        ({"CPU": 1}, 1, [{"CPU": 2}], 2),
        ({"CPU": 1}, 2, [{"CPU": 2}], 1),
        ({"CPU": 1}, 3, [{"CPU": 4}] * 4, 5),
        ({"CPU": 3}, 1, [{"CPU": 4}] * 4, 4),
        ({"CPU": 1, "GPU": 0.5}, 1, [{"CPU": 8, "GPU": 2}], 4),
        ({"CPU": 1, "GPU": 1}, 1, [{"CPU": 8}, {"CPU": 8, "GPU": 1}], 1),
    ],
)
def test_as_many_trials_run_at_once_as_there_is_room_for(
    each: dict[str, float], workers: int, nodes: list[dict[str, float]], count: int
) -> None:
    assert rooms(each, workers, nodes) == count


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_no_value_and_fails_its_trial_alone(
    driver: Callable[..., Driver], value: float
) -> None:
    one = driver()
    record = one.search.trials[0]
    tune_job.note(one.search, record, {"step": 6, "eval_x": value})
    assert (record.value, record.best, record.code) == (None, 0.1, "not-finite")
    one.changed(record, True)
    assert (record.state, record.reason) == (FAILED, f"eval_x is {value} at step 6")
    assert not one.stop_requested(), "the others may do better"


def test_a_value_takes_the_reason_away_why_there_was_none(driver: Callable[..., Driver]) -> None:
    one = driver()
    record = one.search.trials[0]
    record.reason, record.code = "eval_x is nan at step 2", "not-finite"
    tune_job.note(one.search, record, {"step": 6})
    assert record.code == "not-finite"
    tune_job.note(one.search, record, {"step": 8, "eval_x": 0.3})
    assert (record.value, record.reason, record.code) == (0.3, "", "")


def test_where_no_trial_can_report_the_metric_the_search_is_hopeless(driver: Callable[..., Driver]) -> None:
    one = driver()
    for trial in one.search.trials:
        trial.value = None
    record = one.search.trials[0]
    record.state = FINISHED
    one.changed(record, True)
    assert (record.state, record.code) == (FAILED, NO_METRIC)
    assert one.stops[StopReason.NO_METRIC] == record.reason == "reports no eval_x: it evaluates nothing"
    assert one.stop_requested()


@pytest.mark.parametrize("scheduler", ["asha", "fifo"])
def test_a_mean_over_seeds_of_which_one_may_be_stopped_is_told(tmp_path: Path, scheduler: str) -> None:
    words = {"learning_rate": "0.1,0.2", "seed": "1,2"}
    command = SearchRequest(family="classifier", settings=words, space="none", scheduler=scheduler, runs=tmp_path)
    told = [note for note in prepare_search.prepare_search(command).notes if note.startswith("asha can stop a point")]
    assert len(told) == (scheduler == "asha")
