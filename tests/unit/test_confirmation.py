"""Which points of a search are as good as the best within chance, and how `--confirm` finds out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from searches import make_run, make_search

from cluster.ranking import confirmation, significance
from cluster.ranking.leaderboard import FAILED, FINISHED, PRUNED, Search, TrialRecord
from cluster.searching import launch_search
from cluster.searching.launch_search import result_of
from trainers.run_folders.run_folder import RunFolder


def search_of(*points: Any, mode: str = "max", confirm: int | None = None, most: int = 6) -> Search:
    """A search whose points have these values, one for each of the seeds 1, 2, ..."""
    terms: Any = {"family": "dcgan", "metric": "eval_x", "mode": mode, "fixed": {}, "seconds": 1.0, "scheduler": "fifo"}
    search = Search(Path("s"), {**terms, "points": len(points), "seeds": [1, 2, 3], "space": {}})
    for width, values in enumerate(points, 1):
        for seed, value in enumerate(values, 1):
            state = FINISHED if value is not None else FAILED
            settings = {"width": width, "seed": seed}
            search.trials.append(TrialRecord(len(search.trials) + 1, settings, state, value=value))
    if confirm is not None:
        search.terms["confirmation"] = {"points": confirm, "most_seeds": most, "chosen": []}
    return search


def confirm(search: Search, value_of: Any) -> confirmation.Standing:
    """Carry `--confirm` out; `value_of(width, seed)` is the result of a trial."""
    while added := confirmation.advance(search, search.terms["seeds"]):
        for trial in added:
            trial.value = value_of(trial.settings["width"], trial.settings["seed"])
            trial.state = FINISHED if trial.value is not None else FAILED
    return confirmation.standing(search)


@pytest.mark.parametrize(("others", "freedom", "level"), [(7, 16, 0.05), (2, 3, 0.025), (1, 1, 0.05), (4, 2, 0.00625)])
def test_critical_values_are_those_of_the_multivariate_t_distribution(others: int, freedom: int, level: float) -> None:
    bound = significance.critical_value(others, freedom, level)
    correlations = np.full((others, others), 0.5) + 0.5 * np.eye(others)
    distribution = stats.multivariate_t(shape=correlations, df=freedom, seed=0)
    assert 1 - distribution.cdf(np.full(others, bound), maxpts=100_000 * others) == pytest.approx(level, rel=2e-3)


def test_points_are_tied_worse_or_the_best_and_the_needed_seeds_are_told() -> None:
    search = search_of((0.90, 0.92, 0.91), (0.91, 0.93, 0.92), (0.50, 0.52, 0.51))
    found = confirmation.standing(search)
    assert (found.best, found.tied, found.worse) == (4, [1], [7])
    # 0.01 apart with a deviation of 0.01: 14 seeds of each, by Dunnett's one-sided value for two comparisons
    assert found.comparison is not None
    needed = significance.seeds_needed(found.comparison)
    assert needed is not None
    for seeds, enough in ((needed, True), (needed - 1, False)):
        assert (significance.critical_value(2, 3 * (seeds - 1)) * 0.01 * (2 / seeds) ** 0.5 < 0.01) is enough
    assert confirmation.standing(search_of((0.9, 0.92, 0.91), (0.5, 0.52, 0.51))).tied == []


@pytest.mark.parametrize("points", [2, 3, 8])
def test_a_search_of_equal_points_and_several_seeds_rarely_claims_a_best_one(points: int) -> None:
    chance = random.Random(3)
    found = [
        confirmation.standing(search_of(*([chance.gauss(0, 1) for _ in range(3)] for _ in range(points))))
        for _ in range(1000)
    ]
    assert sum(one.best is not None and not one.tied for one in found) <= 71, "5 %, and three deviations of chance"


def test_distances_are_compared_by_their_logarithms() -> None:
    search = search_of((3.8, 3.9, 3.9), (5.0, 5.2, 5.1), (30.0, 45.0, 39.0), mode="min")
    found = confirmation.standing(search)
    assert (found.best, found.tied, found.worse) == (1, [], [4, 7])
    assert confirmation.comparison_of(search, found)["assumption"].startswith("logarithms")
    assert confirmation.standing(search_of((3.8, 3.9, 3.9), (5.0, 5.2, 5.1), (-30.0, 45.0, 39.0), mode="min")).tied


def test_nothing_is_said_of_one_seed_or_of_trials_that_were_stopped_early() -> None:
    assert confirmation.standing(search_of((0.9,), (0.1,))) == confirmation.NOTHING
    assert confirmation.standing(search_of()) == confirmation.NOTHING
    search = search_of((0.9, 0.91, 0.92), (0.5, 0.51, 0.52), (0.1, 0.11, 0.12))
    search.trials[0].state = PRUNED
    assert confirmation.standing(search).best == 4
    (line,) = confirmation.in_words("s", confirmation.comparison_of(search, confirmation.standing(search)))
    assert "all others that were completed" in line
    search.trials[0].state = FAILED
    assert confirmation.standing(search).best == 4, "a value of fewer steps"
    assert confirmation.standing(search_of((0.9, 0.9), (0.5, 0.5))) == confirmation.NOTHING, "no spread at all"
    alone = search_of((0.9,), (0.1,))
    (line,) = confirmation.in_words("s", confirmation.comparison_of(alone, confirmation.standing(alone)))
    assert "the best may be luck" in line


def test_confirm_trains_the_best_points_with_fresh_seeds_and_ranks_by_these_alone() -> None:
    search = search_of((0.90, 0.92, 0.91), (0.93, 0.95, 0.94), (0.50, 0.52, 0.51), confirm=2)
    fresh = {1: 0.9, 2: 0.7}  # the search's best was lucky
    found = confirm(search, lambda width, seed: fresh[width] + 0.001 * seed)
    added = [trial for trial in search.trials if trial.fresh]
    assert [(trial.settings["width"], trial.settings["seed"]) for trial in added] == [
        (2, 4), (2, 5), (2, 6), (1, 4), (1, 5), (1, 6)
    ]  # fmt: skip
    assert (found.best, found.tied, found.worse) == (1, [], [4])
    best, second, third = search.points()
    assert (best.number, second.number, third.number) == (1, 4, 7)
    assert best.mean == pytest.approx(0.905)
    assert best.first == pytest.approx(0.91), "what it was chosen for"
    assert third.first is None
    assert search.ranked()[0].fresh
    result = result_of(search)
    assert [point["vs_best"] for point in result["points"]] == ["best", "worse", None]
    search.terms["comparison"] = result["comparison"]
    assert next((row["trial"], row["vs_best"]) for row in search.leaderboard()) == ("s/0015", "best")


def test_confirm_goes_on_with_more_seeds_while_points_are_tied_and_leaves_out_the_others() -> None:
    search = search_of((0.9, 0.9, 0.9), (0.9, 0.9, 0.9), (0.9, 0.9, 0.9), confirm=3, most=8)
    level = {1: 0.9, 2: 0.9, 3: 0.1}
    chance = random.Random(0)
    found = confirm(search, lambda width, seed: level[width] + 0.01 * chance.gauss(0, 1))
    assert {point.number: len(point.fresh) for point in search.points()} == {1: 6, 4: 6, 7: 3}
    assert found.worse == [7]
    assert {found.best, *found.tied} == {1, 4}
    search.terms["confirmation"]["most_seeds"] = 12
    assert confirmation.standing(search).next_look == 12, "a resume may raise the budget"


@pytest.mark.parametrize("failing", [(4, 5, 6), (5,)])
def test_confirm_counts_a_point_with_a_fresh_trial_that_fails_as_worse(failing: tuple[int, ...]) -> None:
    search = search_of((0.9, 0.9, 0.9), (0.8, 0.8, 0.8), (0.7, 0.7, 0.7), confirm=3)

    def value(width: int, seed: int) -> float | None:
        return None if width == 1 and seed in failing else 1 - width + 0.001 * seed

    found = confirm(search, value)
    assert (found.best, found.worse) == (4, [1, 7])


def test_the_best_trial_after_confirm_is_one_of_the_best_point() -> None:
    search = search_of((0.9, 0.9, 0.9), (0.8, 0.8, 0.8), confirm=2)
    fresh = {1: (0.70, 0.71, 0.99), 2: (0.90, 0.91, 0.92)}  # one lucky seed of the worse point
    confirm(search, lambda width, seed: fresh[width][(seed - 4) % 3])
    assert search.ranked()[0].repeats == 4


def test_another_best_point_is_retrained_under_another_name(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=2)
    first, second = search.trials
    assert launch_search._name_of_final(search, first, tmp_path) == "search-final"
    make_run(RunFolder(tmp_path / "search-final"), 1, **first.settings)
    assert launch_search._name_of_final(search, first, tmp_path) == "search-final", "to be resumed"
    assert launch_search._name_of_final(search, second, tmp_path) == "search-final-2"


def test_confirm_of_fewer_than_two_points_is_dropped() -> None:
    search = search_of((0.9, 0.9, 0.9), (None, None, None), confirm=2)
    assert confirmation.advance(search, [1, 2, 3]) == []
    assert not search.confirming


@pytest.mark.parametrize("points", [2, 3, 8])
def test_of_equal_points_confirm_claims_a_best_one_in_at_most_one_of_twenty_searches(points: int) -> None:
    chance = random.Random(1)
    assert sum(_claims(chance, [0.0] * points) for _ in range(1000)) <= 50


def test_a_point_better_by_five_deviations_is_claimed_in_nine_of_ten_searches() -> None:
    chance = random.Random(2)
    assert sum(_claims(chance, [0.0] * 7 + [5.0], most=3) for _ in range(300)) >= 270


def _claims(chance: random.Random, means: list[float], most: int = 12) -> bool:
    """Whether `--confirm` with all points of a search of one seed claims a best one."""
    search = search_of(*((mean + chance.gauss(0, 1),) for mean in means), confirm=len(means), most=most)
    found = confirm(search, lambda width, seed: means[width - 1] + chance.gauss(0, 1))
    return not found.tied
