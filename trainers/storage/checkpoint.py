"""Checkpoints: the complete state of a run in a folder that is either verified by its manifest, or absent.

A checkpoint is written under a temporary name, synced, and renamed. Its manifest, written last, holds the size and
SHA-256 of every other file: a folder that does not match its manifest is not a checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from trainers.base.errors import CONFLICT, ENVIRONMENT, Transient, TroupeError
from trainers.base.placeholders import how_to_fetch, placeholder_at
from trainers.base.problems import Problem
from trainers.storage import atomic_files, ownership

T = TypeVar("T")

FORMAT = 1
MANIFEST = "manifest.json"
MAKING = ".making_"
WHAT = "a checkpoint that is being made"  # in the mark of its folder
WEIGHTS = ("state.pt", "weights.safetensors")  # the weights file in a checkpoint, and in an export
NAME = re.compile(r"step_(\d{8,})(?:_(pending)|_phase_(\d+))?$")


def checkpoint_name(step: int, phases_done: int = 0, pending: bool = False) -> str:
    """`step_00000500`; `step_00000500_pending`, if its evaluation and grid are still missing; or, in the middle of the
    next step, `step_00000500_phase_3`."""
    return f"step_{step:08d}" + ("_pending" if pending else f"_phase_{phases_done}" if phases_done else "")


def all_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    paths = [path for path in (folder.iterdir() if folder.is_dir() else ()) if NAME.match(path.name)]
    return sorted(paths, key=lambda path: position_of(path.name))


def position_of(name: str) -> tuple[int, int]:
    """Step and phases done, from the name of a checkpoint; -1 phases if its evaluation is pending. Other names sort
    before all checkpoints."""
    match = NAME.match(name)
    return (int(match[1]), -1 if match[2] else int(match[3] or 0)) if match else (-1, 0)


def newest_intact(folder: Path) -> Path | None:
    """The newest intact checkpoint, or None. Changes nothing; `newest` sets damaged ones aside."""
    return next((path for path in reversed(all_in(folder)) if damage_of(path) is None), None)


def save(folder: Path, name: str, state: Mapping[str, Any], facts: Mapping[str, Any]) -> Path:
    """Write one checkpoint. Raises TroupeError (exit code 3) if the disk is full; nothing incomplete is left."""
    with new_checkpoint(folder, name) as temporary:
        import torch

        path = temporary / "state.pt"
        with open(path, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        files = {"state.pt": {"bytes": path.stat().st_size, "sha256": digest_of_file(path)}}
        atomic_files.write(temporary / MANIFEST, atomic_files.sealed({"format": FORMAT, **facts, "files": files}))
    return folder / name


def clone(path: Path, folder: Path) -> Path:
    """Copy a checkpoint atomically to another run, which continues from it.

    Raises TroupeError (exit code 3) if the disk is full.
    """
    with new_checkpoint(folder, path.name) as temporary:
        shutil.copytree(path, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(ownership.MARK))
        for file in temporary.iterdir():
            atomic_files.sync(file)
    return folder / path.name


@contextlib.contextmanager
def new_checkpoint(folder: Path, name: str) -> Iterator[Path]:
    """The folder to write a checkpoint into; it is renamed at the end. A previous checkpoint of the name is removed,
    anything else is set aside. A failed write becomes one line (TroupeError, exit code 3).
    """
    with contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(ownership.working_folder(folder / f"{MAKING}{name}", WHAT))
            yield temporary
            atomic_files.sync(temporary)
            if not remove_checkpoint(folder / name):
                set_aside(folder / name)
            os.rename(temporary, folder / name)
            ownership.unmark(folder / name)
            atomic_files.sync(folder)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
            raise disk_error(folder, error) from error  # before space is freed


def remove_checkpoint(path: Path) -> bool:
    """Remove a checkpoint; returns whether nothing is left. Only a folder with an unmodified manifest and no file that
    the manifest does not name is removed; everything else stays."""
    if not os.path.lexists(path):
        return True
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        manifest = manifest_of(path)
        expected = {MANIFEST, ownership.MARK, *manifest["files"]}
        if (
            atomic_files.is_intact(manifest)
            and manifest["format"]
            and {*os.listdir(path)} <= expected
            and not path.is_symlink()
        ):
            shutil.rmtree(path, ignore_errors=True)
    return not os.path.lexists(path)


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, or anything else that has the name of a checkpoint."""
    ends = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    names = (path.with_name(f"{path.name}.damaged{end}") for end in ends)
    aside = next(name for name in names if not os.path.lexists(name))
    os.rename(path, aside)
    return aside


def disk_error(path: Path, error: BaseException, prefix: str = "", of_run: bool = True) -> TroupeError:
    """One line (exit code 3) for a failed write; Transient if the disk is full."""
    full = False
    cause: BaseException | None = error
    while cause is not None:  # torch wraps the reason in its own error
        full = full or getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        cause = cause.__cause__ or cause.__context__
    with contextlib.suppress(OSError):  # the path may not exist
        full = full or shutil.disk_usage(path).free < 1 << 20
    if full:
        hint = "free space, or move the run to another disk" if of_run else "free space, or use another folder"
        return Transient(Problem("no-space", f"{prefix}{path}", "no space left", hint, resumes=of_run), ENVIRONMENT)
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    inside = str(getattr(error, "filename", None) or "")
    if inside.startswith(f"{path}/") and ".making" not in inside:  # for example a file in place of a folder
        path = Path(inside)
    return TroupeError(Problem("not-written", f"{prefix}{path}", f"could not be written ({reason})"), ENVIRONMENT)


@contextlib.contextmanager
def writing_checkpoint(path: Path, of_run: bool = True) -> Iterator[None]:
    """Inside, a failed write becomes one line (TroupeError, exit code 3); `of_run`: the write belongs to a run."""
    try:
        yield
    except OSError as error:
        raise disk_error(path, error, of_run=of_run) from error


def read_newest(folder: Path, read: Callable[[Path], T]) -> tuple[Path, T] | None:
    """The newest intact checkpoint, and what `read` returns for it; None if there is none. If its owner prunes it
    meanwhile, the next one is used."""
    while (path := newest_intact(folder)) is not None:
        try:
            return path, read(path)
        except (OSError, TroupeError):
            if damage_of(path) is None:
                raise
    return None


def newest(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest intact checkpoint. Damaged ones are set aside, with a warning; incomplete ones are removed.

    Raises TroupeError (exit code 4), and changes nothing, if all are damaged.
    """
    damaged: dict[Path, str] = {}
    ownership.remove_stale(folder, f"{MAKING}*", WHAT, warn)
    for path in reversed(all_in(folder)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if manifest_of(path)["format"] > FORMAT:
                raise TroupeError(
                    Problem("newer", str(path), "written by a newer troupe", "install it to continue"), ENVIRONMENT
                )
        damage = damage_of(path)
        if damage is None:
            for sick, reason in damaged.items():
                aside = set_aside(sick)
                warn(f"{sick.name}: damaged ({reason}); set aside as {aside.name}, the previous one is used")
            return path
        damaged[path] = damage
    if damaged:
        path, reason = next(iter(damaged.items()))
        fetch = how_to_fetch(placeholder_at(path / "state.pt"))
        raise TroupeError(
            Problem(
                "damaged",
                str(folder),
                f"no checkpoint is intact ({path.name}: {reason})",
                fetch or "restore one from a copy, or start a new run",
            ),
            CONFLICT,
        )
    return None


def damage_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if not atomic_files.is_intact(manifest):
            return "manifest.json was modified"
        for name, facts in {"state.pt": manifest["files"]["state.pt"], **manifest["files"]}.items():
            if (path / name).stat().st_size != facts["bytes"]:
                if instead := placeholder_at(path / name):
                    return f"{name} is a {instead}"
                return f"{name} differs in size from its manifest"
            if digest_of_file(path / name) != facts["sha256"]:
                return f"{name} differs in SHA-256 from its manifest"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"manifest: {type(error).__name__}: {error}"
    return None


def manifest_of(path: Path) -> dict[str, Any]:
    """The manifest of an intact checkpoint."""
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU. Only tensors and plain values are read, never code.

    Raises TroupeError (exit code 4) if it holds anything else.
    """
    import torch

    try:
        state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, LookupError) as error:
        reason, hint = "contains more than tensors and plain values", "it is not loaded: use another one"
        raise TroupeError(Problem("damaged", str(path / "state.pt"), reason, hint), CONFLICT) from error
    return state


def prune(folder: Path, keep: int, best: str | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best one."""
    for path in all_in(folder)[:-keep]:
        if path.name != best:
            remove_checkpoint(path)


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
