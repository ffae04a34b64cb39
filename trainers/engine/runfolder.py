"""What a run leaves behind: one folder, that can be moved, copied and read without troupe.

settings.json  metrics.jsonl  events.out.tfevents.*  logs/rank_0.log ...  result.json
curves.png  confusion.png  mistakes.png
grids/step_00000500.png  real.png  timelapse.gif  checkpoints/step_00000500/{state.pt, manifest.json}
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from trainers.engine import checkpoint
from trainers.engine.errors import CONFLICT, SURROUNDINGS, WORDS, TroupeError, did_you_mean

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
FORMAT = 1
PICTURES = ("curves", "confusion", "mistakes")  # of evaluations


class RunFolder:
    """The paths of one run. Nothing in the folder holds a path outside of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.settings = path / "settings.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.grids = path / "grids"
        self.logs = path / "logs"
        self.real = path / "real.png"
        self.timelapse = path / "timelapse.gif"
        self.curves, self.confusion, self.mistakes = (path / f"{name}.png" for name in PICTURES)
        self.result = path / "result.json"

    def make_parts(self) -> None:
        """The folders inside; somebody may have removed some of an old run."""
        for part in (self.checkpoints, self.grids, self.logs):
            part.mkdir(exist_ok=True)

    def log(self, rank: int) -> Path:
        """What a worker prints."""
        return self.logs / f"rank_{rank}.log"

    def read_settings(self) -> dict[str, Any]:
        """What the run is. Raises TroupeError (exit code 4) where the file is missing or damaged."""
        try:
            stored: dict[str, Any] = json.loads(self.settings.read_text())
            if not isinstance(stored["settings"], dict) or not isinstance(stored["family"], str):
                raise TypeError("not a run's settings")
            return stored
        except FileNotFoundError:
            raise TroupeError(f"{self.path}: not a run, it has no settings.json", CONFLICT) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TroupeError(f"{self.settings}: damaged ({error}); restore it from a copy", CONFLICT) from None

    def write_settings(self, facts: Mapping[str, Any]) -> None:
        checkpoint.write_durably(self.settings, json.dumps({"format": FORMAT, **facts}, indent=1) + "\n")

    def read_result(self) -> dict[str, Any] | None:
        """The result of a finished run, or None."""
        try:
            result: Any = json.loads(self.result.read_text())
        except (OSError, ValueError):
            return None
        return result if isinstance(result, dict) and isinstance(result.get("steps"), int) else None

    @contextlib.contextmanager
    def lock(self, patience: float = 0) -> Iterator[None]:
        """Hold the run: only one process writes to it. A kernel lock, that dies with its process.

        Raises TroupeError (exit code 4) where another process holds it for longer than `patience` seconds.
        """
        lock = filelock.FileLock(self.path / ".lock", timeout=patience)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise TroupeError(
                f"{self.name}: another process is working on this run; wait for it, or stop it first", CONFLICT
            ) from None
        except OSError as error:
            raise TroupeError(checkpoint.disk_mistake(self.path, error), SURROUNDINGS) from None
        try:
            yield
        finally:
            lock.release()

    def forget_after(self, step: int) -> None:
        """Drop metrics of steps after `step`: they belong to a part of the run that is done anew."""
        if not self.metrics.exists():
            return
        rows = []
        for line in self.metrics.read_text().splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a killed writer may leave half a line
                if json.loads(line)["step"] <= step:
                    rows.append(line + "\n")
        checkpoint.write_durably(self.metrics, "".join(rows))

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())


def begun(rank: int, size: int) -> str:
    """The first line of a worker in its log."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} worker {rank} of {size}, process {os.getpid()}"


def check_name(name: str) -> str | None:
    """What is wrong with a run's name, or None."""
    if NAME.fullmatch(name):
        return None
    return f"--name {name}: a run's name is letters, digits, '.', '_' and '-', and begins with a letter or digit"


def create(runs: Path, family: str, name: str | None) -> RunFolder:
    """Make a new run's folder: `name`, or the first free of dcgan-1, dcgan-2, ...

    Raises TroupeError: exit code 4 where the name is in use, 3 where the folder cannot be written.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        number = 0
        while True:
            number += 1
            path = runs / (name or f"{family}-{number}")
            try:
                path.mkdir()
                break
            except FileExistsError:
                if name:
                    raise TroupeError(
                        f"--name {name}: in use; go on with `troupe train --resume {name}`, or take another name",
                        CONFLICT,
                    ) from None
    except OSError as error:
        raise TroupeError(f"--runs-dir {runs}: cannot be written ({error.strerror})", SURROUNDINGS) from None
    folder = RunFolder(path)
    folder.make_parts()
    return folder


def find(runs: Path, name: str) -> RunFolder:
    """The run of this name, or at this path. Raises TroupeError (exit code 2) where there is none."""
    for path in (runs / name, Path(name)):
        if os.path.exists(path / "settings.json"):  # Path.exists raises where a name is too long
            return RunFolder(path.resolve())
    known = [folder.name for folder in all_runs(runs)]
    raise TroupeError(f"{name}: no such run in {runs}{did_you_mean(name, known)}", WORDS)


def all_runs(runs: Path) -> list[RunFolder]:
    """Every run in a folder, by name; 2 before 10."""

    def natural(path: Path) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]

    found = [path.parent for path in runs.glob("[!.]*/settings.json")] if runs.is_dir() else []
    return [RunFolder(path) for path in sorted(found, key=natural)]


def remove(folder: RunFolder) -> int:
    """Remove a run that nobody is working on; returns its bytes."""
    size = folder.size()
    with folder.lock():
        doomed = folder.path.with_name(f".removed-{folder.name}-{os.getpid()}")
        os.rename(folder.path, doomed)
    shutil.rmtree(doomed)
    return size
