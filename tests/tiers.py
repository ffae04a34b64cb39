"""Three tiers: `pytest` runs the fast tests, `pytest --all` all but what is marked `long`, `pytest --long` everything.

What is named on the command line runs in any tier: a test by its id, a file of `on_ray` or `faults`, or `-m long`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

FAST, ALL, LONG = range(3)
MARKERS = {"slow": ALL, "ray": ALL, "faults": ALL, "long": LONG}
FOLDERS = tuple(Path(__file__).parent / name for name in ("faults", "on_ray"))  # all of what they hold is marked


def add_options(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the slow tests too")
    parser.addoption("--long", action="store_true", help="run every test: what is random, rare or takes minutes, too")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The folders are not even read where nothing of them can run."""
    if collection_path not in FOLDERS or tier_asked(config) > FAST:
        return None
    return None if any(path.is_relative_to(collection_path) for path, _ in named(config)) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    runs = [tier(item) <= tier_asked(config) or is_named(item) for item in items]
    config.hook.pytest_deselected(items=[item for item, there in zip(items, runs, strict=True) if not there])
    items[:] = [item for item, there in zip(items, runs, strict=True) if there]


def slow(*values: object) -> list[Any]:
    """Values of a parameter, or tuples of several parameters, that `--all` tries."""
    return [pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=pytest.mark.slow) for one in values]


def long(*values: object) -> list[Any]:
    """Those that `--long` alone tries."""
    return [pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=pytest.mark.long) for one in values]


def tier(item: pytest.Item) -> int:
    """The lowest one that runs a test."""
    return max((there for marker, there in MARKERS.items() if item.get_closest_marker(marker)), default=FAST)


def tier_asked(config: pytest.Config) -> int:
    """By an option, or by a marker that `-m` selects."""
    options = (ALL if config.getoption("--all") else FAST, LONG if config.getoption("--long") else FAST)
    selected = re.findall(r"(?<!not )\b[a-z]+\b", config.option.markexpr)
    return max(*options, *(MARKERS.get(word, FAST) for word in selected))


def is_narrowed(config: pytest.Config) -> bool:
    """Whether only a part of the tests is asked for: files, or an expression."""
    whole = {Path(__file__).parent, Path(__file__).parents[1]}
    return bool(config.option.keyword or config.option.markexpr or {path for path, _ in named(config)} - whole)


def named(config: pytest.Config) -> list[tuple[Path, str]]:
    """The files, folders and tests of the command line: where they lie, and what follows `::`."""
    parts = [argument.partition("::") for argument in config.args]
    return [(Path(os.path.abspath(config.invocation_params.dir / path)), test) for path, _, test in parts]


def is_named(item: pytest.Item) -> bool:
    """By its id; where no tier is asked for, one of `FOLDERS` also by its file, and by the folder if it is not long."""
    rest = item.nodeid.partition("::")[2]
    for path, test in named(item.config):
        if test:
            there = path == item.path and (rest == test or rest.startswith((f"{test}[", f"{test}::")))
        else:
            inside = any(path.is_relative_to(folder) for folder in FOLDERS) and item.path.is_relative_to(path)
            there = inside and tier_asked(item.config) == FAST and (path == item.path or tier(item) < LONG)
        if there:
            return True
    return False
