"""Removing a run or search: only what this user's troupe created, and only while it is not running."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from trainers.base import paths
from trainers.base.errors import CONFLICT, TroupeError
from trainers.base.problems import Problem
from trainers.run_folders import bucket, contents
from trainers.run_folders.run_folder import RunFolder

NOT_OURS = "not-ours"  # the code for files that troupe did not create, or of another user


def remove_run(folder: RunFolder) -> int:
    """Remove a run or search that is not running; returns its bytes. Raises TroupeError (exit code 4) if another
    process owns it, if it belongs to another user, or if it holds files that troupe did not create."""
    refuse_foreign(folder.path)
    size = folder.size()
    with folder.driven(patience=1), folder.lock(patience=1):  # another process can be checking the locks
        doomed = folder.path.with_name(f".removed-{folder.name}-{os.getpid()}-{time.time_ns()}")
        if (remote := bucket.bucket_for(folder.path.parent)) is not None:
            remote.remove(folder.path)
        os.rename(folder.path, doomed)
    shutil.rmtree(doomed)
    return size


def discard(path: Path, remote: bucket.Bucket | None) -> bool:
    """Remove a run or search that this process created and that never started, which frees its name; not if foreign
    files were added meanwhile."""
    if contents.foreign(contents.names_in(path)):
        return False
    shutil.rmtree(path, ignore_errors=True)
    if remote is not None:
        remote.remove(path)
    return True


def refuse_foreign(path: Path) -> None:
    """Raise TroupeError (exit code 4) unless this user's troupe created everything in a run or search."""
    if os.stat(path).st_uid != os.geteuid():
        raise TroupeError(Problem(NOT_OURS, path.name, "belongs to another user, who can remove it"), CONFLICT)
    if others := sorted(contents.foreign(contents.names_in(path))):
        listing = ", ".join(paths.printable(name) for name in others[:3]) + (", ..." if len(others) > 3 else "")
        reason, hint = f"contains files not made by troupe ({listing})", "move them away, or remove the folder by hand"
        raise TroupeError(Problem(NOT_OURS, path.name, reason, hint), CONFLICT)
