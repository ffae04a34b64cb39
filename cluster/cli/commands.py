"""Parsed arguments as commands; nothing is executed here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.cli.parser import Words
from trainers.base.errors import WORDS, TroupeError
from trainers.base.paths import DATA_DIR
from trainers.base.problems import Problem
from trainers.run_folders import bucket
from trainers.settings.config import parts_of


def runs_of(said: Words, names: Sequence[str | None] | None = None, checkpoints: bool = False) -> Path:
    """The folder given by `--runs-dir`; for a bucket, its local folder, with the files of these runs (None: all)."""
    text = said.options.get("runs-dir", "")
    if "://" not in text:
        return said.path("runs-dir", "runs")
    try:
        runs = bucket.folder_for(text)
    except TroupeError as error:
        if error.code != WORDS:
            raise
        said.problems += error.problems
        return Path(text)
    if not said.problems:
        bucket.bring(runs, names, checkpoints)
    return runs


def train_command(said: Words, runs: Path) -> Any:
    """The `train` command of these arguments."""
    from cluster.training import prepare_run

    return prepare_run.TrainCommand(
        said.names[0] if said.names else None,
        said.settings,
        said.options.get("name"),
        said.options.get("resume"),
        said.options.get("from"),
        said.has("allow-changes"),
        said.options.get("address"),
        said.has("oversubscribe"),
        said.path("config", "") if said.has("config") else None,
        runs,
        said.path("data-dir", DATA_DIR),
        said.families,
        said.has("dry-run"),
    )


def search_command(said: Words, runs: Path) -> Any:
    """The `search` command of these arguments."""
    from cluster.searching import prepare_search

    def count(option: str) -> int | None:
        return said.number(option, 1, *prepare_search.BOUNDS[option.replace("-", "_")]) if said.has(option) else None

    return prepare_search.SearchCommand(
        said.names[0] if said.names else None,
        said.settings,
        said.options.get("name"),
        said.options.get("resume"),
        said.has("retry-failed"),
        said.options.get("space"),
        count("trials"),
        said.options.get("metric"),
        said.options.get("mode"),
        said.options.get("scheduler"),
        said.options.get("algorithm"),
        count("seed") or 0,
        count("max-concurrent"),
        count("trials-per-gpu") or 1,
        said.amount("time-budget", 60),
        said.amount("disk-budget", 1e9),
        count("keep-best"),
        said.has("final"),
        said.options.get("address"),
        said.path("config", "") if said.has("config") else None,
        runs,
        said.path("data-dir", DATA_DIR),
        said.families,
    )


def prepare_elsewhere(inner: Words, runs: Path) -> str:
    """The family of a command that runs on other machines. Raises TroupeError with the problems of the command."""
    from cluster.searching import prepare_search
    from cluster.training import prepare_run

    problems = [
        Problem("bad-value", about, "must be an absolute path on the cluster", value=value)
        for about, value, path in _paths(inner)
        if not os.path.isabs(path)
    ]
    family, here = "", {name: value for name, value in inner.settings.items() if not _is_path(name, value)}
    inner = replace(inner, settings=here)
    try:
        if inner.verb == "train":
            command = replace(train_command(inner, runs), name=None, from_run=None, address="auto", elsewhere=True)
            family = prepare_run.prepare(command).family
        else:
            searched = replace(search_command(inner, runs), name=None, address="auto", elsewhere=True)
            family = str(prepare_search.prepare(searched).told["family"])
    except TroupeError as error:
        problems += [one for one in error.problems if one not in problems]
    if problems:
        raise TroupeError(problems, WORDS)
    return family


def _paths(inner: Words) -> list[tuple[str, str, str]]:
    """Settings and options that name folders on the cluster, their values, and the paths in these."""
    parts = parts_of(inner.settings.get("data", "digits"))
    found = [("data", part, part.partition(":")[2]) for part in parts if ":" in part]
    found += [
        (name, str(value), str(value).rpartition(":")[2])
        for name, value in inner.settings.items()
        if _is_path(name, value)
    ]
    if inner.has("data-dir"):
        found.append(("--data-dir", inner.options["data-dir"], inner.options["data-dir"]))
    return found


def _is_path(name: str, value: Any) -> bool:
    """Whether a setting other than the data names a file, such as that of a judge: it is on the cluster."""
    return name != "data" and "/" in str(value)


def to_check(inner: Words) -> tuple[str, ...]:
    """The arguments of `troupe check` for a command that runs on a cluster."""
    data = ("--data-dir", inner.options["data-dir"]) if inner.has("data-dir") else ()
    if inner.verb != "train" or not inner.names or inner.has("config"):  # the arguments of a search are not settings
        return data
    return (inner.names[0], *(f"{key}={value}" for key, value in inner.settings.items()), *data)


def add_problems(said: Words, prepare: Callable[[], Any]) -> Any:
    """Add the problems that `prepare` finds to those of the parser; or return what `prepare` returns."""
    try:
        return prepare()
    except TroupeError as error:
        if error.code == WORDS:
            said.problems += [one for one in error.problems if one not in said.problems]
