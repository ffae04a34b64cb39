"""Who may write to the folder of a run or a search: one process at a time, by kernel locks that die with it."""

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
from trainers.storage.file_locks import Held, Lock

LOCK, DRIVER = ".lock", ".driver"  # held by whoever writes (of a run: its first worker), and by who carries a run out
WRITING = ".writing"  # held for a moment: while something is written, or while a run is taken over


@contextlib.contextmanager
def hold(path: Path, name: str, what: str, patience: float = 0, file: str = LOCK) -> Iterator[None]:
    """Hold the folder of a run or of a search.

    Raises TroupeError (exit code 4) where another process holds it for longer than `patience` seconds.
    """
    try:
        lock = _acquired(path, file, patience)
    except Held:
        raise TroupeError(
            Problem("held", name, f"another process is working on this {what}", "wait for it, or stop it first"),
            CONFLICT,
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path, file: str = LOCK) -> bool:
    """Whether a process holds a folder now. Those who look do not see one another."""
    try:
        descriptor = os.open(path / file, os.O_RDONLY)
    except OSError:  # nobody ever did, or it is nothing of ours
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
    """The one process that writes to a run. It may lose the run to the next group, and can then write no more.

    Each write is made under a lock of its own, after a look at whose the run is; it changes hands under the same one.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.mine = ""  # what the lock's file says, as long as the run is ours

    @contextlib.contextmanager
    def holding(self, patience: float) -> Iterator[None]:
        """Hold the run. Whoever still holds it after `patience` seconds is what its group left behind, cut off or
        stopped, since who carries a run out is alone: the run is taken over."""
        try:
            lock = _acquired(self.path, LOCK, patience)
        except Held:
            with self._turn():
                (self.path / LOCK).unlink(missing_ok=True)
                lock = _acquired(self.path, LOCK, 0)
        try:
            with self._turn():
                self.mine = secrets.token_hex(8)
                (self.path / LOCK).write_text(self.mine, encoding="utf-8")
            yield
        finally:
            self.mine = ""
            lock.release()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Inside, the run is ours and stays so; a write that fails becomes one line (TroupeError, exit code 3).

        Raises TroupeError (exit code 4) where the run has been taken over.
        """
        with self._turn(), checkpoint.writing(self.path):
            if (self.path / LOCK).read_text(encoding="utf-8") != self.mine:
                raise TroupeError(
                    Problem("taken-over", self.name, "another worker group has taken over the run"), CONFLICT
                )
            yield

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        try:
            lock = _acquired(self.path, WRITING, WAITS.write_before)
        except Held:
            reason = f"a process of the previous group has been writing for {WAITS.write_before:.0f} s"
            raise TroupeError(Problem("held", self.name, reason, "end it", resumes=True), CONFLICT) from None
        try:
            yield
        finally:
            lock.release()


def _acquired(path: Path, file: str, patience: float) -> Lock:
    """Raises Held where somebody else holds it, TroupeError (exit code 3) where it cannot be taken."""
    lock = Lock(path / file, patience)
    try:
        lock.acquire()
    except OSError as error:
        raise checkpoint.disk_error(path, error) from None
    return lock
