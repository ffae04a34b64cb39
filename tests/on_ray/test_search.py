"""Searches: a trial is a run as any other, whoever ran in its process before, and whatever becomes of the driver."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from clusters import Cluster
from commands import OWN_FAMILIES, Commands, assert_same_state, lives, process_of, state_of, step_of, until
from tiers import long

from cluster import search, train
from cluster.ranking import leaderboard
from cluster.ranking.leaderboard import FINISHED, INTERRUPTED, PRUNED
from trainers.base.errors import FAILED, USAGE, TroupeError
from trainers.run_folders.run_folder import RunFolder
from trainers.storage import checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

DIGITS: dict[str, Any] = {"model": "mlp_bn", "data": "digits", "steps": 12, "evaluate_every": 4, "space": "none"}


def free(ray: Any) -> float:
    """CPUs that are free; what a search held is given back when it returns, or a moment later."""
    until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], "all CPUs are free", 10)
    return float(ray.available_resources()["CPU"])


def by_settings(result: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    return {json.dumps(point["settings"], sort_keys=True): point["trials"][0] for point in result["points"]}


def test_trials_are_equal_to_runs_to_the_bit_in_any_order_and_in_reused_actors(ray: Any, tmp_path: Path) -> None:
    """In other precisions, too: whatever a trial sets in its process is gone before the next one."""
    there = {**DIGITS, "runs_dir": tmp_path}
    one = search("classifier", name="one", learning_rate="0.1,0.2", precision="float32,float64", **there)
    two = search("classifier", name="two", learning_rate="0.2,0.1", precision="float64,float32", **there)
    assert free(ray) == 2
    firsts, seconds = by_settings(one), by_settings(two)
    assert len(firsts) == 4
    assert firsts.keys() == seconds.keys()
    pids = set()
    for settings, trial in firsts.items():
        mine, other = (tmp_path / name / "trials" / found["name"].partition("/")[2]
                       for name, found in (("one", trial), ("two", seconds[settings])))  # fmt: skip
        assert_same_state(mine, other)
        pids.add(process_of(mine, 0))
        alone = train("classifier", **{k: v for k, v in DIGITS.items() if k != "space"}, **json.loads(settings),
                      evaluate_on="validation", keep_checkpoints=1, runs_dir=tmp_path)  # fmt: skip
        assert_same_state(mine, Path(alone["folder"]))
        assert trial["value"] == alone["metrics"]["eval_accuracy"]
    assert len(pids) == 2, "each process carried out several trials"


def test_trials_of_a_recipe_are_runs_of_it_and_know_it(ray: Any, tmp_path: Path) -> None:
    """With fewer steps on other data: `mnist_mlp_bn` would need MNIST."""
    short = {"data": "digits", "steps": 12, "evaluate_every": 4}
    (point,) = search(recipe="mnist_mlp_bn", name="s", seed="1,2", runs_dir=tmp_path, **short)["points"]
    assert free(ray) == 2
    changed = {**short, "keep_checkpoints": 1}
    assert leaderboard.read_search(tmp_path / "s").terms["recipe"] == {"name": "mnist_mlp_bn", "changed": changed}
    for trial in point["trials"]:
        folder = RunFolder(tmp_path / "s" / "trials" / trial["name"].partition("/")[2])
        recipe = {"name": "mnist_mlp_bn", "changed": {**changed, **trial["settings"]}}
        assert folder.read_settings()["recipe"] == recipe
        assert checkpoint.manifest_of(checkpoint.all_in(folder.checkpoints)[-1])["recipe"] == recipe
        alone = train(recipe="mnist_mlp_bn", runs_dir=tmp_path, **changed, **trial["settings"])
        assert_same_state(folder.path, Path(alone["folder"]))
        assert trial["value"] == alone["metrics"]["eval_accuracy"]


def test_two_trials_of_two_workers_on_two_cores_wait_for_one_another(ray: Any, tmp_path: Path) -> None:
    result = search("classifier", name="wide", learning_rate="0.01,0.1", workers=2, runs_dir=tmp_path, **DIGITS)
    assert [point["trials"][0]["state"] for point in result["points"]] == [FINISHED] * 2
    assert free(ray) == 2
    trials = [tmp_path / "wide" / "trials" / name for name in ("0001", "0002")]
    assert {process_of(trial, 1) for trial in trials} == {process_of(trials[0], 1)}, "workers are reused too"
    alone = train("classifier", learning_rate=0.1, evaluate_on="validation", keep_checkpoints=1, runs_dir=tmp_path,
                  **{k: v for k, v in DIGITS.items() if k != "space"})  # fmt: skip
    assert_same_state(trials[1], Path(alone["folder"]))


@pytest.mark.parametrize("workers", [1, *long(2)])
def test_a_trial_that_falls_behind_is_stopped_where_it_reported_and_frees_what_it_held(
    ray: Any, tmp_path: Path, workers: int
) -> None:
    result = search(
        "classifier", name="asha", scheduler="asha", learning_rate="0.1,1e-6,1e-7", max_concurrent=1, workers=workers,
        runs_dir=tmp_path, **{**DIGITS, "steps": 36},
    )  # fmt: skip
    assert free(ray) == 2
    trials = {point["settings"]["learning_rate"]: point["trials"][0] for point in result["points"]}
    assert trials[0.1]["state"] == FINISHED
    stopped = [trial for trial in trials.values() if trial["state"] == PRUNED]
    assert stopped
    for trial in stopped:
        folder = RunFolder(tmp_path / "asha" / "trials" / trial["name"].partition("/")[2])
        assert state_of(folder.path)["step"] == trial["step"] == 4
        assert folder.read_result() is None


@pytest.mark.parametrize("workers", [1, *long(2)])
def test_a_clone_goes_on_from_the_better_trials_weights_and_step_with_the_changed_setting(
    ray: Any, tmp_path: Path, workers: int
) -> None:
    result = search(
        "classifier", name="pbt", scheduler="pbt", trials=2, learning_rate="1e-7..0.1", workers=workers,
        runs_dir=tmp_path, keep_checkpoints=100,
        **{**DIGITS, "steps": 600, "evaluate_every": 60},  # longer than one begins before
    )  # fmt: skip
    assert free(ray) == 2
    found = leaderboard.read_search(tmp_path / "pbt")
    clones = [(trial, clone) for trial in found.trials for clone in trial.clones]
    assert clones, "one of two trials is always behind"
    assert all(len(trial.clones) < 10 for trial in found.trials), "a clone first comes to where it was"
    for trial, clone in clones:
        donor = found.trials[int(clone["from"]) - 1]
        taken = found.folder(trial).checkpoints / checkpoint.checkpoint_name(clone["step"])
        if clone == trial.clones[-1]:
            assert checkpoint.damage_of(taken) is None, "what it took over is still there"
            rows = [row["step"] for row in found.folder(trial).read_metrics()[0] if "eval_accuracy" in row]
            assert rows == sorted(set(rows)), "no step is there twice"
        assert set(clone["changed"]) <= {"learning_rate"}
        assert 1e-7 <= trial.settings["learning_rate"] <= 0.1
        assert donor is not trial
        assert clone["step"] > 0
    last, clone = clones[-1]
    assert found.folder(last).read_settings()["settings"]["learning_rate"] == last.settings["learning_rate"]
    assert all(point["trials"][0]["step"] == 600 for point in result["points"])


def test_trials_that_fail_are_told_and_the_others_go_on_and_may_be_tried_again(ray: Any, tmp_path: Path) -> None:
    there = {**DIGITS, "model": "mlp", "steps": 8, "max_concurrent": 1, "runs_dir": tmp_path}
    result = search("classifier", name="some", learning_rate="1e9,0.01,9e8", **there)
    trials = [trial for point in result["points"] for trial in point["trials"]]
    assert [trial["state"] for trial in trials] == ["finished", "failed", "failed"]
    assert all("is not finite" in trial["reason"] for trial in trials[1:])
    assert all(len(trial["reason"].splitlines()) == 1 for trial in trials[1:])
    assert free(ray) == 2
    before = leaderboard.read_search(tmp_path / "some").trials
    assert search(resume="some", runs_dir=tmp_path)["failed"] == 2
    assert search(resume="some", retry_failed=True, runs_dir=tmp_path)["failed"] == 2
    after = leaderboard.read_search(tmp_path / "some").trials
    assert after[1] == before[1], "what had ended well stays as it was"
    with pytest.raises(TroupeError, match="all 2 trials failed; the first: ") as error:
        search("classifier", name="all", learning_rate="1e9,9e8", **there)
    assert error.value.code == FAILED


def test_a_metric_that_no_run_reports_is_told_with_those_that_it_does(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(TroupeError, match="reports no classify_lost; available: accuracy, classify_loss") as error:
        search("classifier", name="s", learning_rate="0.1,0.2,0.3,0.4,0.5", metric="classify_lost", runs_dir=tmp_path,
               **DIGITS)  # fmt: skip
    assert error.value.code == FAILED
    left = [trial for trial in leaderboard.read_search(tmp_path / "s").trials if trial.state == "waiting"]
    assert left, "the others need not be tried"


@pytest.mark.long
def test_a_trial_whose_process_is_killed_goes_on_in_another_one(troupe: Commands, cluster: Cluster) -> None:
    command = troupe.start("search", "classifier", "model=mlp_bn", "data=digits", "learning_rate=0.1,0.2",
                             "steps=600", "evaluate_every=100", "checkpoint_every=50", "--space", "none", "--name",
                             "s", on=cluster)  # fmt: skip
    trial = troupe.path("s") / "trials" / "0001"
    until(lambda: len(checkpoint.all_in(trial / "checkpoints")) and (trial / "metrics.jsonl").exists(), "a checkpoint")
    until(lambda: checkpoint.position_of(checkpoint.all_in(trial / "checkpoints")[-1].name)[0] >= 50, "another")
    os.kill(process_of(trial, 0), signal.SIGKILL)
    done = command.wait(120)
    assert done.code == 0, done
    alone = troupe.train("classifier", "model=mlp_bn", "data=digits", "learning_rate=0.1", "steps=600",
                           "evaluate_every=100", "evaluate_on=validation", "--name", "alone")  # fmt: skip
    assert alone.code == 0
    assert_same_state(trial, troupe.path("alone"))
    assert (trial / "logs" / "rank_0.log").read_text().count("worker 0 of 1") == 2


def test_a_search_goes_on_after_its_driver_was_killed_and_its_folder_moved(
    ray: Any, troupe: Commands, cluster: Cluster
) -> None:
    command = troupe.start("search", "classifier", "model=mlp_bn", "data=digits", "learning_rate=0.1,0.2,0.3,0.4",
                             "steps=300", "evaluate_every=50", "checkpoint_every=20", "--space", "none", "--name", "s",
                             "--scheduler", "asha", on=cluster)  # fmt: skip

    def states() -> list[str]:
        path = troupe.path("s") / "search.json"
        return [trial["state"] for trial in json.loads(path.read_text())["trials"]] if path.exists() else []

    until(lambda: FINISHED in states() or PRUNED in states(), "a trial has ended", 60)
    until(lambda: "running" in states(), "another one runs", 20)
    time.sleep(0.5)
    command.kill()
    found = leaderboard.read_search(troupe.path("s"))
    begun = [process_of(found.folder(trial).path, 0) for trial in found.trials]
    until(lambda: not any(lives(pid) for pid in begun if pid), "the end of its actors")
    ended = [trial for trial in found.trials if trial.state in (FINISHED, PRUNED)]
    troupe.path("s").parent.rename(troupe.folder / "elsewhere")
    search(resume="s", runs_dir=troupe.folder / "elsewhere")
    found = leaderboard.read_search(troupe.folder / "elsewhere" / "s")
    assert len(found.trials) == 4
    assert all(trial.state in (FINISHED, PRUNED) for trial in found.trials)
    for trial in ended:
        assert found.trials[trial.number - 1] == trial, "what had ended stays as it was"
    for trial in found.trials:
        steps = [row["step"] for row in found.folder(trial).read_metrics()[0] if "eval_accuracy" in row]
        assert steps == sorted(set(steps)), "no step is counted twice"
    finished = [trial for trial in found.trials if trial.state == FINISHED]
    whole = next((trial for trial in finished if trial not in ended), finished[0])  # asha may have stopped all others
    alone = train("classifier", model="mlp_bn", data="digits", learning_rate=whole.settings["learning_rate"], steps=300,
                  evaluate_every=50, evaluate_on="validation", runs_dir=troupe.folder)  # fmt: skip
    assert_same_state(found.folder(whole).path, Path(alone["folder"]))


def test_ctrl_c_saves_every_running_trial_first(troupe: Commands) -> None:
    command = troupe.start("search", "classifier", "model=mlp_bn", "data=digits", "learning_rate=0.1,0.2,0.3",
                             "steps=100000", "evaluate_every=50000", "--space", "none", "--name", "s")  # fmt: skip
    trials = [troupe.path("s") / "trials" / name for name in ("0001", "0002")]
    until(lambda: all(step_of(trial) > 1 for trial in trials), "two trials train", 60)
    command.interrupt()
    done = command.wait(30)
    assert done.code == 130, done
    assert done.mistakes == ["troupe: s: stopped and saved; resume with `troupe search --resume s`"]
    found = leaderboard.read_search(troupe.path("s"))
    assert [trial.state for trial in found.trials] == [INTERRUPTED, INTERRUPTED, "waiting"]
    for trial in trials:
        assert state_of(trial)["step"] > 1
        assert checkpoint.damage_of(checkpoint.all_in(trial / "checkpoints")[-1]) is None


@pytest.mark.long
def test_optuna_learns_that_a_trial_which_was_stopped_early_was_pruned(ray: Any, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from cluster.searching import samplers, space
    from trainers.families import registry

    result = search("classifier", name="optuna", algorithm="optuna", scheduler="asha", trials=6, max_concurrent=1,
                    learning_rate="1e-7..0.3", momentum="0,0.9", runs_dir=tmp_path,
                    **{**DIGITS, "steps": 36})  # fmt: skip
    assert len(result["points"]) == 6
    found = leaderboard.read_search(tmp_path / "optuna")
    where, _ = space.read_space(registry.config_class("classifier"), "classifier",
                          {"learning_rate": "1e-7..0.3", "momentum": "0,0.9"}, {}, "")  # fmt: skip
    assert where is not None
    study = samplers.Optuna(found, where).study
    states = [trial.state.name for trial in study.trials]
    assert sorted(states) == sorted("PRUNED" if trial.state == PRUNED else "COMPLETE" for trial in found.trials)


def test_one_point_is_repeated_and_the_best_of_several_is_confirmed_with_fresh_seeds(ray: Any, tmp_path: Path) -> None:
    there = {**DIGITS, "runs_dir": tmp_path}
    once = search("classifier", name="once", seed="1,2", learning_rate=0.1, **there)
    (point,) = once["points"]
    assert [trial["settings"] for trial in point["trials"]] == [{"seed": 1}, {"seed": 2}]
    assert point["spread"] is not None
    search("classifier", name="rates", learning_rate="0.1,0.05,1e-7,1e-8", **there)
    result = search(resume="rates", confirm=3, confirm_seeds=3, runs_dir=tmp_path)
    assert free(ray) == 2
    confirmed = [point for point in result["points"] if point["first"] is not None]
    assert result["points"][:3] == confirmed
    assert [point["settings"]["learning_rate"] for point in confirmed][2] <= 1e-7
    assert confirmed[2]["vs_best"] == "worse"
    assert [trial["settings"].get("seed") for trial in confirmed[0]["trials"] if trial["fresh"]] == [1, 2, 3]
    found = leaderboard.read_search(tmp_path / "rates")
    fresh = next(trial for trial in found.trials if trial.fresh)
    alone = train("classifier", **{k: v for k, v in DIGITS.items() if k != "space"}, **fresh.settings,
                  evaluate_on="validation", keep_checkpoints=1, runs_dir=tmp_path)  # fmt: skip
    assert_same_state(found.folder(fresh).path, Path(alone["folder"]))
    before = found.trials
    again = search(resume="rates", runs_dir=tmp_path)
    assert again["points"] == result["points"]
    assert leaderboard.read_search(tmp_path / "rates").trials == before, "nothing is left to do"
    found.terms["confirmation"]["most_seeds"] = 6
    found.write()
    for words in ({"confirm": 2}, {"confirm": 3, "confirm_seeds": 3}):
        with pytest.raises(TroupeError) as error:
            search(resume="rates", runs_dir=tmp_path, **words)
        assert [problem.code for problem in error.value.problems] == ["settings-conflict"]


@pytest.mark.long
def test_a_confirmation_that_was_killed_goes_on(troupe: Commands, cluster: Cluster) -> None:
    words = ("search", "classifier", "model=mlp_bn", "data=digits", "learning_rate=0.1,0.2", "steps=200", "--confirm",
             "2", "evaluate_every=50", "checkpoint_every=20", "--space", "none", "--name", "s")  # fmt: skip
    command = troupe.start(*words, on=cluster)

    def fresh() -> list[str]:
        path = troupe.path("s") / "search.json"
        trials = json.loads(path.read_text())["trials"] if path.exists() else []
        return [trial["state"] for trial in trials if "repeats" in trial]

    until(lambda: FINISHED in fresh() and "running" in fresh(), "one fresh trial has ended, and another runs", 90)
    command.kill()
    done = troupe.start("search", "--resume", "s", on=cluster).wait(120)
    assert done.code == 0, done
    found = leaderboard.read_search(troupe.path("s"))
    assert all(trial.state == FINISHED for trial in found.trials)
    assert found.terms["comparison"]["confirmed"]
    assert len({(trial.repeats, trial.settings["seed"]) for trial in found.trials if trial.fresh}) == len(fresh())


def test_words_are_checked_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(TroupeError) as error:
        search("dcgan", n_critic="1,2", learning_rate="1..0", metric="eval_acuracy", scheduler="ashar", space="none",
               runs_dir=tmp_path)  # fmt: skip
    assert error.value.code == USAGE
    assert len(error.value.mistakes) == 4


def test_a_search_of_a_family_of_ones_own_goes_on_without_saying_where_it_lies(ray: Any, tmp_path: Path) -> None:
    words: dict[str, Any] = {"degree": "1,2,3", "steps": 2000, "checkpoint_every": 100, "evaluate_every": 1000}
    stopped = search("curve", name="s", families=[OWN_FAMILIES], time_budget=0.1 / 60, runs_dir=tmp_path, space="none",
                     **words)  # fmt: skip
    assert {trial["state"] for point in stopped["points"] for trial in point["trials"]} != {FINISHED}
    result = search(resume="s", runs_dir=tmp_path)
    assert [point["trials"][0]["state"] for point in result["points"]] == [FINISHED] * 3
