"""A Ray of our own on this machine: on loopback only, with a token and a folder of its own; it can be begun anew.

Its folder lies among the temporary files and goes with it. Where its owner was killed, the next Ray of our own sweeps
it away, with the processes that were started for it: the folder is known by its mark, a process by the secret of that
mark in the environment that it began with (`storage/ownership.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.backend import auth, ray_internals
from cluster.backend.nodes import last_line
from cluster.host.environment import environment
from cluster.host.ray_environment import job, uv_unseen
from cluster.host.signals import handlers_kept, none_swallowed, signals, unheard
from trainers.base.errors import SURROUNDINGS, NotBegun, TroupeError
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS
from trainers.run_folders.run_locks import LOCK, is_held
from trainers.storage import ownership
from trainers.storage.file_locks import Lock

OBJECT_STORE = 100 << 20  # bytes; nothing large goes through it
PREFIX = "troupe-"
WHAT = "a Ray of our own"  # in the mark of its folder
SECRET = "TROUPE_RAY"  # in the environment of its processes, and in that mark
SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # the longest name of a socket in a folder
LONGEST = 107 if sys.platform == "linux" else 103  # bytes of a socket's whole path
PROCESSES = ("raylet", "gcs_server")  # without which it is dead; we are their parent


def reason_of(error: Exception) -> str:
    """Why Ray did not start, or could not be joined, in a line."""
    if isinstance(error, UnicodeEncodeError):  # it notes the command line of this process
        return "it takes the words of a command in UTF-8 only; rename what this one names, or take workers=1"
    return last_line(error)


def _not_started(reason: str, hint: str = "") -> Problem:
    return Problem("ray-failed", reason=f"Ray did not start: {reason}", hint=hint)


class OwnRay:
    """A Ray of our own, from `begin` to `end`."""

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self.runtime_env: dict[str, object] = {}  # its processes have our environment
        self.folder, self.lock, self.secret = Path(), Lock(Path(os.devnull)), ""
        self.processes: dict[int, str] = {}
        self.files: list[Path] = []  # all that must be there while it lives
        self.inode, self.looked, self.touched, self.gone = 0, 0.0, 0.0, ""

    def begin(self) -> None:
        """Start it, and connect to it. Raises TroupeError (exit code 3) where that cannot be."""
        import ray

        sweep()
        logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of a small /dev/shm, which is all right
        self.folder, self.secret = _new_folder(), secrets.token_hex(32)
        self.inode, self.lock = self.folder.stat().st_ino, Lock(self.folder / LOCK)
        try:
            self.lock.acquire()
            ownership.mark(self.folder, WHAT, {"secret": self.secret})
            auth.write_new(str(self.folder / "token"))
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)  # made a moment ago, under a name that nobody knows
            raise TroupeError(_not_started(f"{self.folder}: {reason_of(error)}"), SURROUNDINGS) from error
        token = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": None,
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            SECRET: self.secret,
            "SPT_NOENV": "1",
        }  # a title that they give themselves would hide the secret
        try:
            with (
                environment(token),
                uv_unseen(),
                unheard(),
                handlers_kept(),
                ray_internals.handlers_refused(),
                none_swallowed(),
            ):
                auth.read_anew()
                ray.init(
                    address="local",
                    num_cpus=self.cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                    object_store_memory=OBJECT_STORE,
                    _temp_dir=str(self.folder),
                    _skip_env_hook=True,
                    job_config=job(),
                )
        except (KeyboardInterrupt, SystemExit):
            self.end()
            raise NotBegun() from None
        except Exception as error:
            self._clear()
            raise TroupeError(_not_started(reason_of(error)), SURROUNDINGS) from error
        except BaseException:
            self._clear()
            raise
        self.processes = {pid: name for pid, name in _children() if name in PROCESSES}
        replaced = ("session_latest",)  # a link that each new worker removes and makes again
        self.files = [path for path in self._there() if "logs" not in path.parent.parts and path.name not in replaced]
        self.looked = self.touched = time.monotonic()

    def died(self) -> str:
        """What of it has died; nothing while all of it lives."""
        for pid, name in self.processes.items():
            with contextlib.suppress(OSError, IndexError):
                if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0] not in "ZX":
                    continue
            return f"the {name} of this machine's Ray died (killed, or out of memory)"
        return ""

    def missing(self) -> str:
        """Which of its files has gone, without which nobody new can join it; nothing while all are there.

        They are touched now and then: cleaners of temporary files take what has not been for days.
        """
        now = time.monotonic()
        if self.files and now - self.looked > WAITS.look_at_files:
            self.looked = now
            self.gone = next((str(path) for path in self.files if not os.path.lexists(path)), "")
            if now - self.touched > WAITS.files_touched:
                self.touched = now
                for path in self._there():
                    with contextlib.suppress(OSError):
                        os.utime(path, follow_symlinks=False)
        return f"{self.gone} has gone, a file of this machine's Ray (something cleans up there)" if self.gone else ""

    def unfit(self) -> str:
        """Why no worker could begin in it."""
        return self.died() or self.missing()

    def end(self) -> None:
        """Disconnect, and end it; what is left of one that died is killed, as it would wait for the rest."""
        with signals(lambda: None):  # what the Ray was for has ended
            try:
                if self.died():
                    _end_processes(self.folder, self.secret)
                ray_internals.disconnect()
            finally:
                self._clear()

    def begin_anew(self) -> None:
        """After its death, or that of a file of its."""
        self.end()
        self.begin()

    def _there(self) -> list[Path]:
        """All that lies in its folder, and the folder."""
        return [self.folder, *self.folder.rglob("*")]

    def _clear(self) -> None:
        """Remove what it has made; a folder that has lost its mark is known by its inode."""
        self.processes, self.files, self.gone = {}, [], ""
        _end_processes(self.folder, self.secret)
        if not ownership.remove(self.folder, WHAT) and self.inode == os.lstat(self.folder).st_ino:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.secret, self.inode = "", 0
        self.lock.release()
        auth.read_anew()  # when the environment is our caller's again


def sweep() -> None:
    """Remove the folders, and end the processes, of those whose owner was killed."""
    for base in _bases():
        with contextlib.suppress(OSError):
            for folder in Path(base).glob(f"{PREFIX}*"):
                told = ownership.read(folder, WHAT)
                if told is not None and not ownership.is_alive(told) and not is_held(folder):
                    _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the folder of a Ray of our own, and end what was started for it, as far as its mark proves it."""
    if (told := ownership.read(folder, WHAT)) is None:
        return
    _end_processes(folder, str(told["secret"]))
    ownership.remove(folder, WHAT)


def _end_processes(folder: Path, secret: str) -> None:
    """Kill what Ray has started for a folder: each process was given the secret, and names the folder or has a name
    that Ray gave it. What such a process starts in turn, and what its owner starts beside it, may have the secret too,
    and is left alone."""
    mark, place = f"{SECRET}={secret}".encode(), os.fsencode(folder)
    until = time.monotonic() + WAITS.end_of_ray

    def belongs(environment: bytes, command: bytes) -> bool:
        return mark in environment.split(b"\0") and (place in command or command.startswith(b"ray::"))

    while secret and ownership.kill_those(belongs) and time.monotonic() < until:
        time.sleep(0.02)


def _bases() -> list[str]:
    """Where its folder may lie: among temporary files, or where names are shorter, as those of sockets are bounded."""
    return [os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "/tmp", "/dev/shm"]


def _new_folder() -> Path:
    """A folder that only this user can enter. Raises TroupeError (exit code 3) where none can be made."""
    if not os.path.isabs(said := os.environ.get("RAY_TMPDIR") or "/"):
        hint = "give it in full, or leave it unset"
        raise TroupeError(Problem("bad-value", "RAY_TMPDIR", "must be an absolute path", hint, said), SURROUNDINGS)
    for base in _bases():
        if len(os.fsencode(base)) + len(f"/{PREFIX}12345678{SOCKET}") <= LONGEST:
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    hint = "set TMPDIR to a short one that can be written"
    raise TroupeError(_not_started(f"no folder for its files in {' or '.join(_bases())}", hint), SURROUNDINGS)


def _children() -> Iterator[tuple[int, str]]:
    """The processes that this one has started, and their names."""
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError, ValueError, IndexError):
            before, _, after = Path(f"/proc/{name}/stat").read_text(encoding="utf-8").rpartition(") ")
            if int(after.split()[1]) == os.getpid():
                yield int(name), before.partition(" (")[2]
