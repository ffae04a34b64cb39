"""Exclusive access to the folder of a run or search, by kernel locks that are released when their process dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from trainers.base.errors import CONFLICT, TroupeError
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS
from trainers.storage import checkpoint
from trainers.storage.file_locks import Lock, LockHeld

LOCK, DRIVER = ".lock", ".driver"  # held by the writer (of a run: its first worker), and by the owner of a run
WRITING = ".writing"  # held briefly: during a write, or while a run is taken over


@contextlib.contextmanager
def hold(path: Path, name: str, what: str, patience: float = 0, file: str = LOCK) -> Iterator[None]:
    """Lock the folder of a run or search.

    Raises TroupeError (exit code 4) if another process holds it for longer than `patience` seconds.
    """
    try:
        lock = _acquired(path, file, patience)
    except LockHeld:
        raise TroupeError(
            Problem("held", name, f"another process is working on this {what}", "wait for it, or stop it first"),
            CONFLICT,
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path, file: str = LOCK) -> bool:
    """Whether a process holds a folder now. Concurrent checks do not affect each other."""
    try:
        descriptor = os.open(path / file, os.O_RDONLY)
    except OSError:  # never held, or not a folder of troupe
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


class Writer:
    """The one process that writes to a run. After losing the run to the next worker group, it cannot write any more.

    Each write holds a separate lock and checks the owner of the run first; a takeover holds the same lock.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.token = ""  # content of the lock file while this process owns the run

    @contextlib.contextmanager
    def holding(self, patience: float) -> Iterator[None]:
        """Hold the run. A process that still holds it after `patience` seconds is a remnant of the previous group, cut
        off or stopped, since a run has only one owner: the run is taken over."""
        try:
            lock = _acquired(self.path, LOCK, patience)
        except LockHeld:
            with self._turn():
                (self.path / LOCK).unlink(missing_ok=True)
                lock = _acquired(self.path, LOCK, 0)
        try:
            with self._turn():
                self.token = secrets.token_hex(8)
                (self.path / LOCK).write_text(self.token, encoding="utf-8")
            yield
        finally:
            self.token = ""
            lock.release()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Inside, this process owns the run; a failed write becomes one line (TroupeError, exit code 3).

        Raises TroupeError (exit code 4) if the run has been taken over.
        """
        with self._turn(), checkpoint.writing_checkpoint(self.path):
            if (self.path / LOCK).read_text(encoding="utf-8") != self.token:
                raise TroupeError(
                    Problem("taken-over", self.name, "another worker group has taken over the run"), CONFLICT
                )
            yield

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        try:
            lock = _acquired(self.path, WRITING, WAITS.write_before)
        except LockHeld:
            reason = f"a process of the previous group has been writing for {WAITS.write_before:.0f} s"
            raise TroupeError(Problem("held", self.name, reason, "end it", resumes=True), CONFLICT) from None
        try:
            yield
        finally:
            lock.release()


def _acquired(path: Path, file: str, patience: float) -> Lock:
    """Raises Held if another process holds it, TroupeError (exit code 3) if it cannot be taken."""
    lock = Lock(path / file, patience)
    try:
        lock.acquire()
    except OSError as error:
        raise checkpoint.disk_error(path, error) from None
    return lock
