"""What all tests share: their tiers (`tiers.py`) and groups (`groups.py`), pools of workers, folders with commands."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiers
import warm
from commands import Commands
from groups import pytest_xdist_make_scheduler
from in_use import InUse
from sentences import Golden, Sentences, name_of
from tiers import pytest_collection_modifyitems, pytest_ignore_collect

if TYPE_CHECKING:
    from cluster.backend.process_pool import LocalGroup

__all__ = ["pytest_collection_modifyitems", "pytest_ignore_collect", "pytest_xdist_make_scheduler"]

IN_USE = pytest.StashKey[InUse]()
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COLUMNS", None)  # it gives each of its processes 80, whatever the terminal has


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes side by side for a whole tier; one where something is named."""
    return 0 if tiers.is_narrowed(config) or config.getoption("--write-sentences") else 2


def pytest_collection(session: pytest.Session) -> None:
    """Here, as this needs torch, and the process that only shares the tests out need not wait for it."""
    from cluster.backend import process_pool

    process_pool.METHOD = "forkserver"
    multiprocessing.set_forkserver_preload(list(warm.FOR_TRAINING))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Training in this process is quick from the first test on."""
    if len(session.items) > 500:
        for name in warm.FOR_TRAINING:
            importlib.import_module(name)
        importlib.import_module("torch").set_num_threads(1)  # beside another process on two cores


@pytest.fixture(scope="session")
def golden_sentences(pytestconfig: pytest.Config) -> Iterator[Golden]:
    golden = Golden(pytestconfig.getoption("--write-sentences"))
    yield golden
    golden.end()


@pytest.fixture
def sentences(request: pytest.FixtureRequest, golden_sentences: Golden, tmp_path: Path) -> Iterator[Sentences]:
    """Compares what people read with what is stored (see `sentences.py`)."""
    name, failed = name_of(request), request.session.testsfailed
    found = golden_sentences.of(name, tmp_path)
    yield found
    if request.session.testsfailed == failed:
        golden_sentences.passed(name, found)


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.stash[IN_USE] = InUse()


def pytest_addoption(parser: pytest.Parser) -> None:
    tiers.add_options(parser)
    parser.addoption("--write-golden", action="store_true", help="store the losses of every family anew")
    parser.addoption("--write-sentences", action="store_true", help="store what people read of problems anew")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    own, others = (resource.getrusage(who).ru_maxrss // 1024
                   for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))  # fmt: skip
    whole = terminalreporter.config.stash[IN_USE].end()
    line = f"memory: at most {whole:.1f} GB more in use here than at the start, {max(own, others)} MB in one process"
    terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def pool() -> Iterator[LocalGroup]:
    """Four gloo processes for the whole test run."""
    from cluster.backend.process_pool import LocalGroup

    with LocalGroup(4) as group:
        yield group


@pytest.fixture
def fresh_pool() -> Iterator[LocalGroup]:
    """Three processes of one's own, for a test that ends or breaks them."""
    from cluster.backend.process_pool import LocalGroup

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
