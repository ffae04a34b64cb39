"""`--confirm`: train the best points of a search again with fresh seeds, until one of them is significantly better.

After each look, points that are significantly worse than the best get no more seeds. Looks are after FIRST seeds of
each point, then after twice as many, and so on. The first uses half of the level of the test, each further one half of
what is left (Bonferroni): all looks together claim a best point among equal ones with at most that probability.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from cluster.ranking import significance
from cluster.ranking.leaderboard import FAILED, FINISHED, OPEN, POPULATION, Point, Search, TrialRecord
from cluster.ranking.significance import LEVEL, Comparison
from trainers.base.errors import FAILED as RUN_FAILED
from trainers.base.errors import TroupeError
from trainers.base.problems import Problem

FIRST = 3  # fresh seeds of each point at the first look
MOST_SEEDS = 6  # by default
BEST, TIED, WORSE = "best", "tied", "worse"  # tied: the difference from the best may be chance


class Standing(NamedTuple):
    """Where the points stand after the trials that have ended."""

    best: int | None  # the first trial of the best point; None if nothing can be compared
    tied: list[int]  # those of points that are worse by no more than chance explains
    worse: list[int]
    comparison: Comparison | None = None
    next_look: int | None = None  # of `--confirm`: seeds of each point that is left, at the look that is due

    def of(self, point: Point) -> str | None:
        return (
            BEST
            if point.number == self.best
            else TIED
            if point.number in self.tied
            else (WORSE if point.number in self.worse else None)
        )


NOTHING = Standing(None, [], [])


def looks(most: int) -> list[int]:
    """Numbers of seeds after which points are compared."""
    doubled = itertools.takewhile(lambda seeds: seeds < most, (FIRST * 2**number for number in itertools.count()))
    return [*doubled, most]


def level_of(look: int) -> float:
    """The level of a look, counted from 0."""
    return LEVEL / 2.0 ** (look + 1)


def standing(search: Search) -> Standing:
    """Which points are as good as the best within chance: of those confirmed, by their fresh seeds alone."""
    if search.confirming:
        return _confirmed(search)
    points = [point for point in search.points() if point.values and _complete(point.trials)]
    return _compared(points, [point.values for point in points], search.sign, LEVEL)


def _complete(trials: Sequence[TrialRecord]) -> bool:
    """Whether all have made all their steps, or failed: values after other numbers of steps cannot be compared."""
    return all(trial.state in (FINISHED, FAILED) for trial in trials)


def _compared(points: Sequence[Point], values: Sequence[Sequence[float]], sign: int, level: float) -> Standing:
    if not points:
        return NOTHING
    best = max(range(len(points)), key=lambda number: sign * statistics.fmean(values[number]))
    found = significance.compare_with_best(values, best, sign, level)
    if found is None:
        return NOTHING
    tied = [points[number].number for number in found.close]
    worse = [point.number for point in points if point.number not in (points[best].number, *tied)]
    return Standing(points[best].number, tied, worse, found)


def _confirmed(search: Search) -> Standing:
    """The standing of the chosen points, look by look."""
    terms = search.terms["confirmation"]
    by_number = {point.number: point for point in search.points()}
    left = [by_number[number] for number in terms["chosen"]]
    worse: list[int] = []
    so_far = NOTHING
    for look, seeds in enumerate(looks(terms["most_seeds"])):
        seen = [point.fresh[:seeds] for point in left]
        if any(len(trials) < seeds or any(trial.state in OPEN for trial in trials) for trials in seen):
            return so_far._replace(next_look=seeds)
        values = [[trial.value for trial in trials if trial.value is not None] for trials in seen]
        valued = [number for number, one in enumerate(values) if one]
        worse += [point.number for number, point in enumerate(left) if number not in valued]
        left = [left[number] for number in valued]
        found = _compared(left, [values[number] for number in valued], search.sign, level_of(look))
        if found.best is not None:
            worse += found.worse
            left = [point for point in left if point.number not in worse]
            so_far = found._replace(worse=list(worse))
        if len(left) < 2:
            break
    if so_far.best is None and len(left) == 1:  # no fresh trial of the others has a value
        return Standing(left[0].number, [], worse)
    return so_far


def advance(search: Search, used: Collection[int]) -> list[TrialRecord]:
    """Add the trials of the next look, if one is due; `used` are the seeds of the search itself.

    Raises TroupeError (exit code 1) if fewer than two points have finished with a value.
    """
    terms = search.terms.get("confirmation")
    if terms is None:
        return []
    if not terms["chosen"]:
        terms["chosen"] = choose(search, terms["points"])
    due = standing(search)
    if due.next_look is None:
        return []
    seeds = list(itertools.islice((seed for seed in itertools.count(1) if seed not in used), due.next_look))
    added: list[TrialRecord] = []
    for point in search.points():
        if point.number in terms["chosen"] and point.number not in due.worse:
            for seed in seeds[len(point.fresh) :]:
                number = len(search.trials) + 1
                added.append(TrialRecord(number, {**point.settings, "seed": seed}, repeats=point.number))
                search.trials.append(added[-1])
    return added


def choose(search: Search, most: int, code: int = RUN_FAILED) -> list[int]:
    """The best points, by the search itself. Raises TroupeError if there are fewer than two."""
    candidates = [point for point in search.points() if point.values and _complete(point.trials)]
    if len(candidates) < 2:
        reason = f"--confirm compares at least 2 points, but {len(candidates)} finished with a value"
        raise TroupeError(Problem("too-few-points", search.name, reason), code)
    return [point.number for point in candidates[:most]]


def comparison_of(search: Search, found: Standing) -> dict[str, Any]:
    """What the seeds say of the points, by the name of each one's first trial."""
    names = {trial.number: trial.name for trial in search.trials}
    by = found.comparison
    values = "logarithms of values" if by is not None and by.logs else "values"
    return {
        "test": significance.TEST,
        "level": LEVEL if by is None else by.level,
        "assumption": f"{values} normally distributed over seeds, with the same standard deviation at all points",
        "best": None if found.best is None else names[found.best],
        "tied": [names[number] for number in found.tied],
        "worse": [names[number] for number in found.worse],
        "seeds_needed": None if by is None else significance.seeds_needed(by),
        "seeds": max((len(point.values) for point in search.points()), default=0),
        "confirmed": search.confirming,
        "repeatable": search.terms.get("scheduler") not in POPULATION,
    }


def in_words(name: str, compared: Mapping[str, Any], points: int) -> list[str]:
    """What the seeds say of the points of a search, of which so many have a value, in a sentence or two."""
    lines = []
    if compared["confirmed"]:
        lines.append("Confirmed points are ranked by fresh seeds alone; `first` is the value they were chosen for.")
    if points < 2:
        return lines
    if compared["best"] is None and compared["seeds"] > 1:
        return [*lines, "Too few points have finished with several seeds to be compared."]
    if compared["best"] is None:
        again = f"; `troupe search --resume {name} --confirm {min(3, points)}` trains the best points again"
        unknown = "One seed for each point: the spread is unknown, the best may be luck"
        return [*lines, f"{unknown}{again if compared['repeatable'] else ''}."]
    by = f"({compared['test']}, {100 * compared['level']:.3g} %)"
    if not compared["tied"]:
        return [*lines, f"{compared['best']} is significantly better than all others {by}."]
    tied = ", ".join(compared["tied"][:5])
    tied += f" and {len(compared['tied']) - 5} more" if len(compared["tied"]) > 5 else ""
    needed = compared["seeds_needed"]
    more = f"; about {needed} seeds of each would separate the first two" if needed else ""
    return [*lines, f"{compared['best']} is not significantly better than {tied} {by}{more}."]
