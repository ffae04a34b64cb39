"""File locks of the kernel, which are released when their holder dies, for processes and threads alike."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import time
from pathlib import Path
from typing import Self

BETWEEN = 0.05  # seconds between two tries
TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN)  # the errors that mean: held by another one
REFUSED = "its file system does not lock files"


class LockHeld(Exception):
    """Another one held the lock during the complete wait."""


class Lock:
    """A lock on a file, which is created if missing. Waiting gives up after `patience` seconds."""

    def __init__(self, path: Path, patience: float = math.inf) -> None:
        self.path, self.patience = path, patience
        self.descriptor: int | None = None

    def acquire(self) -> None:
        """Raises Held if another one holds it for too long, and OSError if the file cannot be opened or its file system
        answers anything else: such a lock can never be taken."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            deadline = time.monotonic() + self.patience
            while not _taken(descriptor, self.path):
                if time.monotonic() >= deadline:
                    raise LockHeld
                time.sleep(BETWEEN)
        except BaseException:
            os.close(descriptor)
            raise
        self.descriptor = descriptor

    def release(self) -> None:
        """Release it, if it is held."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _taken(descriptor: int, path: Path) -> bool:
    """Try to take the lock; returns whether it is held now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            return False
        raise OSError(error.errno, f"{REFUSED}: {error.strerror}", str(path)) from None
    return True
