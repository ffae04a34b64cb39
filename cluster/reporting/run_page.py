"""The data of one run on a report page, read from its folder alone. Imports neither torch nor Ray nor plotly."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainers.base.errors import TroupeError
from trainers.base.problems import sentences, show_value
from trainers.families import registry
from trainers.run_folders.run_folder import RunFolder

GRID = re.compile(r"step_(\d{8,})\.(png|txt)")
EVENTS = re.compile(r"events\.out\.tfevents\.(\d+)\.")
NO_METRICS = ("step", "seconds")  # entries of a row that are not metrics
DRAWN_ELSEWHERE = ("curves", "real")  # pictures that the page shows in other ways
LATE = 600.0  # seconds; a file time later than this after its last row is not trusted


@dataclass
class Read:
    """One run: its settings, curves and files, and notes on damaged files."""

    settings: dict[str, Any] = field(default_factory=dict)
    stored: dict[str, Any] = field(default_factory=dict)  # all of settings.json
    rows: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    verdict: dict[str, dict[str, Any]] = field(default_factory=dict)
    grids: dict[int, Path] = field(default_factory=dict)  # by step
    pictures: list[Path] = field(default_factory=list)  # confusion.png, verdict.png, ...
    real: Path | None = None
    timelapse: Path | None = None
    sessions: list[list[float]] = field(default_factory=list)  # start and end of each session, in seconds since 1970
    notes: list[str] = field(default_factory=list)

    def curves(self) -> dict[str, tuple[list[int], list[float | None]]]:
        """Every numeric metric: its steps and its values; None if a value is not finite."""
        by_name: dict[str, tuple[list[int], list[float | None]]] = {}
        for row in self.rows:
            for name, value in row.items():
                if name in NO_METRICS or isinstance(value, bool) or not isinstance(value, (int, float)):
                    continue
                steps, values = by_name.setdefault(name, ([], []))
                steps.append(int(row["step"]))
                values.append(value if math.isfinite(value) else None)
        return by_name


def read_run(folder: RunFolder) -> Read:
    """All data of a run that a page shows; what cannot be read is left out, with a note."""
    read = Read()
    try:
        read.stored = folder.read_settings(lambda line: read.notes.append(f"{folder.name}: {line}"))
        read.settings = dict(read.stored["settings"])
    except TroupeError as error:
        read.notes += [f"{folder.name}: {line}" for line in sentences(error.problems)]
    try:
        read.rows, damaged = folder.read_metrics()
    except OSError as error:
        damaged = 0
        read.notes.append(f"{folder.name}: metrics.jsonl cannot be read ({error.strerror})")
    if damaged:
        read.notes.append(f"{folder.name}: {damaged} rows of metrics.jsonl are damaged")
    read.result = folder.read_result() or {}
    read.verdict = folder.read_verdict()
    for path in _listed(folder.grids):
        if match := GRID.fullmatch(path.name):
            read.grids[int(match[1])] = path
    read.grids = dict(sorted(read.grids.items()))
    listed = _listed(folder.path)
    read.pictures = [path for path in listed if path.suffix == ".png" and path.stem not in DRAWN_ELSEWHERE]
    read.real = folder.real if folder.real in listed else None
    read.timelapse = folder.timelapse if folder.timelapse in listed else None
    read.sessions = _sessions(folder, listed, read.rows)
    return read


def command_of(family: str, settings: Mapping[str, Any]) -> str:
    """The command that repeats a run: the settings that differ from the defaults of its family."""
    differing = {name: value for name, value in settings.items() if value is not None}
    with contextlib.suppress(Exception):  # a custom family, or of another version: all settings are given
        kind = registry.config_class(family)
        given: dict[str, Any] = {}
        for _ in range(3):  # defaults can depend on other settings, as the learning rate on the model
            defaults = json.loads(json.dumps(kind.of(given).model_dump()))
            other = {name: value for name, value in settings.items() if defaults.get(name) != value}
            if not other.keys() - given.keys():
                break
            given.update(other)
        differing = {name: value for name, value in settings.items() if name in given}
    pairs = [shlex.quote(f"{name}={show_value(value)}") for name, value in differing.items()]
    return " ".join(["troupe train", family, *pairs])


def is_known(family: str) -> bool:
    """Whether a family is part of the package."""
    with contextlib.suppress(TroupeError):
        return family in registry.families()
    return False


def main_metric_of_run(family: str, rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> tuple[str, str]:
    """The main metric of a run outside of a search, and whether higher or lower is better."""
    modes: Mapping[str, str] = {}
    with contextlib.suppress(Exception):
        modes = registry.config_class(family).metrics
    names = dict.fromkeys(name for row in rows for name in row if name not in NO_METRICS)
    best = result.get("best") or {}
    candidates = [best.get("metric", ""), *(f"eval_{name}" for name in modes)]
    metric = next((name for name in candidates if name in names), "")
    metric = metric or next((name for name in names if name.startswith("eval_")), "")
    metric = metric or next((name for name in names if "loss" in name), next(iter(names), ""))
    return metric, modes.get(metric.removeprefix("eval_"), "max" if "accuracy" in metric else "min")


def thinned(
    steps: Sequence[int], values: Sequence[float | None], most: int, digits: int
) -> tuple[list[int], list[float | None]]:
    """At most `most` points of a curve, evenly spaced, with the first and the last; rounded to `digits` digits."""
    count = len(steps)
    chosen = range(count) if count <= most else [round(index * (count - 1) / (most - 1)) for index in range(most)]
    return [steps[index] for index in chosen], [short(values[index], digits) for index in chosen]


def texts_of(paths: Mapping[int, Path], most: int, letters: int, note: Callable[[str], None]) -> dict[int, str]:
    """The texts of a run by step: at most `most` steps, evenly spaced, and `letters` characters of each."""
    steps = list(paths)
    if len(steps) > most:
        steps = [steps[round(index * (len(steps) - 1) / (most - 1))] for index in range(most)]
        note(f"texts of {len(steps)} of {len(paths)} steps")
    texts = {}
    for step in steps:
        with contextlib.suppress(OSError):
            text = paths[step].read_text(encoding="utf-8", errors="replace")
            texts[step] = text if len(text) <= letters else text[:letters] + "\n[cut here]"
    return texts


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def short(value: float | None, digits: int) -> float | int | None:
    """A number rounded to `digits` digits, to save space."""
    if value is None:
        return None
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e15 else rounded


def _sessions(folder: RunFolder, listed: Sequence[Path], rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """The sessions of a run: from each recorded start to the last change of a file that it wrote.

    There is one TensorBoard event file for each start, and its time is that of the last row; starts under an older
    troupe are known from these alone. In a copied folder these times can be those of the copy: if they are far later
    than the seconds of the rows allow, the rows count.
    """
    changed = {}
    for path in listed:
        if match := EVENTS.match(path.name):
            with contextlib.suppress(OSError):
                changed[float(match[1])] = path.stat().st_mtime
    noted = folder.read_starts()
    starts = [started for started in sorted(changed) if not noted or started < noted[0] - 1] + noted
    newest = 0.0
    with contextlib.suppress(OSError):
        newest = folder.metrics.stat().st_mtime
    spent = max((float(row.get("seconds", 0)) for row in rows), default=0.0)
    sessions = []
    for index, start in enumerate(starts):
        after = starts[index + 1] if index + 1 < len(starts) else math.inf
        ends = [end for started, end in changed.items() if start - 1 <= started < after]
        end = max(ends, default=newest if after == math.inf else start)
        if end - start > spent + LATE:
            end = start + spent
        sessions.append([start, min(max(end, start), after)])
    return sessions
