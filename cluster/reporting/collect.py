"""Collect the contents of a report page as plain data: searches, runs, trials, curves, grids, verdicts and texts.

Imports neither torch nor Ray nor plotly.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.ranking import confirmation, leaderboard
from cluster.ranking.leaderboard import FINISHED, OPEN, PRUNED, RUNNING, WAITING, Search, TrialRecord
from cluster.reporting import importance
from cluster.reporting.run_page import (
    Read,
    command_of,
    is_known,
    main_metric_of_run,
    read_run,
    short,
    texts_of,
    thinned,
)
from trainers.base.errors import USAGE, TroupeError, did_you_mean
from trainers.base.problems import Problem
from trainers.run_folders import run_folder
from trainers.run_folders.run_folder import RunFolder

POINTS = 300  # of a curve, at most
DIGITS = 5
ALL_POINTS = 400_000  # of all curves together: less important metrics are dropped first
FEW_DIGITS = 100_000  # above this many points, curves keep three digits instead of five
TEXTS, LETTERS = 40, 4000  # maximum of steps with texts of a trial, and of characters of each
ALL_LETTERS = 3_000_000  # characters of all texts
SHOWN_TERMS = (
    "family",
    "metric",
    "mode",
    "scheduler",
    "algorithm",
    "seed",
    "seeds",
    "space",
    "fixed",
    "seconds",
    "final",
)
OF_RECORD = ("state", "step", "steps", "best_step", "reason", "worry", "settings", "clones")
OF_THE_NOISE = ("data", "image_size", "latent_dim", "conditional")  # settings that change the noise of a grid

Curves = dict[str, tuple[list[int], list[float | None]]]


@dataclass
class Collected:
    """The contents of a page. `page` and `bulk` are plain JSON; `folders` are those of the trials."""

    page: dict[str, Any]  # title, groups, notes: small
    trials: list[dict[str, Any]]
    bulk: dict[str, Any]  # curves and texts
    folders: list[Path]  # of each trial
    reads: list[Read]
    working: bool
    left_out: list[str] = field(default_factory=list)


def collect(runs: Path, names: Sequence[str]) -> Collected:
    """Read searches and runs by their names or paths. Raises TroupeError (exit code 2) if there is none."""
    groups: list[dict[str, Any]] = []
    trials: list[dict[str, Any]] = []
    folders: list[Path] = []
    reads: list[Read] = []
    title: list[str] = []
    working = False
    for group_source in find_sources(runs, names):
        title += [group_source.name] if isinstance(group_source, Search) else [folder.name for folder in group_source]
        if isinstance(group_source, Search):
            group, added = _of_search(group_source, len(groups))
            working = working or group["working"]
        else:
            group, added = _of_runs(group_source, len(groups))
            working = working or any(trial["state"] == "working" for trial, _, _ in added)
        groups.append(group)
        for trial, folder, read in added:
            trials.append(trial)
            folders.append(folder)
            reads.append(read)
    left_out = [note for read in reads for note in read.notes]
    common = _common([read.settings for read in reads])
    for trial, read in zip(trials, reads, strict=True):
        trial["other"] = {name: value for name, value in read.settings.items() if name not in common}
    page = {
        "format": 1,
        "title": ", ".join(title),
        "made": time.strftime("%Y-%m-%d %H:%M:%S"),
        "working": working,
        "groups": groups,
        "common": common,
        "method": importance.METHOD,
        "noise": [
            name
            for name in OF_THE_NOISE
            if name not in _common([read.settings for read in reads if read.grids])
            and any(name in read.settings for read in reads if read.grids)
        ],
    }
    bulk = {**_curves(trials, reads, groups, left_out), "texts": _texts(trials, reads, left_out)}
    return Collected(page, trials, bulk, folders, reads, working, left_out)


def find_sources(runs: Path, names: Sequence[str]) -> list[Search | list[RunFolder]]:
    """The named searches and runs, runs of one family together. Raises TroupeError with all problems."""
    found: list[Search | list[RunFolder]] = []
    of_family: dict[str, list[RunFolder]] = {}
    problems: list[Problem] = []
    for name in dict.fromkeys(names):
        try:
            if leaderboard.is_search(runs, name):
                found.append(leaderboard.find_search(runs, name))
                continue
            folder = run_folder.find_run(runs, name)
        except TroupeError as error:
            if error.code != USAGE:
                raise
            available = [path.name for path in leaderboard.all_searches(runs)]
            available += [run.name for run in run_folder.all_runs(runs)]
            unknown = [Problem("unknown-run", name, f"no such run or search in {runs}", did_you_mean(name, available))]
            problems += error.problems if "/" in name else unknown  # of a trial: its own message is better
            continue
        try:
            family = str(folder.read_settings()["family"])
        except TroupeError:
            family = "?"
        if family not in of_family:
            of_family[family] = []
            found.append(of_family[family])
        if all(other.path != folder.path for other in of_family[family]):
            of_family[family].append(folder)
    if problems:
        raise TroupeError(problems, USAGE)
    return found


Added = list[tuple[dict[str, Any], Path, Read]]


def _of_search(search: Search, index: int) -> tuple[dict[str, Any], Added]:
    terms = search.terms
    group = {
        "name": search.name,
        "kind": "search",
        "working": search.working,
        "searched": [*terms["space"]],
        **{key: terms.get(key) for key in SHOWN_TERMS},
    }
    if terms.get("seeds") or search.confirming:
        group["searched"] = [*terms["space"], "seed"]
    found, points = confirmation.standing(search), search.points()
    comparison = confirmation.comparison_of(search, found)
    group["luck"] = [] if group["working"] else confirmation.in_words(search.name, comparison)
    added: Added = []
    families = "".join(f" --families {path}" for path in terms.get("families") or ())
    for rank, point in enumerate(points, 1):
        for record in [*point.fresh, *point.trials]:
            folder = search.folder(record)
            read = read_run(folder) if os.path.exists(folder.settings) or record.state not in OPEN else Read()
            value = _finite(record.value)
            trial = {
                "id": f"{search.name}/{record.name}",
                "group": index,
                **{name: getattr(record, name) for name in OF_RECORD},
                "value": value,
                "best": _finite(record.best),
                "seconds": round(record.seconds, 1),
                "rank": rank if point.mean is not None else None,
                "mean": _finite(point.mean),
                "spread": _finite(point.spread),
                "vs_best": found.of(point) if record in point.judged else None,
                "first": _finite(point.first),
                "command": search.command_of(record) + families,
                "repeats": _about(record),
            }
            added.append((_with_files(trial, folder, read), folder.path, read))
    group["importance"] = _importance(search)
    return group, added


def _of_runs(folders: Sequence[RunFolder], index: int) -> tuple[dict[str, Any], Added]:
    reads = [read_run(folder) for folder in folders]
    family = next((str(read.stored["family"]) for read in reads if read.stored), "?")
    rows = [row for read in reads for row in read.rows]
    metric, mode = main_metric_of_run(family, rows, next((read.result for read in reads if read.result), {}))
    common = _common([read.settings for read in reads])
    differing = list(dict.fromkeys(name for read in reads for name in read.settings if name not in common))
    group = {
        "name": f"{family}: {len(folders)} runs" if len(folders) > 1 else folders[0].name,
        "kind": "runs",
        "family": family,
        "metric": metric,
        "mode": mode,
        "searched": differing,
        "working": False,
        "importance": None,
    }
    sign = 1 if mode == "max" else -1
    note = "" if is_known(family) else "Its family is not part of the package: add --families PATH."
    added: Added = []
    for folder, read in zip(folders, reads, strict=True):
        points = [(int(row["step"]), row[metric]) for row in read.rows if _finite(row.get(metric)) is not None]
        best = max(points, key=lambda pair: (sign * pair[1], -pair[0]), default=(0, None))
        steps = int(read.settings.get("steps") or 0)
        state = FINISHED if read.result else ("working" if folder.working else "stopped")
        trial = {
            "id": folder.name,
            "group": index,
            "state": state,
            "step": max((int(row["step"]) for row in read.rows), default=0),
            "steps": steps,
            "value": points[-1][1] if points else None,
            "best": best[1],
            "best_step": best[0],
            "seconds": round(max((float(row.get("seconds", 0)) for row in read.rows), default=0.0), 1),
            "reason": "",
            "worry": read.result.get("worry", ""),
            "mean": None,
            "spread": None,
            "vs_best": None,
            "first": None,
            "settings": {name: read.settings.get(name) for name in differing},
            "clones": read.stored.get("clones", []),
            "command": command_of(family, read.settings),
            "repeats": note,
        }
        added.append((_with_files(trial, folder, read), folder.path, read))
    added.sort(key=lambda one: (one[0]["value"] is None, -sign * (one[0]["value"] or 0.0)))
    for rank, (trial, _, _) in enumerate(added, 1):
        trial["rank"], trial["mean"] = (rank, trial["value"]) if trial["value"] is not None else (None, None)
    return group, added


def _with_files(trial: dict[str, Any], folder: RunFolder, read: Read) -> dict[str, Any]:
    kinds = {path.suffix[1:] for path in read.grids.values()}
    return {
        **trial,
        "grids": list(read.grids),
        "drawn": "txt" if kinds == {"txt"} else "png",
        "pictures": [path.stem for path in read.pictures],
        "real": read.real is not None,
        "timelapse": read.timelapse is not None,
        "sessions": read.sessions,
        "verdict": {name: _without_long(report) for name, report in read.verdict.items()},
        "folder": folder.name,
    }


def _about(record: TrialRecord) -> str:
    """What the command of a trial does not express."""
    if record.clones:
        clones = ", ".join(f"{clone['from']} at step {clone['step']}" for clone in record.clones)
        return f"It took over the weights of {clones}; the command trains with its last settings from the start."
    return ""


def _importance(search: Search) -> dict[str, Any] | None:
    """The importance of a search's settings; None if fewer than three trials have a value."""
    ended = [trial for trial in search.trials if trial.state not in (WAITING, RUNNING) and not trial.fresh]
    valued = [trial for trial in ended if _finite(trial.value) is not None]
    rows = importance.importance([trial.settings for trial in valued], [float(trial.value or 0) for trial in valued])
    names = len(search.terms["space"])
    warnings = []
    if len(valued) < importance.ENOUGH * names:
        warnings.append(
            f"{len(valued)} trials are too few for {names} settings; at least {importance.ENOUGH * names} are needed"
        )
    if early := sum(trial.state == PRUNED for trial in valued):
        warnings.append(f"{early} of them were stopped early: their values are of fewer steps")
    if any(trial.clones for trial in valued):
        warnings.append("settings changed during trials: each counts with its last settings")
    return {"rows": rows, "trials": len(valued), "warnings": warnings} if len(valued) > 2 else None


def _curves(
    trials: Sequence[Mapping[str, Any]], reads: Sequence[Read], groups: Sequence[Mapping[str, Any]], left_out: list[str]
) -> dict[str, Any]:
    """Curves by metric and trial; each list of steps is stored once."""
    curves_of: list[Curves] = [read.curves() for read in reads]
    points: dict[str, int] = {}
    for curves in curves_of:
        for name, (steps, _) in curves.items():
            points[name] = points.get(name, 0) + min(len(steps), POINTS)
    main = [group["metric"] for group in groups]

    def order(name: str) -> tuple[int, int]:
        kind = 0 if name in main else 1 if name.startswith("eval_") else 2 if "loss" in name else 3
        return kind, list(points).index(name)

    names: list[str] = []
    dropped: list[str] = []
    total = 0
    for name in sorted(points, key=order):
        if total + points[name] > ALL_POINTS and names:
            dropped.append(name)
            continue
        names.append(name)
        total += points[name]
    if dropped:
        left_out.append(f"curves of {', '.join(dropped)}: too many points; they are in the runs' metrics.jsonl")
    digits = 3 if total > FEW_DIGITS else DIGITS
    pool: dict[tuple[int, ...], int] = {}
    kinds: dict[str, dict[int, list[Any]]] = {name: {} for name in names}
    for index, curves in enumerate(curves_of):
        for name in names:
            if name in curves:
                steps, values = thinned(*curves[name], POINTS, digits)
                kinds[name][index] = [pool.setdefault(tuple(steps), len(pool)), values]
    return {"metrics": names, "steps": [list(steps) for steps in pool], "curves": kinds}


def _texts(
    trials: Sequence[Mapping[str, Any]], reads: Sequence[Read], left_out: list[str]
) -> dict[int, dict[int, str]]:
    """Texts by trial and step, up to ALL_LETTERS characters."""
    texts: dict[int, dict[int, str]] = {}
    room = ALL_LETTERS
    for index, (trial, read) in enumerate(zip(trials, reads, strict=True)):
        paths = {step: path for step, path in read.grids.items() if path.suffix == ".txt"}
        if not paths:
            continue
        if room <= 0:
            left_out.append(f"{trial['id']}: its texts, as there are too many")
            continue
        notes: list[str] = []
        texts[index] = texts_of(paths, TEXTS, LETTERS, notes.append)
        left_out += [f"{trial['id']}: {note}" for note in notes]
        room -= sum(map(len, texts[index].values()))
    return texts


def _common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings that are the same in all runs."""
    nonempty = [one for one in settings if one]
    if not nonempty:
        return {}
    first, *others = nonempty
    texts = {name: json.dumps(value, sort_keys=True) for name, value in first.items()}
    for other in others:
        texts = {
            name: word
            for name, word in texts.items()
            if name in other and json.dumps(other[name], sort_keys=True) == word
        }
    return {name: first[name] for name in texts}


def _finite(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _without_long(report: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a verdict that a table can show."""
    parts = {
        key: report[key]
        for key in ("step", "numbers", "features", "samples", "notes", "judge_accuracy", "ema")
        if key in report
    }
    numbers = parts.get("numbers")
    if isinstance(numbers, dict):
        parts["numbers"] = {
            name: {side: short(_finite(value), DIGITS) for side, value in sides.items()}
            for name, sides in numbers.items()
            if isinstance(sides, dict)
        }
    return parts
