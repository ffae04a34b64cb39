"""What was typed, as the command that it means; nothing is carried out here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.words import Words
from trainers.engine.paths import DATA_DIR


def train_command(said: Words, runs: Path) -> Any:
    """A `train` command as it was given."""
    from cluster import prepare

    return prepare.TrainCommand(
        said.names[0] if said.names else None, said.settings, said.options.get("name"), said.options.get("resume"),
        said.options.get("from"), said.has("allow-changes"), said.options.get("address"), said.has("oversubscribe"),
        said.path("config", "") if said.has("config") else None, runs,
        said.path("data-dir", DATA_DIR), said.families, said.has("dry-run"),
    )  # fmt: skip


def search_command(said: Words, runs: Path) -> Any:
    """A `search` command as it was given."""
    from cluster import prepare_search

    def count(option: str) -> int | None:
        return said.number(option, 1, 1) if said.has(option) else None

    return prepare_search.SearchCommand(
        said.names[0] if said.names else None, said.settings, said.options.get("name"), said.options.get("resume"),
        said.has("retry-failed"), said.options.get("space"), count("trials"), said.options.get("metric"),
        said.options.get("mode"), said.options.get("scheduler"), said.options.get("algorithm"),
        said.number("seed", 0, 0), count("max-concurrent"), count("trials-per-gpu") or 1,
        said.amount("time-budget", 60), said.amount("disk-budget", 1e9), count("keep-best"), said.has("final"),
        said.options.get("address"), said.path("config", "") if said.has("config") else None,
        runs, said.path("data-dir", DATA_DIR), said.families,
    )  # fmt: skip


def prepare_elsewhere(inner: Words, runs: Path) -> None:
    """Raise TroupeError for what is wrong with the words of a command that is carried out on other machines."""
    from cluster import prepare, prepare_search

    if inner.verb == "train":
        command = replace(train_command(inner, runs), name=None, from_run=None, address="auto")
        prepare.prepare(command)
    else:
        prepare_search.prepare(replace(search_command(inner, runs), name=None, address="auto"))


def to_check(inner: Words) -> tuple[str, ...]:
    """What `troupe check` should look at for a command that is carried out on a cluster."""
    data = ("--data-dir", inner.options["data-dir"]) if inner.has("data-dir") else ()
    if inner.verb != "train" or not inner.names or inner.has("config"):  # a search's words are no settings
        return data
    return (inner.names[0], *(f"{key}={value}" for key, value in inner.settings.items()), *data)
