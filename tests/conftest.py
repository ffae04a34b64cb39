"""`pytest` runs the fast tests; `pytest --all` also those that kill processes, fill disks and start Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Commands

from cluster.local import LocalGroup

SLOW = ("faults", "on_ray")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the slow tests too")
    parser.addoption("--write-golden", action="store_true", help="store the losses of every family anew")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.name in SLOW and collection_path.parent.name == "tests" and not config.getoption("--all"):
        asked = any(part in argument for argument in config.args for part in SLOW)
        return True if not asked else None
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--all"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="session")
def pool() -> Iterator[LocalGroup]:
    """Four gloo processes for the whole test run."""
    with LocalGroup(4) as group:
        yield group


@pytest.fixture
def fresh_pool() -> Iterator[LocalGroup]:
    """Three processes of one's own, for a test that ends or breaks them."""
    with LocalGroup(3) as group:
        yield group


@pytest.fixture
def troupe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Commands in a folder of this test's own."""
    commands = Commands(tmp_path_factory.mktemp("here"))
    yield commands
    commands.clean()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Commands whose runs the tests of a module share: compare with them, never change them."""
    commands = Commands(tmp_path_factory.mktemp("shared"))
    yield commands
    commands.clean()
