"""Atomic creation of the folders of runs and searches.

A folder is created as `.making-NAME`, which also reserves the name, and then renamed. What a killed process left behind
is removed when the name is next used, if its mark proves that troupe created it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from trainers.base.errors import with_run_name
from trainers.run_folders.run_locks import DRIVER, hold, is_held
from trainers.storage import atomic_files, checkpoint, ownership

MAKING = ".making-"
WHAT = "a run or a search that is being made"  # in the mark of its folder


def final_name(path: Path) -> str:
    """The name of a run or search, also while its folder is being created."""
    return path.name.removeprefix(MAKING)


def create_atomically(
    runs: Path, family: str, name: str | None, taken: Collection[str], fill: Callable[[Path], None]
) -> Path | None:
    """Create a folder called `name`, or the first free of FAMILY-1, FAMILY-2, ...; `fill` writes its content.

    None if `name` is in use. Raises TroupeError (exit code 3) if it cannot be written; nothing is left then.
    """
    with _reported(runs):
        runs.mkdir(parents=True, exist_ok=True)
    for candidate in [name] if name else (f"{family}-{number}" for number in itertools.count(1)):
        with contextlib.ExitStack() as stack:
            with _reported(runs), _turn(runs):
                temporary = None if candidate in taken else _reserved(runs, candidate)
                if temporary is None:
                    continue
                stack.enter_context(hold(temporary, candidate, "folder", file=DRIVER))
            try:
                with _reported(runs):
                    fill(temporary)
                    atomic_files.sync(temporary)
                    with _turn(runs):
                        if is_taken(runs / candidate):  # by a process that does not use this lock
                            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(runs / candidate))
                        os.rename(temporary, runs / candidate)
                    ownership.unmark(runs / candidate)
                    atomic_files.sync(runs)
            except BaseException:
                ownership.remove_marked(temporary, WHAT)
                raise
            return runs / candidate
    return None


@contextlib.contextmanager
def _reported(runs: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise with_run_name(checkpoint.disk_error(runs, error, "--runs-dir "), "", kept=False) from error


@contextlib.contextmanager
def _turn(runs: Path) -> Iterator[None]:
    """Serialize the choice of names between processes, if folders can be locked."""
    descriptor = os.open(runs, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network disks do not support locks on folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _reserved(runs: Path, name: str) -> Path | None:
    """The temporary folder that reserves this name; None if the name is in use."""
    temporary = runs / f"{MAKING}{name}"
    if is_taken(runs / name) or is_held(temporary, DRIVER) or not ownership.remove_marked(temporary, WHAT):
        return None
    return ownership.make(temporary, WHAT)


def is_free(runs: Path, name: str) -> bool:
    """Whether the name is free for a new run or search."""
    temporary = runs / f"{MAKING}{name}"
    left_behind = ownership.read_mark(temporary, WHAT) is not None and not is_held(temporary, DRIVER)
    return not is_taken(runs / name) and (left_behind or not os.path.lexists(temporary))


def is_taken(path: Path) -> bool:
    """Whether the path exists, even as a broken link."""
    return os.path.lexists(path)
