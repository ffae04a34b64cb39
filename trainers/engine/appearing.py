"""Folders of runs and searches that appear whole, under their names, or not at all.

One is made as `.making-NAME`, which is also what keeps its name for it, and renamed. What its maker, killed, has left
behind is cleared away by the next one who wants the name.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from trainers.engine import checkpoint, durable
from trainers.engine.errors import naming
from trainers.engine.holding import DRIVER, LOCK, WRITING, hold, is_held

MAKING = ".making-"
EMPTY = ("checkpoints", "grids", "logs", "trials")  # what one that never began may have
LOCKS = (DRIVER, LOCK, WRITING)


def name_of(path: Path) -> str:
    """The name of a run or a search, also while its folder is made."""
    return path.name.removeprefix(MAKING)


def appear(
    runs: Path, family: str, name: str | None, taken: Collection[str], fill: Callable[[Path], None]
) -> Path | None:
    """Make a folder called `name`, or the first free of FAMILY-1, FAMILY-2, ...; `fill` writes what it holds.

    None where `name` is in use. Raises TroupeError (exit code 3) where it cannot be written; nothing is left then.
    """
    with _reported(runs):
        runs.mkdir(parents=True, exist_ok=True)
    for wanted in [name] if name else (f"{family}-{number}" for number in itertools.count(1)):
        with contextlib.ExitStack() as held:
            with _reported(runs), _turn(runs):
                making = None if wanted in taken else _reserved(runs, wanted)
                if making is None:
                    continue
                held.enter_context(hold(making, wanted, "folder", file=DRIVER))
            try:
                with _reported(runs):
                    fill(making)
                    durable.sync(making)
                    os.rename(making, runs / wanted)
                    durable.sync(runs)
            except BaseException:
                shutil.rmtree(making, ignore_errors=True)
                raise
            return runs / wanted
    return None


@contextlib.contextmanager
def _reported(runs: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise naming(checkpoint.disk_error(runs, error, "--runs-dir "), "", kept=False) from error


@contextlib.contextmanager
def _turn(runs: Path) -> Iterator[None]:
    """Names are taken by one process after the other, where folders can be locked."""
    descriptor = os.open(runs, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network disks lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _reserved(runs: Path, name: str) -> Path | None:
    """The folder in which something is made that will have this name; None where the name is in use."""
    making, there = runs / f"{MAKING}{name}", runs / name
    if os.path.lexists(making):
        if is_held(making, DRIVER):
            return None
        shutil.rmtree(making, ignore_errors=True)  # its maker may have renamed it just now
    if is_taken(there):
        return None
    if there.is_dir():
        shutil.rmtree(there)
    making.mkdir()
    return making


def is_free(runs: Path, name: str) -> bool:
    """Whether something new could have this name now."""
    making = runs / f"{MAKING}{name}"
    return not is_taken(runs / name) and not (os.path.lexists(making) and is_held(making, DRIVER))


def is_taken(path: Path) -> bool:
    """Whether there is something of this name; not, where it holds nothing but what a run has that never began."""
    if path.is_symlink() or not path.is_dir():
        return os.path.lexists(path)
    inside = list(path.iterdir())
    unknown = any(part.name not in (*EMPTY, *LOCKS) or (part.is_dir() and any(part.iterdir())) for part in inside)
    return unknown or not inside or any(is_held(path, lock) for lock in LOCKS)
