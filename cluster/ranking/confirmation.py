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
from cluster.ranking.leaderboard import BEST, FINISHED, OPEN, POPULATION, TIED, WORSE, Point, Search, TrialRecord
from cluster.ranking.significance import LEVEL, Comparison

FIRST = 3  # fresh seeds of each point at the first look
MOST_SEEDS = 6  # by default


class Standing(NamedTuple):
    """Where the points stand after the trials that have ended."""

    best: int | None  # the first trial of the best point; None if nothing can be compared
    tied: list[int]  # those of points that are worse by no more than chance explains
    worse: list[int]
    comparison: Comparison | None = None
    next_look: int | None = None  # of `--confirm`: seeds of each point that is left, at the look that is due

    def of(self, point: Point) -> str | None:
        if point.number == self.best:
            return BEST
        if point.number in self.tied:
            return TIED
        return WORSE if point.number in self.worse else None


NOTHING = Standing(None, [], [])


def looks(most: int) -> list[int]:
    """Numbers of seeds after which points are compared, at most `most`: a higher limit adds looks and changes none."""
    return list(itertools.takewhile(lambda seeds: seeds <= most, (FIRST * 2**number for number in itertools.count())))


def level_of(look: int) -> float:
    """The level of a look, counted from 0."""
    return LEVEL / 2.0 ** (look + 1)


def standing(search: Search) -> Standing:
    """Which points are as good as the best within chance: of those confirmed, by their fresh seeds alone."""
    if search.confirming:
        return _confirmed(search)
    points = complete_points(search)
    return _compared(points, [point.values for point in points], search.sign, LEVEL)


def complete_points(search: Search) -> list[Point]:
    """The points whose trials have all finished with a value, the best first: other values are of fewer steps."""
    return [point for point in search.points() if _is_complete(point.trials)]


def _is_complete(trials: Sequence[TrialRecord]) -> bool:
    return all(trial.state == FINISHED and trial.value is not None for trial in trials)


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
        worse += [point.number for point, trials in zip(left, seen, strict=True) if not _is_complete(trials)]
        left = [point for point in left if point.number not in worse]  # a point with a seed that fails is no candidate
        values = [[trial.value or 0.0 for trial in point.fresh[:seeds]] for point in left]
        found = _compared(left, values, search.sign, level_of(look))
        if found.best is not None:
            worse += found.worse
            left = [point for point in left if point.number not in worse]
            so_far = found
        so_far = so_far._replace(worse=list(worse))
        if len(left) < 2:
            break
    if so_far.best is None and len(left) == 1:  # seeds of all others failed
        return Standing(left[0].number, [], worse)
    return so_far


def advance(search: Search, used: Collection[int]) -> list[TrialRecord]:
    """Add the trials of the next look of a search that has ended, if one is due; `used` are its own seeds.

    Of fewer than two complete points nothing can be confirmed: then the request is dropped.
    """
    terms = search.terms.get("confirmation")
    if terms is None:
        return []
    if not terms["chosen"]:
        chosen = [point.number for point in complete_points(search)[: terms["points"]]]
        if len(chosen) < 2:
            del search.terms["confirmation"]
            return []
        terms["chosen"] = chosen
    due = standing(search)
    if due.next_look is None:
        return []
    search.terms.pop("comparison", None)
    seeds = list(itertools.islice((seed for seed in itertools.count(1) if seed not in used), due.next_look))
    added: list[TrialRecord] = []
    for point in search.points():
        if point.number in terms["chosen"] and point.number not in due.worse:
            for seed in seeds[len(point.fresh) :]:
                number = len(search.trials) + 1
                added.append(TrialRecord(number, {**point.settings, "seed": seed}, repeats=point.number))
                search.trials.append(added[-1])
    return added


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
        "repeatable": 0 if search.terms.get("scheduler") in POPULATION else len(complete_points(search)),
        "left_out": sum(not _is_complete(point.judged) for point in search.points()),
    }


def in_words(name: str, compared: Mapping[str, Any]) -> list[str]:
    """What the seeds say of the points of a search, in a sentence or two."""
    lines = []
    if compared["confirmed"]:
        lines.append("Confirmed points are ranked by fresh seeds alone; `first` is the value they were chosen for.")
    if compared["best"] is None:
        return [*lines, *_unknown(name, compared)]
    others = "all others" + (" that were completed" if compared["left_out"] and not compared["confirmed"] else "")
    by = f"({compared['test']}, {100 * compared['level']:.3g} %)"
    if not compared["tied"]:
        return [*lines, f"{compared['best']} is significantly better than {others} {by}."]
    tied = ", ".join(compared["tied"][:5])
    tied += f" and {len(compared['tied']) - 5} more" if len(compared["tied"]) > 5 else ""
    needed = compared["seeds_needed"]
    more = f"; about {needed} seeds of each would separate the first two" if needed else ""
    return [*lines, f"{compared['best']} is not significantly better than {tied} {by}{more}."]


def _unknown(name: str, compared: Mapping[str, Any]) -> list[str]:
    """Why nothing is known of chance, and what would tell; nothing of a search without several points."""
    if compared["repeatable"] < 2:
        return []
    if compared["seeds"] > 1:
        return ["Too few points were completed with different values to be compared."]
    again = f"`troupe search --resume {name} --confirm {min(3, compared['repeatable'])}`"
    return [f"One seed for each point: the best may be luck; {again} trains the best points again."]
