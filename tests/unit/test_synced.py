"""What comes from a bucket and what goes there; the bucket is a folder of this machine."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sentences import Sentences

from cluster import train
from tests.folder_buckets import machine
from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS
from trainers.run_folders import bucket, mirror, run_locks
from trainers.storage import checkpoint


def save(run: Path, step: int, text: str) -> None:
    checkpoint.save(run / "checkpoints", checkpoint.checkpoint_name(step), {"text": text}, {"step": step, "best": None})


def text_of(run: Path) -> str:
    newest = checkpoint.newest_intact(run / "checkpoints")
    assert newest is not None
    return str(checkpoint.load(newest)["text"])


def test_a_run_that_went_on_elsewhere_comes_back_with_all_that_was_written_there(tmp_path: Path) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    here, there = one.folder / "run", other.folder / "run"
    save(here, 10, "of one")
    (here / "metrics.jsonl").write_text("10\n")
    one.send(here)
    (here / "metrics.jsonl").write_text("10\n15\n")  # written, and the machine was lost before it was sent
    other.fetch(there, checkpoints=True)
    save(there, 20, "of the other")
    (there / "metrics.jsonl").write_text("10\n15\n20\n")
    (there / "new.png").write_text("a picture")
    other.send(there)
    one.fetch(here, checkpoints=True)
    assert text_of(here) == "of the other"
    assert (here / "metrics.jsonl").read_text() == "10\n15\n20\n"
    assert (here / "new.png").exists()


def test_what_was_written_here_and_not_sent_is_not_lost_where_nobody_went_on(tmp_path: Path) -> None:
    one = machine(tmp_path, "one")
    run = one.folder / "run"
    save(run, 10, "old")
    (run / "metrics.jsonl").write_text("10\n")
    one.send(run)
    save(run, 20, "new")
    (run / "metrics.jsonl").write_text("10\n20\n")
    one.fetch(run, checkpoints=True)
    assert text_of(run) == "new"
    assert (run / "metrics.jsonl").read_text() == "10\n20\n"


def test_checkpoints_of_a_trial_that_took_over_another_one_are_forgotten_where_it_ran_before(tmp_path: Path) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    here, there = (machine.folder / "s" / "trials" / "0001" for machine in (one, other))
    for step in (10, 20, 30):
        save(here, step, "its own")
    one.send(here)
    other.fetch(there, checkpoints=True)
    for path in checkpoint.all_in(there / "checkpoints"):
        path.rename(path.with_name(".gone"))
    save(there, 20, "taken over")
    other.send(there)
    other.remove_checkpoints(there, checkpoint.checkpoint_name(20))
    assert other.saved(there) == [checkpoint.checkpoint_name(20)]
    one.fetch(here, checkpoints=True)
    assert text_of(here) == "taken over"
    assert [path.name for path in checkpoint.all_in(here / "checkpoints")] == [checkpoint.checkpoint_name(20)]


def test_the_last_checkpoints_here_stay_where_somebody_has_removed_those_in_the_bucket(tmp_path: Path) -> None:
    one = machine(tmp_path, "one")
    run = one.folder / "run"
    save(run, 10, "the last one")
    one.send(run)
    one.remove(run / "checkpoints")
    one.fetch(run, checkpoints=True)
    assert text_of(run) == "the last one"


def test_many_processes_that_fetch_the_same_do_not_mix_their_files(tmp_path: Path) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    here, there = one.folder / "run", other.folder / "run"
    with ThreadPoolExecutor(8) as pool:
        for step in range(1, 4):
            save(here, step, str(step))
            for number in range(10):
                (here / f"{number}.txt").write_text(f"{step} " * 10_000)
            one.send(here)
            list(pool.map(lambda _: other.fetch(there, checkpoints=True), range(8)))
            assert text_of(there) == str(step)
            assert {(there / f"{number}.txt").read_text() for number in range(10)} == {f"{step} " * 10_000}


def test_what_is_pruned_while_it_is_fetched_is_listed_once_more(tmp_path: Path) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    here, there = one.folder / "run", other.folder / "run"
    save(here, 10, "old")
    one.send(here)
    listed = other.list_files

    def then_pruned(path: Path) -> dict[str, tuple[int, int]]:
        found = listed(path)
        if not checkpoint.all_in(here / "checkpoints")[-1].name.endswith("20"):
            save(here, 20, "new")
            one.send(here)
            one.remove_checkpoints(here, checkpoint.checkpoint_name(20))
        return found

    other.list_files = then_pruned  # type: ignore[method-assign]
    other.fetch_idle(there, checkpoints=True)
    assert text_of(there) == "new"


def test_a_finished_run_that_is_gone_on_with_is_sent_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine(tmp_path, "one")
    monkeypatch.setattr(bucket, "bucket_for", lambda runs: one if runs.resolve() == one.folder else None)
    settings = {"image_size": 16, "width": 4, "batch_size": 4, "microbatch_size": 2, "evaluate_every": 0, "steps": 2}
    words = {"runs_dir": one.folder, "data_dir": tmp_path / "data"}
    train("dcgan", name="run", **words, **settings)
    run = one.folder / "run"
    whole = one.list_files(run)
    assert {"result.json", f"checkpoints/{checkpoint.checkpoint_name(2)}/manifest.json"} <= whole.keys()
    one.remove(run)  # as where it could not be reached at the end
    (run / ".mirror.json").unlink()
    train(resume="run", **words)
    assert one.list_files(run).keys() == whole.keys()


def test_a_search_comes_with_its_trials_but_for_what_is_worked_on_here(tmp_path: Path) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    search = one.folder / "s"
    for trial in ("0001", "0002"):
        (search / "trials" / trial).mkdir(parents=True)
        (search / "trials" / trial / "settings.json").write_text(trial)
        one.send(search / "trials" / trial)
    (search / "search.json").write_text("of one")
    one.send(search)
    sent = json.loads((search / ".mirror.json").read_text())["known"]
    assert list(sent) == ["search.json"], "trials are sent by who carries them out"
    copy = other.folder / "s"
    (copy / "trials" / "0002").mkdir(parents=True)
    with run_locks.hold(copy / "trials" / "0002", "0002", "run"):
        other.fetch_idle(copy)
    assert (copy / "search.json").read_text() == "of one"
    assert (copy / "trials" / "0001" / "settings.json").read_text() == "0001"
    assert not (copy / "trials" / "0002" / "settings.json").exists()
    other.fetch_idle(copy)
    assert (copy / "trials" / "0002" / "settings.json").exists()
    other.remove(copy)
    assert one.list_files(search) == {}


def test_a_bucket_that_fails_for_too_long_is_given_up_with_what_is_left_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    monkeypatch.setattr(WAITS, "bucket", 0.3)
    one = machine(tmp_path, "one")
    run, said = one.folder / "run", list[str]()
    run.mkdir()
    sending = mirror.Mirror(run, said.append)
    assert sending.bucket is not None

    def refuse(path: Path) -> None:
        raise bucket.Unreachable(Problem("bucket-failed", "s3://b/runs", "made up"), ENVIRONMENT)

    monkeypatch.setattr(sending.bucket, "send", refuse)
    with pytest.raises(TroupeError) as error:
        sending.flush()
    sending.end()
    (problem,) = error.value.problems
    assert (problem.code, problem.about) == ("bucket-failed", "s3://b/runs")
    assert str(run) in problem.hint
    assert "--resume run" in problem.hint
    assert len(said) == 1
    sentences([problem, *said])


def test_many_workers_that_need_the_folder_of_a_bucket_at_once_all_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        for number in range(3):
            made = list(pool.map(bucket.folder_for, [f"s3://b/{number}"] * 8))
            assert len(set(made)) == 1
            assert bucket.bucket_address(made[0]) == f"s3://b/{number}"
