"""The Ray actor: it joins the group of workers and executes its part of the run."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

import ray

from trainers.base.errors import NotStarted, PeerLost, TroupeError, of_worker
from trainers.engine.control import Control
from trainers.run import Plan, run
from trainers.run_folders import bucket
from trainers.run_folders.mirror import retry
from trainers.run_folders.run_folder import RunFolder, start_line
from trainers.storage import checkpoint

INTERFACE = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
GET_ADDRESS = 0x8915  # SIOCGIFADDR of Linux


class Worker:
    """One worker. `train` runs long; `status` and `stop` answer meanwhile, in their own threads.

    Methods import torch, so that the driver, which only refers to this class, does not.
    """

    def __init__(self) -> None:
        self._clear("")
        self.world: Any = None

    def _clear(self, pause_metric: str) -> None:
        """Reset the state of the previous run."""
        self.lines: list[str] = []
        self.rows: list[tuple[int, dict[str, float]]] = []  # rows of metrics, not passed on yet
        self.control = Control(self.lines.append, self._report, on_step_end=self._pause)
        self.pause_metric = pause_metric  # the metric after whose rows the run waits for `release`
        self.row_pending = False  # whether there was such a row since the last pause
        self.paused_at: int | None = None
        self.released = threading.Event()

    def _report(self, step: int, row: Mapping[str, float]) -> None:
        self.rows.append((step, dict(row)))
        self.row_pending = self.row_pending or self.pause_metric in row

    def _pause(self, step: int) -> None:
        if self.row_pending:
            self.row_pending = False
            self.released.clear()
            self.paused_at = step
            self.released.wait()
            self.control.restart_clock()

    def where(self) -> tuple[str, str, int]:
        """Node, address and a free port of this worker."""
        from trainers.distributed.process_group import free_port

        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return ray.get_runtime_context().get_node_id(), address, free_port()

    def train(self, plan: Plan, rank: int, size: int, address: str, port: int, pause_metric: str = "") -> Any:
        """This worker's part of the run: its result, or the error that ended it."""
        from trainers.distributed.process_group import join

        self._clear(pause_metric)
        plan, remote = plan.on_this_machine(), None
        log = RunFolder(plan.folder).log(rank)
        use_ray_interface()
        try:
            remote = retry(lambda: bucket.bucket_of_run(plan.folder), self._raise_if_stopped)
            if remote is not None and rank == 0:
                retry(lambda: remote.fetch(plan.folder, checkpoints=True), self._raise_if_stopped)
            if remote is not None:  # this machine may have no file of it yet
                plan.folder.mkdir(parents=True, exist_ok=True)
                RunFolder(plan.folder).make_parts()
            with checkpoint.writing_checkpoint(log):
                write_to(log)
                print(start_line(rank, size), flush=True)
                if rank == 0:
                    RunFolder(plan.folder).note_start(size)
            self.world = join(address, port, rank, size, str(plan.settings["device"]))
            return run(plan, self.world, self.control)
        except TroupeError as error:
            if not isinstance(error, PeerLost):
                _trace()
            return error
        except Exception as error:
            _trace()
            return of_worker(rank, error, log)
        finally:
            if self.world is not None:
                self.world.leave()
                self.world = None
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            if remote is not None:
                remote.send_file(log)

    def _raise_if_stopped(self) -> None:
        """Called between tries. Raises NotStarted if a stop was requested."""
        self.control.heartbeat()
        if self.control.stop_requested:
            raise NotStarted

    def status(self) -> dict[str, Any]:
        """The state of this worker for the supervisor."""
        lines, self.lines[:] = list(self.lines), []
        rows = [self.rows.pop(0) for _ in range(len(self.rows))]
        control = self.control
        return {
            "microbatches": control.microbatches,
            "idle": time.monotonic() - control.last_heartbeat,
            "slowest": control.slowest,
            "waiting": self.paused_at is not None or (self.world is not None and self.world.waiting),
            "resting": self.paused_at,
            "progress": control.progress,
            "said": lines,
            "rows": rows,
            "process": os.getpid(),
        }

    def release(self, stopping: bool) -> None:
        """Continue a held run; or save and stop it at its step."""
        self.control.stop_requested = self.control.stop_requested or stopping
        self.paused_at = None
        self.released.set()

    def stop(self) -> None:
        """Ask the run to save and stop at the next point at which all workers can."""
        self.control.stop_requested = True


def use_ray_interface() -> None:
    """Make gloo and NCCL use the interface of this node's address in the cluster: if the host name resolves to
    loopback, they would listen only there."""
    if name := interface_of(ray.util.get_node_ip_address()):  # type: ignore[no-untyped-call]
        for variable in INTERFACE:
            os.environ.setdefault(variable, name)


def interface_of(address: str) -> str | None:
    """The network interface that has this IPv4 address, or None."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no such address
                answer = fcntl.ioctl(probe.fileno(), GET_ADDRESS, struct.pack("256s", name[:15].encode()))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


def _trace() -> None:
    """Write the traceback to the log, if it can be written."""
    with contextlib.suppress(OSError, ValueError):
        traceback.print_exc()


def write_to(log: Any) -> None:
    """Redirect all output of this process, C++ included, to a file. Raises OSError if it cannot be opened."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    sys.stdout = open(1, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
