"""Proof that troupe created something, by a mark that only it writes: nothing else is removed, and nothing else killed.

A folder that is removed later, possibly by another process, is created with a file in it, `MARK`: its purpose, its own
name and inode, its owner, and the process that created it with its start time, under a digest. A folder that was
copied, renamed or created by another program does not match its mark; nor does one whose mark is damaged.

docs/removal.md lists every removal and every kill, each with its proof.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainers.storage import atomic_files

MARK = ".made-by-troupe"


def make(path: Path, what: str, facts: Mapping[str, Any] | None = None) -> Path:
    """Make a folder with its mark, atomically. Raises FileExistsError if the name exists."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path}: exists")
    temporary = path.with_name(f".{secrets.token_hex(8)}.making")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.mkdir()
    try:
        mark(temporary, what, facts, name=path.name)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # just created, under a random name
        raise
    return path


def mark(folder: Path, what: str, facts: Mapping[str, Any] | None = None, name: str = "") -> None:
    """Mark a folder that this process has just made."""
    content = {
        "made by": "troupe",
        "what": what,
        "name": name or folder.name,
        "inode": folder.stat().st_ino,
        "owner": os.geteuid(),
        "process": os.getpid(),
        "started": started(os.getpid()),
        **(facts or {}),
    }
    with open(folder / MARK, "x", encoding="utf-8") as file:
        file.write(atomic_files.sealed(content))
        file.flush()
        os.fsync(file.fileno())


def read_mark(folder: Path, what: str) -> dict[str, Any] | None:
    """The content of a folder's mark; None unless it proves that this user's troupe created it for this purpose."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        itself, file = os.lstat(folder), os.lstat(folder / MARK)
        content: dict[str, Any] = json.loads((folder / MARK).read_text(encoding="utf-8"))
        expected = {
            "made by": "troupe",
            "what": what,
            "name": folder.name,
            "inode": itself.st_ino,
            "owner": os.geteuid(),
        }
        agrees = all(content.get(key) == value for key, value in expected.items())
        owned = itself.st_uid == file.st_uid == os.geteuid()
        if agrees and owned and "digest" in content and atomic_files.is_intact(content):
            return content
    return None


def remove_marked(folder: Path, what: str) -> bool:
    """Remove a folder created for this purpose; returns whether it is gone. Without proof it stays."""
    if read_mark(folder, what) is None:
        return not os.path.lexists(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return not os.path.lexists(folder)


def unmark(folder: Path) -> None:
    """Remove the mark of a folder that stays."""
    (folder / MARK).unlink()


@contextlib.contextmanager
def working_folder(path: Path, what: str) -> Iterator[Path]:
    """A folder with a unique name that starts with that of `path`; it is removed unless renamed inside."""
    temporary = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
    temporary.mkdir(parents=True)
    try:
        mark(temporary, what)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # just created, under a random name
        raise
    try:
        yield temporary
    finally:
        remove_marked(temporary, what)


def remove_stale(folder: Path, pattern: str, what: str, warn: Callable[[str], None] = lambda line: None) -> None:
    """Remove what killed processes left in a folder; what is not proved stays, with a warning."""
    for path in sorted(folder.glob(pattern)):
        if not remove_marked(path, what):
            warn(f"{path}: may not be troupe's and is kept; remove it by hand if it is not needed")


def is_alive(content: Mapping[str, Any]) -> bool:
    """Whether the process that a mark names is still running."""
    return bool(content.get("started")) and started(int(content.get("process", 0))) == content["started"]


def started(process: int) -> str:
    """The start time of a process in kernel ticks, with the boot id; empty if it has ended, or the kernel does not
    report it."""
    with contextlib.suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
        if fields[0] not in "ZX":
            return f"{boot} {fields[19]}"
    return ""


def kill_matching(belongs: Callable[[bytes, bytes], bool]) -> int:
    """Kill this user's processes for which `belongs(environment, command line)` is true, both as bytes from the kernel,
    the environment as at the start of the process; returns how many.

    A process is held by a pidfd while it is checked, so that its number cannot be reused.
    """
    killed = 0
    for name in os.listdir("/proc") if hasattr(os, "pidfd_open") and os.path.isdir("/proc") else ():
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            process = os.pidfd_open(int(name))
            try:
                folder = Path("/proc", name)
                is_own = folder.stat().st_uid == os.geteuid()
                if is_own and belongs((folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    killed += 1
            finally:
                os.close(process)
    return killed
