"""A run and a search on Ray among the fast tests; `on_ray` holds what else is promised of them."""

from __future__ import annotations

from commands import DCGAN, OWN_FAMILIES, Commands, assert_same_run

from cluster import train
from cluster.ranking import leaderboard
from cluster.ranking.leaderboard import FINISHED


def test_two_workers_give_the_run_of_one(troupe: Commands) -> None:
    """By the installed command, as nothing else here needs a process that has imported everything."""
    family, *words = (*DCGAN, "steps=4", "log_every=1", "checkpoint_every=2", "sample_every=2")
    done = troupe.start("train", family, *words, "workers=2", "--name", "two", really=True).wait(120)
    assert done.code == 0, done
    train(family, name="one", runs_dir=troupe.folder / "runs", **dict(word.split("=") for word in words))
    assert_same_run(troupe.path("two"), troupe.path("one"))


def test_a_search_tries_each_of_its_points(troupe: Commands) -> None:
    done = troupe.start("search", "curve", "degree=1,2", "steps=4", "evaluate_every=2", "--space", "none", "--families",
                        str(OWN_FAMILIES), "--max-concurrent", "1", "--name", "s", really=True).wait(120)  # fmt: skip
    assert done.code == 0, done
    trials = leaderboard.read_search(troupe.path("s")).trials
    assert [(trial.settings["degree"], trial.state) for trial in trials] == [(1, FINISHED), (2, FINISHED)]
