"""A pool of local processes that form a gloo group, without Ray: for `troupe verify` and for tests."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import multiprocessing
import os
import signal
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from typing import Any, Self, cast

from cluster.host.environment import environment, worker_environment
from cluster.host.import_path import ours_first
from cluster.host.ray_environment import no_error_on_warnings, search_path
from cluster.host.signals import ignore_signals, unheard
from trainers.base.errors import ENVIRONMENT, FAILED, PeerLost, TroupeError, shortage_of
from trainers.base.problems import Problem
from trainers.distributed.process_group import World, free_port

METHOD = "spawn"  # how processes start; tests fork them from one that has imported torch already
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}  # workers of one machine communicate there


class LocalGroup:
    """Persistent processes that execute functions one after another, with any number of workers up to their own.

    `setup`, as "module:function", is called once in each process; tests use it to inject faults.
    """

    def __init__(self, workers: int, setup: str = "") -> None:
        self.workers = workers
        self.setup = setup
        self.connections: list[Connection[Any, Any]] = []
        self.processes: list[Any] = []
        self.start()

    def start(self) -> None:
        """Start all processes."""
        context: Any = multiprocessing.get_context(METHOD)
        port = free_port()
        util.get_temp_dir()  # shared with them; removed when this process ends, however they end
        with (
            environment({**worker_environment(), **LOOPBACK, **search_path()}),
            ours_first(),
            no_error_on_warnings(),
            unheard(),
            _no_script(),
            _no_reader(),
        ):
            variables = dict(os.environ)  # a process forked from an older one inherits that one's variables
            for rank in range(self.workers):
                parent_end, child_end = context.Pipe()
                args = (child_end, rank, self.workers, port, self.setup, variables)
                process = context.Process(target=_serve, args=args, daemon=True)
                process.start()
                child_end.close()
                self.connections.append(parent_end)
                self.processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any, workers: int | None = None) -> list[Any]:
        """`function(world, *args)` in the first `workers` processes; their results in rank order.

        Raises the first error of a worker itself; the pool is then ended, and restarts at its next use.
        """
        if not self.processes:
            self.start()
        size = workers or self.workers
        for connection in self.connections[:size]:
            with contextlib.suppress(BrokenPipeError):  # it has ended; its answer says why
                connection.send((function, args, size))
        results: dict[int, Any] = {}
        errors: dict[int, BaseException] = {}
        waiting = dict(zip(self.connections[:size], range(size), strict=True))
        while waiting and not any(not isinstance(error, PeerLost) for error in errors.values()):
            for ready in wait(list(waiting)):
                connection = cast("Connection[Any, Any]", ready)
                rank = waiting.pop(connection)
                try:
                    done, value = connection.recv()
                except (EOFError, ConnectionError):
                    self.processes[rank].join(10)
                    code = self.processes[rank].exitcode
                    problem = Problem("lost", f"worker {rank}", f"its process exited with code {code}")
                    done, value = False, TroupeError(problem, FAILED)
                if done:
                    results[rank] = value
                else:
                    errors[rank] = value
        if errors:
            self.close()
            raise min(errors.values(), key=lambda error: isinstance(error, PeerLost))
        return [results[rank] for rank in range(size)]

    def close(self) -> None:
        """End all processes."""
        for process in self.processes:
            if process.is_alive():
                process.kill()
        for process in self.processes:
            process.join()
        for connection in self.connections:
            connection.close()
        self.processes, self.connections = [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def _no_script() -> Iterator[None]:
    """Inside, spawned processes do not execute our caller's script again: they only need our modules."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


@contextlib.contextmanager
def _no_reader() -> Iterator[None]:
    """Inside, nothing is printed: starting a process first flushes the streams, which fails if their reader has exited
    (`| head`)."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _serve(connection: Connection, rank: int, size: int, port: int, setup: str, variables: Mapping[str, str]) -> None:
    """The main loop of one process of the pool."""
    die_with_parent()
    os.environ.update(variables)
    ignore_signals()  # the parent handles them
    try:
        groups = _joined_groups(rank, size, port, setup)
    except (Exception, SystemExit) as error:
        _answer(connection, (False, _portable(error, rank)))  # to the first task
        os._exit(1)
    while True:
        try:
            task, args, workers = connection.recv()
        except EOFError:
            os._exit(0)
        try:
            answer = (True, task(World(rank, workers, groups[workers]), *args))
        except (Exception, SystemExit) as error:
            answer = (False, _portable(error, rank))
        _answer(connection, answer)


def _joined_groups(rank: int, size: int, port: int, setup: str) -> dict[int, Any]:
    """Join the other processes; returns a group for each number of workers."""
    import torch
    import torch.distributed as dist

    from trainers.distributed.process_group import join

    torch.set_num_threads(1)
    world = join("127.0.0.1", port, rank, size, "cpu")
    groups = {size: world.group, 1: None}
    for smaller in range(2, size):
        groups[smaller] = dist.new_group(list(range(smaller)))
    if setup:
        module, function = setup.split(":")
        getattr(importlib.import_module(module), function)()
    return groups


def _answer(connection: Connection, answer: tuple[bool, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        connection.send(answer)


def _portable(error: BaseException, rank: int) -> BaseException:
    """An error that can be pickled; one that is not a TroupeError keeps its traceback as text."""
    if isinstance(error, TroupeError):
        return error
    if (shortage := shortage_of(error)) is not None:
        return TroupeError(replace(shortage, about=f"worker {rank}"), ENVIRONMENT)
    reason = "".join(traceback.format_exception(error)).strip()
    return TroupeError(Problem("worker-error", f"worker {rank}", reason), FAILED)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
