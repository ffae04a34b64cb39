"""What a clone takes over: a whole checkpoint, never nothing, and never past one that has been removed."""

from __future__ import annotations

import queue
import shutil
from pathlib import Path
from typing import Any

import pytest
from sentences import Sentences

from trainers.base.errors import ENVIRONMENT, Transient, TroupeError
from trainers.base.problems import Problem
from trainers.families import registry
from trainers.families.recipes import find_recipe
from trainers.run_folders.bucket import Unreachable
from trainers.run_folders.run_folder import RunFolder
from trainers.storage import checkpoint


def run_at(path: Path, *steps: int, **settings: Any) -> RunFolder:
    folder = RunFolder(path)
    folder.path.mkdir(parents=True)
    folder.make_parts()
    stored = {"family": "dcgan", "settings": {"steps": 9, **settings}, "facts": {}, "data": "x", "versions": {}}
    folder.write_settings(stored)
    for step in steps:
        checkpoint.save(
            folder.checkpoints, checkpoint.checkpoint_name(step), {"of": path.name, "step": step}, {"step": step}
        )
    return folder


def names(folder: RunFolder) -> list[str]:
    return [path.name for path in checkpoint.all_in(folder.checkpoints)]


@pytest.fixture
def take_over() -> Any:
    from cluster.searching import trainable  # Ray takes a while to import

    return trainable.take_over


def test_a_clone_has_the_donors_checkpoint_its_own_settings_and_says_from_whom(tmp_path: Path, take_over: Any) -> None:
    donor = run_at(tmp_path / "0002", 4, 8, learning_rate=0.1, width=8)
    mine = run_at(tmp_path / "0001", 4, 6, 12, learning_rate=0.5, width=8)
    take_over(mine, donor, checkpoint.checkpoint_name(8), {"learning_rate": 0.12, "width": 8})
    assert names(mine) == [checkpoint.checkpoint_name(8)]
    assert checkpoint.load(mine.checkpoints / checkpoint.checkpoint_name(8)) == {"of": "0002", "step": 8}
    told = mine.read_settings()
    assert told["settings"] == {"steps": 9, "learning_rate": 0.12, "width": 8}
    assert told["clones"] == [{"from": "0002", "step": 8, "left": 12, "changed": {"learning_rate": [0.5, 0.12]}}]
    assert names(donor) == [checkpoint.checkpoint_name(4), checkpoint.checkpoint_name(8)], "the donor keeps what it has"
    take_over(mine, donor, checkpoint.checkpoint_name(4), {"learning_rate": 0.2, "width": 8})
    assert [clone["step"] for clone in mine.read_settings()["clones"]] == [8, 4], "its history is kept"


def test_a_clone_says_what_of_its_recipe_it_changes_now(tmp_path: Path, take_over: Any) -> None:
    family = "wgan"
    rate = registry.config_class(family).of(find_recipe("lsun_wgan").words, family).learning_rate
    donor, mine = (run_at(tmp_path / name, 4, learning_rate=0.1) for name in ("0002", "0001"))
    recipe = {"name": "lsun_wgan", "changed": {"learning_rate": 0.1, "seed": 3}}
    for clone, changed in ((0.12, {"learning_rate": 0.12, "seed": 3}), (rate, {"seed": 3})):
        mine.write_settings({**mine.read_settings(), "family": family, "recipe": recipe})
        take_over(mine, donor, checkpoint.checkpoint_name(4), {"learning_rate": clone})
        assert mine.read_settings()["recipe"] == {**recipe, "changed": changed}


def test_a_clone_of_the_same_step_is_the_donors(tmp_path: Path, take_over: Any) -> None:
    donor, mine = run_at(tmp_path / "0002", 4), run_at(tmp_path / "0001", 4)
    take_over(mine, donor, checkpoint.checkpoint_name(4), {})
    assert checkpoint.load(mine.checkpoints / checkpoint.checkpoint_name(4))["of"] == "0002"
    assert mine.read_settings()["clones"][0]["left"] == 4


def test_where_the_checkpoint_has_been_removed_the_newest_whole_one_is_taken(tmp_path: Path, take_over: Any) -> None:
    donor, mine = run_at(tmp_path / "0002", 4, 8, 12), run_at(tmp_path / "0001", 2)
    shutil.rmtree(donor.checkpoints / checkpoint.checkpoint_name(4))
    (donor.checkpoints / checkpoint.checkpoint_name(12) / "state.pt").write_bytes(b"torn")
    take_over(mine, donor, checkpoint.checkpoint_name(4), {})
    assert names(mine) == [checkpoint.checkpoint_name(8)]


@pytest.mark.parametrize(
    ("kind", "problem", "ended"),
    [
        (TroupeError, Problem("no-memory", "", "made up", "help"), "failed"),
        (Transient, Problem("no-space", "runs", "made up", "help", resumes=True), "stopped"),
        (Unreachable, Problem("bucket-failed", "s3://b", "made up"), "stopped"),
    ],
    ids=["no-memory", "no-space", "bucket-failed"],
)
def test_a_trial_says_why_it_ended_and_fails_where_another_try_would_end_in_the_same_way(
    kind: type[TroupeError], problem: Problem, ended: str, sentences: Sentences
) -> None:
    from cluster.searching.trainable import Trial

    trainable: Any = object.__new__(Trial)
    trainable.mistake, trainable.bucket_here, trainable.clones, trainable.reports = (
        kind(problem, ENVIRONMENT),
        None,
        [],
        queue.Queue(),
    )
    trainable._run()
    told = trainable.reports.get_nowait()
    assert (told["ended"], told["code"]) == (ended, problem.code)
    sentences([told["reason"]])


@pytest.mark.parametrize("wanted", [None, checkpoint.checkpoint_name(4)])
def test_a_trial_without_a_checkpoint_is_never_cloned(
    tmp_path: Path, take_over: Any, wanted: str | None, sentences: Sentences
) -> None:
    donor, mine = run_at(tmp_path / "0002"), run_at(tmp_path / "0001", 2)
    with pytest.raises(TroupeError) as error:
        take_over(mine, donor, wanted, {})
    assert [(one.code, one.about) for one in error.value.problems] == [("no-checkpoint", "0001")]
    sentences(error.value.problems)
    assert names(mine) == [checkpoint.checkpoint_name(2)], "nothing is lost"
    assert "clones" not in mine.read_settings()
