"""Checkpoints: the whole state of a run in a folder that is either complete and proved by its manifest, or not there.

A checkpoint is written under another name, made durable, and renamed. Its manifest, written last, holds the size and
SHA-256 of every other file: what does not agree with its manifest is no checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from trainers.engine import durable
from trainers.engine.errors import CONFLICT, SURROUNDINGS, Passing, TroupeError

T = TypeVar("T")

FORMAT = 1
WEIGHTS = ("state.pt", "weights.safetensors")  # the file of them in a checkpoint, and in what `export` wrote
NAME = re.compile(r"step_(\d{8,})(?:_phase_(\d+))?$")


def name_of(step: int, phases_done: int = 0) -> str:
    """`step_00000500`, or `step_00000500_phase_3` in the middle of a step."""
    return f"step_{step:08d}" + (f"_phase_{phases_done}" if phases_done else "")


def all_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [path for path in (folder.iterdir() if folder.is_dir() else ()) if NAME.match(path.name)]
    return sorted(found, key=lambda path: place_of(path.name))


def place_of(name: str) -> tuple[int, int]:
    """Step and phases done, from the name of a checkpoint; before all of them where it is none."""
    match = NAME.match(name)
    return (int(match[1]), int(match[2] or 0)) if match else (-1, 0)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is whole, or None. Changes nothing; `newest` sets damaged ones aside."""
    return next((path for path in reversed(all_in(folder)) if damage_of(path) is None), None)


def save(folder: Path, name: str, state: Mapping[str, Any], facts: Mapping[str, Any]) -> Path:
    """Write one checkpoint. Raises TroupeError (exit code 3) where the disk is full; nothing half-made is left."""
    import torch

    final, making = folder / name, folder / f".making_{name}"
    shutil.rmtree(making, ignore_errors=True)
    try:
        making.mkdir(parents=True)
        with open(making / "state.pt", "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        files = {"state.pt": {"bytes": (making / "state.pt").stat().st_size, "sha256": digest(making / "state.pt")}}
        durable.write(making / "manifest.json", durable.sealed({"format": FORMAT, **facts, "files": files}))
        shutil.rmtree(final, ignore_errors=True)
        os.rename(making, final)
        durable.sync(folder)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        failure = disk_error(folder, error)  # before space is freed
        shutil.rmtree(making, ignore_errors=True)
        raise failure from error
    return final


def clone(path: Path, folder: Path) -> Path:
    """A copy of a checkpoint among those of another run, which goes on from it; it is whole or not there.

    Raises TroupeError (exit code 3) where the disk is full.
    """
    making = folder / f".making_{path.name}"
    shutil.rmtree(making, ignore_errors=True)
    try:
        shutil.copytree(path, making)
        for file in (*making.iterdir(), making):
            durable.sync(file)
        shutil.rmtree(folder / path.name, ignore_errors=True)
        os.rename(making, folder / path.name)
        durable.sync(folder)
    except OSError as error:
        failure = disk_error(folder, error)
        shutil.rmtree(making, ignore_errors=True)
        raise failure from error
    return folder / path.name


def disk_error(path: Path, error: BaseException, whose: str = "", of_run: bool = True) -> TroupeError:
    """One line (exit code 3) for a write that failed; Passing where the disk is full."""
    full = False
    cause: BaseException | None = error
    while cause is not None:  # torch hides the reason behind an error of its own
        full = full or getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        cause = cause.__cause__ or cause.__context__
    with contextlib.suppress(OSError):  # the path may not be there
        full = full or shutil.disk_usage(path).free < 1 << 20
    if full:
        advice = "free some, or move the run to another disk, then go on with --resume"
        told = f"{whose}{path}: no space left; {advice if of_run else 'free some, or take another folder'}"
        return Passing(told, SURROUNDINGS)
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    inside = str(getattr(error, "filename", None) or "")
    if inside.startswith(f"{path}/") and ".making" not in inside:  # a file where a folder should be, say
        path = Path(inside)
    return TroupeError(f"{whose}{path}: could not be written ({reason})", SURROUNDINGS)


@contextlib.contextmanager
def writing(path: Path, of_run: bool = True) -> Iterator[None]:
    """Inside, a write that fails becomes one line (TroupeError, exit code 3): to what is `of_run`, or beside runs."""
    try:
        yield
    except OSError as error:
        raise disk_error(path, error, of_run=of_run) from error


def read_newest(folder: Path, read: Callable[[Path], T]) -> tuple[Path, T] | None:
    """The newest checkpoint that is whole, and what `read` makes of it; None where there is none. Whoever works on the
    run may prune it meanwhile: then it is the next one."""
    while (path := newest_whole(folder)) is not None:
        try:
            return path, read(path)
        except (OSError, TroupeError):
            if damage_of(path) is None:
                raise
    return None


def newest(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole. Damaged ones are set aside, with a warning; half-made ones are removed.

    Raises TroupeError (exit code 4), and changes nothing, where all are damaged.
    """
    damaged: dict[Path, str] = {}
    for leftover in folder.glob(".making_*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for path in reversed(all_in(folder)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if manifest_of(path)["format"] > FORMAT:
                raise TroupeError(f"{path}: written by a newer troupe; install that to go on", SURROUNDINGS)
        damage = damage_of(path)
        if damage is None:
            for sick, reason in damaged.items():
                aside = sick.with_name(sick.name + ".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(sick, aside)
                warn(f"{sick.name}: damaged ({reason}); set aside as {aside.name}, the one before is used")
            return path
        damaged[path] = damage
    if damaged:
        path, reason = next(iter(damaged.items()))
        raise TroupeError(
            f"{folder}: no checkpoint is whole ({path.name}: {reason}); restore one from a copy, or begin a new run",
            CONFLICT,
        )
    return None


def damage_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if not durable.is_whole(manifest):
            return "manifest.json is not as it was written"
        for name, facts in {"state.pt": manifest["files"]["state.pt"], **manifest["files"]}.items():
            if (path / name).stat().st_size != facts["bytes"]:
                return f"{name} has another size than its manifest says"
            if digest(path / name) != facts["sha256"]:
                return f"{name} has another SHA-256 than its manifest says"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"manifest: {type(error).__name__}: {error}"
    return None


def manifest_of(path: Path) -> dict[str, Any]:
    """The manifest of a whole checkpoint."""
    manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU. Only tensors and plain values are read, never code."""
    import torch

    state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    return state


def prune(folder: Path, keep: int, best: str | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best one."""
    for path in all_in(folder)[:-keep]:
        if path.name != best:
            shutil.rmtree(path, ignore_errors=True)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
