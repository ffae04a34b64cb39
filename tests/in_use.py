"""The memory that all processes of the tests take together: by how much less the machine has available than before."""

from __future__ import annotations

import contextlib
import re
import threading
from pathlib import Path

LOOK = 1.0  # seconds between looks


def available() -> float:
    """GB that new processes could have (Linux), as the kernel estimates."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024 / 1e9 if found else 0.0


class InUse:
    """Looks once a second until it is told to end. Other work of the machine counts too."""

    def __init__(self) -> None:
        self.most, self.ended = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            before = available()
            while not self.ended.wait(LOOK):
                self.most = max(self.most, before - available())

    def end(self) -> float:
        """GB more in use than at the start, at most."""
        self.ended.set()
        self.thread.join()
        return self.most
