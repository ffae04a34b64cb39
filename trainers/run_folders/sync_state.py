"""The state of a run's files when its bucket and the local disk were last in sync: `.mirror.json`.

A run, a search and each of its trials have their own.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from trainers.base.paths import TRIALS
from trainers.storage import atomic_files

STATE = ".mirror.json"


class SyncState:
    """The state of a run's files, locally and in the bucket, when both were last in sync."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, list[int]] = {}
        self.sizes: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads((path / STATE).read_text(encoding="utf-8"))
            self.known, self.sizes = dict(stored["known"]), dict(stored["sizes"])

    def write(self) -> None:
        with contextlib.suppress(OSError):
            atomic_files.write(self.path / STATE, json.dumps({"known": self.known, "sizes": self.sizes}) + "\n")

    def changed(self, name: str) -> bool:
        """Whether a local file has changed since."""
        try:
            facts = os.stat(self.path / name)
        except OSError:
            return False
        return self.known.get(name, [])[:2] != [facts.st_size, facts.st_mtime_ns]

    def should_fetch(self, name: str, remote: tuple[int, int], behind: bool) -> bool:
        """Whether the file in the bucket should replace the local one: it is newer and the local one is unchanged, or
        the run in the bucket is further (`behind`)."""
        last_sync = self.known.get(name)
        if not (self.path / name).exists():
            return last_sync is None or last_sync[2:] != list(remote)  # else it was removed locally
        if last_sync is None:  # never compared: the newer one is used
            facts = os.stat(self.path / name)
            return behind or (facts.st_size != remote[0] and facts.st_mtime_ns < remote[1])
        return last_sync[2:] != list(remote) and (behind or not self.changed(name))

    def forget(self, beginning: str) -> None:
        for name in [name for name in self.known if name.startswith(beginning)]:
            del self.known[name]

    def same(self, name: str, remote: tuple[int, int]) -> None:
        facts = os.stat(self.path / name)
        self.known[name] = [facts.st_size, facts.st_mtime_ns, *remote]


def bytes_only_in_bucket(path: Path) -> int:
    """Bytes of the files of a run, or of a search with its trials, that are only in the bucket."""
    count, trials = 0, list[Path]()
    with contextlib.suppress(OSError):
        trials += (path / TRIALS).iterdir()
    for inside in (path, *trials):
        count += sum(size for name, size in SyncState(inside).sizes.items() if not os.path.exists(inside / name))
    return count


def bytes_of(path: Path) -> int:
    """Bytes of a search, including files that are only in its bucket."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) + bytes_only_in_bucket(path)
