"""What the files of a run were when its bucket and this machine's disk were last the same: `.mirror.json`.

A run, a search and each of its trials have one of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from trainers.base.paths import TRIALS
from trainers.storage import atomic_files

STATE = ".mirror.json"


class Synced:
    """What the files of a run were, here and there, when both were last the same."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, list[int]] = {}
        self.sizes: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads((path / STATE).read_text(encoding="utf-8"))
            self.known, self.sizes = dict(told["known"]), dict(told["sizes"])

    def write(self) -> None:
        with contextlib.suppress(OSError):
            atomic_files.write(self.path / STATE, json.dumps({"known": self.known, "sizes": self.sizes}) + "\n")

    def changed(self, name: str) -> bool:
        """Whether a file here is another one than then."""
        try:
            facts = os.stat(self.path / name)
        except OSError:
            return False
        return self.known.get(name, [])[:2] != [facts.st_size, facts.st_mtime_ns]

    def wants(self, name: str, there: tuple[int, int], behind: bool) -> bool:
        """Whether the file there should replace the one here: it is newer, and the one here holds nothing new; or the
        run there is further (`behind`)."""
        known = self.known.get(name)
        if not (self.path / name).exists():
            return known is None or known[2:] != list(there)  # else it was removed here
        if known is None:  # never compared: what was written last counts
            facts = os.stat(self.path / name)
            return behind or (facts.st_size != there[0] and facts.st_mtime_ns < there[1])
        return known[2:] != list(there) and (behind or not self.changed(name))

    def forget(self, beginning: str) -> None:
        for name in [name for name in self.known if name.startswith(beginning)]:
            del self.known[name]

    def same(self, name: str, there: tuple[int, int]) -> None:
        facts = os.stat(self.path / name)
        self.known[name] = [facts.st_size, facts.st_mtime_ns, *there]


def bytes_elsewhere(path: Path) -> int:
    """Bytes of the files of a run, or of a search with its trials, that lie in their bucket only."""
    count, trials = 0, list[Path]()
    with contextlib.suppress(OSError):
        trials += (path / TRIALS).iterdir()
    for inside in (path, *trials):
        count += sum(size for name, size in Synced(inside).sizes.items() if not os.path.exists(inside / name))
    return count


def bytes_of(path: Path) -> int:
    """Bytes of a search, those that lie in its bucket only too."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) + bytes_elsewhere(path)
