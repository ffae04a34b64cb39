"""Starts `troupe` without the seconds that its imports take: a server that has imported them forks for each start.

A process that it starts is a real one: a session, signals, streams and an environment of its own, and an exit code.
What is about the first moments of a command, or about variables that are read while something is imported, starts the
installed command instead (`can_start`).
"""

from __future__ import annotations

import array
import contextlib
import json
import math
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
FOR_TRAINING = ("torch", "torch._dynamo", "torch.optim", "trainers.run", "trainers.engine.loop",
                "trainers.drawing.event_file", "trainers.drawing.plots", "trainers.data.sources",
                "trainers.verdict.verdict",
                "trainers.families.dcgan.training", "trainers.families.classifier.training", "safetensors.torch",
                "matplotlib.figure", "matplotlib.backends.backend_agg", "numpy.random", "PIL.Image", "PIL.ImageDraw",
                "PIL.PngImagePlugin", "PIL.GifImagePlugin", "PIL.JpegImagePlugin")  # fmt: skip
IMPORTED = (
    *FOR_TRAINING,
    "ray",
    "cluster.cli.main",
    "cluster.cli.verbs",
    "cluster.training.launch_run",
    "cluster.backend.connection",
    "cluster.backend.worker",
)
READ_LATER = ("TMPDIR", "HOME", "COLUMNS", "LINES", "TERM", "NO_COLOR", "XDG_CACHE_HOME", "AWS_", "TROUPE_RUN_",
              "RAY_AUTH_", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_USAGE_STATS_ENABLED",
              "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_health_check_")  # these two: where a Ray starts  # fmt: skip


def can_start(environment: Mapping[str, str] | None) -> bool:
    """Whether these variables count as well where they are set after the imports."""
    return all(name.startswith(READ_LATER) for name in environment or ())


class Started:
    """A process that the server has started; as far as it goes like `subprocess.Popen`."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.connection, self.pid = connection, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        if (code := self._ended(timeout)) is None:
            raise subprocess.TimeoutExpired("troupe", timeout or 0)
        return code

    def _ended(self, seconds: float | None) -> int | None:
        if self.returncode is None and self._answers(seconds):
            answer = self.connection.recv(16)
            status = int(answer) if answer else 9  # the server has gone, and its processes with it
            self.returncode = os.waitstatus_to_exitcode(status)
            self.connection.close()
        return self.returncode

    def _answers(self, seconds: float | None) -> bool:
        asking = select.poll()  # `select` knows no more than 1,024 files, and these processes have many
        asking.register(self.connection, select.POLLIN)
        return bool(asking.poll(None if seconds is None else math.ceil(1000 * seconds)))


class Server:
    """The server, seen by the tests; it ends with them."""

    def __init__(self) -> None:
        from cluster.host.environment import worker_environment

        self.folder = tempfile.TemporaryDirectory(prefix="warm-")
        self.address = f"{self.folder.name}/socket"
        variables = {**os.environ, **worker_environment(), "PYTHONPATH": str(TESTS.parent)}
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.address, str(os.getpid())], env=variables, stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while not os.path.exists(self.address):
            assert self.process.poll() is None, "the server for starts did not begin"
            assert time.monotonic() < deadline, "the server for starts did not begin"
            time.sleep(0.05)

    def start(
        self, words: tuple[str, ...], folder: Path, environment: Mapping[str, str], streams: tuple[int, int, int],
        terminal: bool, ignoring: int | None,
    ) -> Started:  # fmt: skip
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(self.address)
        told = {"words": words, "folder": str(folder), "environment": dict(environment), "terminal": terminal,
                "ignoring": ignoring}  # fmt: skip
        socket.send_fds(connection, [json.dumps(told).encode() + b"\n"], list(streams))
        return Started(connection, int(connection.recv(16)))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def serve(address: str) -> None:
    """The life of the server: it forks for each connection, and tells each how its process has ended."""
    import importlib

    for name in IMPORTED:
        importlib.import_module(name)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(f"{address}.new")
    listening.listen(64)
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(write)
    os.rename(f"{address}.new", address)
    connections: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listening, read], [], [])
        if listening in ready:
            connection, _ = listening.accept()
            told, streams = asked(connection)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for one in (*connections.values(), connection, listening):
                    one.close()
                os.close(read), os.close(write)
                live(told, streams)
            for stream in streams:
                os.close(stream)
            connections[pid] = connection
            connection.send(b"%-16d" % pid)
        if read in ready:
            os.read(read, 4096)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                connection = connections.pop(ended[0])
                with contextlib.suppress(OSError):
                    connection.send(b"%-16d" % ended[1])
                connection.close()


def asked(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What is to be started, and its three streams."""
    data, streams = b"", array.array("i")
    while not data.endswith(b"\n"):
        part, control, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(3 * 4))
        for _, _, content in control:
            streams.frombytes(content[: len(content) - len(content) % streams.itemsize])
        data += part
    return json.loads(data), list(streams)


def live(told: dict[str, Any], streams: list[int]) -> None:
    """The life of a command in a process that was forked for it."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if told["terminal"]:
        import fcntl
        import termios

        fcntl.ioctl(1, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if told["ignoring"] is not None:
        signal.signal(told["ignoring"], signal.SIG_IGN)
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    sys.argv = sys.orig_argv = list(told["words"])
    for number, name, mode, errors in ((0, "stdin", "r", "strict"), (1, "stdout", "w", "strict"),
                                       (2, "stderr", "w", "backslashreplace")):  # fmt: skip
        lines = 1 if mode == "w" and (number == 2 or os.isatty(number)) else -1
        stream = open(number, mode, lines, "utf-8", errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    tempfile.tempdir = None
    random.seed()
    code = 1
    try:
        from cluster.backend import process_pool
        from cluster.cli.start import main

        process_pool.METHOD = "fork"  # nothing has begun another thread here
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        import atexit

        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    from cluster.backend.process_pool import die_with_parent

    die_with_parent()
    serve(sys.argv[1])
