"""The folder of a run, which can be moved, copied and read without troupe.

settings.json  metrics.jsonl  events.out.tfevents.*  logs/rank_0.log ...  result.json  verdict.json
starts.jsonl, a row for each start of the workers; restarts.jsonl, a row for each restart
curves.png, and the family's figures of the newest evaluation
grids/step_00000500.png (or .txt)  real.png  timelapse.gif  checkpoints/step_00000500/{state.pt, manifest.json}
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainers.base import old_names, paths
from trainers.base.errors import CONFLICT, ENVIRONMENT, USAGE, TroupeError, did_you_mean
from trainers.base.paths import TRIALS
from trainers.base.problems import Problem
from trainers.run_folders import bucket, creation, sync_state
from trainers.run_folders.run_locks import DRIVER, hold, is_held
from trainers.storage import atomic_files, checkpoint

LONGEST = 100  # characters of a name
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST - 1}}}")
FORMAT = 1
SEARCH = "search.json"  # of a search, whose folder holds one run for each trial, in TRIALS
RECORDED = ("family", "data", "settings", "facts", "from")  # parts of settings.json and of each manifest
SOMETIMES = ("learned_before", "families", "recipe")  # optional parts
MISSING = "it is missing"
STOP_FILE, SAVED = ".stop", "saved"  # requests an active run or search to save and end, which writes SAVED


class RunFolder:
    """The paths of one run. Nothing in the folder refers to a path outside of it, except for its data and custom
    families."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = creation.final_name(path)
        if path.parent.name == TRIALS and os.path.exists(path.parents[1] / SEARCH):
            self.name = f"{path.parents[1].name}/{path.name}"
        self.settings = path / "settings.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.grids = path / "grids"
        self.logs = path / "logs"
        self.real = path / "real.png"
        self.timelapse = path / "timelapse.gif"
        self.curves = path / "curves.png"
        self.result = path / "result.json"
        self.verdict = path / "verdict.json"
        self.stop = path / STOP_FILE
        self.starts = path / "starts.jsonl"
        self.restarts = path / "restarts.jsonl"

    def make_parts(self) -> None:
        """Create the folders inside; some of an old run can be missing."""
        for part in (self.checkpoints, self.grids, self.logs):
            part.mkdir(exist_ok=True)

    def log(self, rank: int) -> Path:
        """The log of a worker's output."""
        return self.logs / f"rank_{rank}.log"

    def read_settings(self, note: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
        """The settings and facts of the run. Raises TroupeError (exit code 4) if they cannot be read.

        Changed settings apply from the first checkpoint under them; until then the previous ones do. A settings.json
        that was modified is used only as far as the newest intact checkpoint agrees: each difference is passed to
        `note`.
        """
        path = self.settings
        stored, damage = _as_written(path)
        if stored is not None and "digest" in stored and not damage:
            return dict(stored["before"]) if self._untried(stored) else stored
        newest = checkpoint.newest_intact(self.checkpoints)
        if newest is None:
            if damage == MISSING:
                reason = "not a run, it has no settings.json"
                raise TroupeError(Problem("not-a-run", str(self.path), reason), CONFLICT)
            if damage:
                reason = f"damaged ({damage}), and there is no checkpoint"
                raise TroupeError(Problem("damaged", str(path), reason, "restore it from a copy"), CONFLICT)
            assert stored is not None
            return stored
        manifest = old_names.current_run(checkpoint.manifest_of(newest))
        counts = {part: manifest[part] for part in (*RECORDED, *SOMETIMES) if part in manifest}
        if stored is None:
            if not counts.keys() >= {*RECORDED}:
                reason, hint = f"damaged ({damage})", "restore it from a copy"
                raise TroupeError(Problem("damaged", str(path), reason, hint), CONFLICT)
            note(f"{path.name}: damaged ({damage}); the settings come from {newest.name}")
            return {**counts, "versions": manifest["versions"]}
        settings = counts.pop("settings", {})
        pairs = [(name, stored["settings"].get(name), value) for name, value in settings.items()]
        pairs += [(part, stored.get(part), value) for part, value in counts.items()]
        for name, written, value in pairs:
            if written != value:
                note(
                    f"{path.name}: says {name}={json.dumps(written)[:60]}, but {newest.name} was made with "
                    f"{json.dumps(value)[:60]}, which is used"
                )
        return {**stored, **counts, "settings": {**stored["settings"], **settings}}

    def write_settings(self, facts: Mapping[str, Any]) -> None:
        atomic_files.write(self.settings, atomic_files.sealed({"format": FORMAT, **facts}))

    def change_settings(self, facts: Mapping[str, Any]) -> None:
        """Write changed settings with the previous ones, for `settle_settings`. The caller holds the lock."""
        newest, before = checkpoint.newest_intact(self.checkpoints), self.read_settings()
        self.write_settings({**facts, "since": newest.name if newest else "", "before": before})

    def resolve_settings_change(self, trained: bool = False) -> None:
        """Drop the previous settings; restore them if no checkpoint was made since, unless the run has `trained` under
        the changed ones on another machine. Requires the lock too."""
        stored, damage = _as_written(self.settings)
        if stored is not None and not damage and "before" in stored:
            settled = stored if trained else self.read_settings()
            self.write_settings({name: part for name, part in settled.items() if name not in ("since", "before")})

    def _untried(self, stored: Mapping[str, Any]) -> bool:
        """Whether settings were changed and no checkpoint was made since."""
        if "before" not in stored:
            return False
        newest = checkpoint.newest_intact(self.checkpoints)
        return newest is None or checkpoint.position_of(newest.name) <= checkpoint.position_of(stored["since"])

    def read_result(self) -> dict[str, Any] | None:
        """The result of a finished run, or None."""
        try:
            result: Any = json.loads(self.result.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(result, dict) or not isinstance(result.get("steps"), int):
            return None
        if isinstance(metrics := result.get("metrics"), dict):
            result["metrics"] = _numbers(metrics)
        return old_names.result(result)

    def note_start(self, workers: int) -> None:
        """Record a start with this many workers; called by rank 0."""
        row = {"time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"), "workers": workers}
        with contextlib.suppress(OSError):  # the run matters more
            _append(self.starts, row)

    def read_starts(self) -> list[float]:
        """The start times of workers, in seconds since 1970; older runs have no record of them."""
        starts = []
        for row in _rows_of(self.starts):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                starts.append(datetime.datetime.fromisoformat(row["time"]).timestamp())
        return starts

    def note_restart(self, kind: str, why: str) -> None:
        """Record a restart from the newest checkpoint: what was lost, and why."""
        with contextlib.suppress(OSError):  # the run matters more
            saved = checkpoint.all_in(self.checkpoints)
            step = checkpoint.position_of(saved[-1].name)[0] if saved else 0
            row = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "step": step, "kind": kind, "why": why}
            _append(self.restarts, row)

    def read_restarts(self) -> list[dict[str, Any]]:
        """The restarts of the workers: time, step and reason."""
        return [row for row in _rows_of(self.restarts) if "why" in row]

    def read_verdict(self) -> dict[str, dict[str, Any]]:
        """The complete best and newest evaluations; empty if there are none, or if the file is damaged."""
        try:
            stored: Any = json.loads(self.verdict.read_text(encoding="utf-8"))
            return {name: old_names.verdict(one) for name, one in stored.items() if isinstance(one["step"], int)}
        except (OSError, ValueError, AttributeError, TypeError, KeyError):
            return {}

    @contextlib.contextmanager
    def lock(self, patience: float = 0) -> Iterator[None]:
        """Hold the run: only one process writes to it; see `hold`."""
        with hold(self.path, self.name, "run", patience):
            yield

    @contextlib.contextmanager
    def driven(self, patience: float = 0) -> Iterator[None]:
        """Own the run, from before its first worker starts until all have ended; see `hold`."""
        with hold(self.path, self.name, "run", patience, DRIVER):
            yield

    @property
    def working(self) -> bool:
        """Whether the run has an owner process or a worker now."""
        return is_held(self.path, DRIVER) or is_held(self.path)

    def read_metrics(self) -> tuple[list[dict[str, Any]], int]:
        """The rows of metrics.jsonl without a killed writer's incomplete last row, and the number of damaged ones."""
        rows, damaged = [], 0
        lines = self.metrics.read_bytes().split(b"\n") if self.metrics.exists() else [b""]
        for line in lines[:-1]:
            try:
                row = json.loads(line)
                int(row["step"])
                rows.append(_numbers(old_names.metrics(row)))
            except (ValueError, KeyError, TypeError):
                damaged += 1
        return rows, damaged

    def truncate_metrics(self, step: int, notify: Callable[[str], None] = lambda line: None) -> None:
        """Drop metrics of steps after `step`: that part of the run is computed again."""
        if not self.metrics.exists():
            return
        rows, damaged = self.read_metrics()
        if damaged:
            notify(
                f"metrics.jsonl: {damaged} of {len(rows) + damaged} rows are damaged; the run continues without them"
            )
        remaining = [atomic_files.finite(row) for row in rows if row["step"] <= step]
        atomic_files.write(self.metrics, "".join(json.dumps(row) + "\n" for row in remaining))

    def size(self) -> int:
        """Bytes on disk; files that vanish meanwhile are not counted."""
        count = 0
        for folder, _, files in os.walk(self.path):
            for name in files:
                with contextlib.suppress(OSError):
                    count += os.stat(os.path.join(folder, name)).st_size
        return count + sync_state.bytes_only_in_bucket(self.path)


def _append(file: Path, row: Mapping[str, Any]) -> None:
    with open(file, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def _rows_of(file: Path) -> list[dict[str, Any]]:
    """The readable rows of a JSON-lines file."""
    rows = []
    with contextlib.suppress(OSError):
        for line in file.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers by name, with null read as NaN, since JSON has no non-finite numbers."""
    return {name: math.nan if value is None else value for name, value in row.items()}


def _as_written(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The content of a settings.json, if it is that of a run, and what is wrong with it, or an empty text."""
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parts = [stored["family"], stored["settings"]["steps"], stored["facts"], stored["versions"]]
        if [type(part) for part in parts] != [str, int, dict, dict]:
            return None, "not a run's settings"
        damage = (
            "" if atomic_files.is_intact(stored) else "not as it was written"
        )  # under the names that it was written with
        return old_names.current_run(stored), damage
    except FileNotFoundError:
        return None, MISSING
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"{type(error).__name__}: {error}"


def start_line(rank: int, size: int) -> str:
    """The first line of a worker in its log."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} worker {rank} of {size}, process {os.getpid()}"


def check_run_name(name: str) -> Problem | None:
    """What is wrong with a run's name, or None."""
    if NAME.fullmatch(name):
        return None
    reason, hint = "a run's name is letters, digits, '.', '_' and '-', and starts with a letter or digit", ""
    if len(name) > LONGEST:
        reason, hint = f"has {len(name)} characters", f"a run's name has {LONGEST} at most"
    return Problem("bad-name", "--name", reason, hint, name)


def create(runs: Path, family: str, name: str | None, fill: Callable[[RunFolder], None]) -> RunFolder:
    """Create a new run's folder atomically: `name`, or the first free of dcgan-1, dcgan-2, ... `fill` writes its
    content.

    Raises TroupeError: exit code 4 if the name is in use, 3 if the folder cannot be written.
    """

    def make(path: Path) -> None:
        folder = RunFolder(path)
        folder.make_parts()
        fill(folder)

    remote = bucket.bucket_for(runs)
    path = creation.create_atomically(runs, family, name, remote.names() if remote is not None else (), make)
    if path is None:
        raise in_use(runs, str(name))
    return RunFolder(path)


def in_use(runs: Path, name: str) -> TroupeError:
    """The error for a name that is in use."""
    hint, remote = "choose another name", bucket.bucket_for(runs)
    for verb, file in (("search", SEARCH), ("train", "settings.json")):
        path = runs / name / file
        if path.exists() or (remote is not None and remote.has(path)):
            hint = f"continue with `troupe {verb} --resume {name}`, or choose another name"
    return TroupeError(Problem("name-in-use", "--name", "in use", hint, name), CONFLICT)


def next_name(runs: Path, family: str) -> str:
    """The default name of a new run or search: the first free of FAMILY-1, FAMILY-2, ..."""
    remote = bucket.bucket_for(runs)
    taken = remote.names() if remote is not None else ()
    names = (f"{family}-{number}" for number in itertools.count(1))
    return next(name for name in names if name not in taken and creation.is_free(runs, name))


def folders_in(runs: Path) -> list[Path]:
    """The entries of a folder of runs, without hidden ones; by name, 2 before 10; empty if it does not exist.

    Raises TroupeError (exit code 3) if it cannot be read.
    """
    try:
        names = [name for name in os.listdir(runs) if not name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise TroupeError(Problem("not-read", "--runs-dir", reason, value=str(runs)), ENVIRONMENT) from None
    return sorted((runs / name for name in names), key=natural_path)


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run: by its settings, or by a checkpoint if these are missing."""
    if os.path.exists(path / "settings.json"):  # Path.exists raises if a name is too long
        return True
    with contextlib.suppress(OSError):
        return any((saved / "manifest.json").exists() for saved in checkpoint.all_in(path / "checkpoints"))
    return False


def find_run(runs: Path, name: str) -> RunFolder:
    """The run of this name, or at this path; `SEARCH/0007` is a trial. Raises TroupeError (exit code 2) if none."""
    search, _, trial = name.rpartition("/")
    for path in (runs / name, Path(name), *((runs / search / TRIALS / trial,) if search else ())):
        if is_run(path):
            return RunFolder(path.resolve())
    search_path = next(
        (path for path in (runs / (search or name), Path(search or name)) if os.path.exists(path / SEARCH)), None
    )
    if search_path is not None:
        names = [folder.name for folder in all_runs(search_path / TRIALS)]
        if not search:
            hint = f"name one of its trials, such as {names[0]}" if names else "it has no trials yet"
            raise TroupeError(Problem("not-a-run", name, "is a search, not a run", hint), USAGE)
    else:
        names = [folder.name for folder in all_runs(runs)]
    raise TroupeError(
        Problem("unknown-run", name, f"no such run in {bucket.display_name(runs)}", did_you_mean(name, names)), USAGE
    )


def find_own(runs: Path, name: str) -> RunFolder:
    """The run of this name in `runs` itself, or at a path to it. Raises TroupeError (exit code 2) otherwise."""
    find_run(runs, name)
    inside = [
        path
        for path in (runs / name, Path(name))
        if path.parent.resolve() == runs.resolve()
        and not path.name.startswith(".")
        and not path.is_symlink()
        and is_run(path)
    ]
    if not inside:
        reason = f"is not in {bucket.display_name(runs)} itself"
        raise TroupeError(Problem("elsewhere", name, reason, "name a run that is"), USAGE)
    folder = RunFolder(inside[0].resolve())
    stored, damage = _as_written(folder.settings)
    if (stored is None or damage) and checkpoint.newest_intact(folder.checkpoints) is None:
        reason = "its settings.json is damaged, or not that of a run"
        raise TroupeError(Problem("not-a-run", name, reason, "remove it by hand"), USAGE)
    return folder


def natural_path(path: Path) -> list[str | int]:
    """Sort key for paths by name, 2 before 10."""
    return paths.natural(path.name)


def all_runs(runs: Path) -> list[RunFolder]:
    """Every run in a folder, by name, 2 before 10; including unreadable ones."""
    return [RunFolder(path) for path in folders_in(runs) if _may_be_run(path)]


def _may_be_run(path: Path) -> bool:
    try:
        os.stat(path / "settings.json")
    except (FileNotFoundError, NotADirectoryError):
        return is_run(path)
    except OSError:
        return True
    return True
