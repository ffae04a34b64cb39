"""A local Ray on this machine: on loopback only, with its own token and folder; it can be restarted.

Its folder is a temporary folder and is removed with it. If its owner was killed, the next local Ray removes it, with
the processes that were started for it: it recognizes the folder by its mark, and a process by the secret of that mark
in its initial environment (`storage/ownership.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.backend import auth, ray_internals
from cluster.backend.nodes import last_line
from cluster.host.environment import environment
from cluster.host.ray_environment import job, uv_unseen
from cluster.host.signals import none_swallowed, restored_handlers, signals, unheard
from trainers.base.errors import ENVIRONMENT, NotStarted, TroupeError
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS
from trainers.run_folders.run_locks import LOCK, is_held
from trainers.storage import ownership
from trainers.storage.file_locks import Lock

OBJECT_STORE = 100 << 20  # bytes; nothing large goes through it
PREFIX = "troupe-"
WHAT = "a Ray of our own"  # in the mark of its folder
SECRET = "TROUPE_RAY"  # in the environment of its processes, and in that mark
SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # the longest socket path in its folder
LONGEST = 107 if sys.platform == "linux" else 103  # bytes of a socket's complete path
THREADS = 128  # fewer than Ray needs, in all of its processes, before the first worker
PROCESSES = ("raylet", "gcs_server")  # Ray is dead without these; they are our children


def reason_of(error: Exception) -> str:
    """Why Ray did not start, or could not be joined, in one line."""
    if isinstance(error, UnicodeEncodeError):  # it records the command line of this process
        return "it needs the arguments of a command in UTF-8; rename the files in them, or use workers=1"
    return last_line(error)


def _not_started(reason: str, hint: str = "") -> Problem:
    return Problem("ray-failed", reason=f"Ray did not start: {reason}", hint=hint)


class LocalRay:
    """A local Ray, from `start` to `end`."""

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self.runtime_env: dict[str, object] = {}  # its processes have our environment
        self.folder, self.lock, self.secret = Path(), Lock(Path(os.devnull)), ""
        self.processes: dict[int, str] = {}
        self.files: list[Path] = []  # files that must exist while it lives
        self.sessions: list[str] = []  # names that Ray has made of the time and the id of this process
        self.inode, self.checked_at, self.touched, self.missing_file = 0, 0.0, 0.0, ""

    def start(self) -> None:
        """Start it, and connect to it. Raises TroupeError (exit code 3) if that fails."""
        import ray

        cleanup_stale()
        logging.getLogger("ray").setLevel(logging.ERROR)  # it warns about a small /dev/shm, which is fine
        _check_threads()
        self.folder, self.secret = _new_folder(), secrets.token_hex(32)
        self.inode, self.lock = self.folder.stat().st_ino, Lock(self.folder / LOCK)
        try:
            self.lock.acquire()
            ownership.mark(self.folder, WHAT, {"secret": self.secret})
            auth.write_new(str(self.folder / "token"))
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)  # just created, under a random name
            raise TroupeError(_not_started(f"{self.folder}: {reason_of(error)}"), ENVIRONMENT) from error
        token = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": None,
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            SECRET: self.secret,
            "SPT_NOENV": "1",
        }  # SPT_NOENV: else setting process titles would hide the secret
        try:
            with (
                environment(token),
                uv_unseen(),
                unheard(),
                restored_handlers(),
                ray_internals.without_sigterm_handler(),
                none_swallowed(),
            ):
                auth.reload_token_settings()
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
            raise NotStarted() from None
        except Exception as error:
            self._clear()
            raise TroupeError(_not_started(reason_of(error)), ENVIRONMENT) from error
        except BaseException:
            self._clear()
            raise
        self._note_parts()

    def _note_parts(self) -> None:
        """Record its processes and files, to notice when one of them is gone."""
        self.processes = {pid: name for pid, name in _children() if name in PROCESSES}
        replaced = ("session_latest",)  # a link that each new worker removes and creates again
        self.files = [
            path for path in self._contents() if "logs" not in path.parent.parts and path.name not in replaced
        ]
        self.sessions = [path.name for path in self.folder.glob(f"session_*_{os.getpid()}")]
        self.checked_at = self.touched = time.monotonic()

    def died(self) -> str:
        """Which part of it died; empty while all of it lives."""
        for pid, name in self.processes.items():
            with contextlib.suppress(OSError, IndexError):
                if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0] not in "ZX":
                    continue
            return f"the {name} of the local Ray died (killed, or out of memory)"
        return ""

    def missing(self) -> str:
        """Which of its files is missing, without which no process can join it; empty while all exist.

        They are touched from time to time: cleanup services remove temporary files that were not used for days.
        """
        now = time.monotonic()
        if self.files and now - self.checked_at > WAITS.poll_files:
            self.checked_at = now
            self.missing_file = next((str(path) for path in self.files if not os.path.lexists(path)), "")
            if now - self.touched > WAITS.files_touched:
                self.touched = now
                for path in self._contents():
                    with contextlib.suppress(OSError):
                        os.utime(path, follow_symlinks=False)
        if not self.missing_file:
            return ""
        return f"{self.missing_file} was deleted, a file of the local Ray (by a cleanup service?)"

    def unusable(self) -> str:
        """Why no worker could start in it."""
        return self.died() or self.missing()

    def end(self) -> None:
        """Disconnect, and end it; the rest of a dead one is killed, since it would wait for the dead part."""
        with signals(lambda: None):  # its purpose has ended
            try:
                if self.died():
                    _end_processes(self.folder, self.secret)
                ray_internals.disconnect()
            finally:
                self._clear()

    def restart(self) -> None:
        """Restart it, after it died or a file of it was deleted."""
        self.end()
        self.start()

    def _contents(self) -> list[Path]:
        """Its folder, and everything in it."""
        return [self.folder, *self.folder.rglob("*")]

    def _clear(self) -> None:
        """Remove what it created, after its processes have ended."""
        self.processes, self.files, self.missing_file = {}, [], ""
        _end_processes(self.folder, self.secret)
        if not ownership.remove_marked(self.folder, WHAT):
            with contextlib.suppress(OSError):
                self._remove_unmarked()
        self.sessions = []
        self.secret, self.inode = "", 0
        self.lock.release()
        auth.reload_token_settings()  # after the environment of our caller is restored

    def _remove_unmarked(self) -> None:
        """Remove its folder without the mark, which is recognized by its inode; or, if the folder was deleted, the
        session's folder that Ray makes again while it ends."""
        there = os.lstat(self.folder)
        if self.inode == there.st_ino:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif there.st_uid == os.geteuid() and stat.S_ISDIR(there.st_mode):
            for name in self.sessions:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            os.rmdir(self.folder)


def _check_threads() -> None:
    """Raise TroupeError (exit code 3) if Ray would lack threads: its core then aborts this process."""
    started: list[threading.Thread] = []
    ended = threading.Event()
    try:
        for _ in range(THREADS):
            started.append(threading.Thread(target=ended.wait, daemon=True))
            started[-1].start()
    except RuntimeError:
        reason = f"it needs more than {THREADS} processes and threads, and only {len(started) - 1} can be started here"
        hint = "end other processes, or raise the limit (`ulimit -u`, `ulimit -v`, or that of the container)"
        raise TroupeError(_not_started(reason, hint), ENVIRONMENT) from None
    finally:
        ended.set()
        for thread in started:
            if thread.ident is not None:
                thread.join()


def cleanup_stale() -> None:
    """Remove the folders, and end the processes, of local Rays whose owner was killed."""
    for base in _bases():
        with contextlib.suppress(OSError):
            for folder in Path(base).glob(f"{PREFIX}*"):
                mark = ownership.read_mark(folder, WHAT)
                if mark is not None and not ownership.is_alive(mark) and not is_held(folder):
                    _end_processes(folder, str(mark["secret"]))
                    ownership.remove_marked(folder, WHAT)


def _end_processes(folder: Path, secret: str) -> None:
    """Kill the processes that Ray started for a folder: each has the secret in its environment, and the folder or a
    name set by Ray in its command line. Children of these, and other processes of the owner, can have the secret too,
    and are left alone."""
    mark, path = f"{SECRET}={secret}".encode(), os.fsencode(folder)
    until = time.monotonic() + WAITS.end_of_ray

    def belongs(environment: bytes, command: bytes) -> bool:
        return mark in environment.split(b"\0") and (path in command or command.startswith(b"ray::"))

    while secret and ownership.kill_matching(belongs) and time.monotonic() < until:
        time.sleep(0.02)


def _bases() -> list[str]:
    """Parents for its folder: the temporary folder, or shorter paths, since paths of sockets are limited."""
    return [os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "/tmp", "/dev/shm"]


def _new_folder() -> Path:
    """A folder that only this user can enter. Raises TroupeError (exit code 3) if none can be created."""
    if not os.path.isabs(parent := os.environ.get("RAY_TMPDIR") or "/"):
        hint = "change it, or unset it"
        raise TroupeError(Problem("bad-value", "RAY_TMPDIR", "must be an absolute path", hint, parent), ENVIRONMENT)
    for base in _bases():
        if len(os.fsencode(base)) + len(f"/{PREFIX}12345678{SOCKET}") <= LONGEST:
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    hint = "set TMPDIR to a short, writable path"
    raise TroupeError(_not_started(f"no folder for its files in {' or '.join(_bases())}", hint), ENVIRONMENT)


def _children() -> Iterator[tuple[int, str]]:
    """The child processes of this one, and their names."""
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError, ValueError, IndexError):
            before, _, after = Path(f"/proc/{name}/stat").read_text(encoding="utf-8").rpartition(") ")
            if int(after.split()[1]) == os.getpid():
                yield int(name), before.partition(" (")[2]
