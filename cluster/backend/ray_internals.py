"""Uses of private names of Ray, which can change between its versions."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cluster.host.signals import nothing_heard
from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.base.problems import Problem

FORKED = 0x40  # Linux's PF_FORKNOEXEC
STAYS = "gcs_client_io"  # in the name of a thread that outlives Ray's shutdown
used_in = 0  # id of the process that has used Ray


@contextlib.contextmanager
def without_sigterm_handler() -> Iterator[None]:
    """Inside, Ray does not handle SIGTERM: it would end this process even if SIGTERM is ignored."""
    from ray._private import utils

    before = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before


def disconnect() -> None:
    """Disconnect from Ray, which ends the processes that it started for this one: killed, since they ignore other
    signals. Ray removes our handlers with its own; the work on it has ended, so signals are discarded."""
    import ray
    from ray._private import worker

    for started in getattr(worker._global_node, "all_processes", {}).values():
        for one in started:
            one.process.terminate = one.process.kill
    if ray.is_initialized():
        with nothing_heard():
            ray.shutdown()


def reject_forked() -> None:
    """Raise TroupeError (exit code 3) in a process that was forked from one that had used Ray: Ray's threads and
    connections are not in the child, where calls to Ray would wait forever."""
    global used_in
    import ray
    from ray._private.worker import global_worker

    listening = getattr(global_worker, "listener_thread", None)  # of a driver that joined, which may have left since
    stayed = ray.is_initialized() and listening is not None and not listening.is_alive()
    elsewhere = used_in not in (0, os.getpid()) or (used_in == 0 and listening is not None and _has_lost_threads())
    if elsewhere or stayed:
        reason = "this process was forked from one that had used Ray, which cannot be used in both"
        hint = "start it with multiprocessing's spawn, or use workers=1"
        raise TroupeError(Problem("ray-inherited", "workers", reason, hint), ENVIRONMENT)
    used_in = os.getpid()


def _has_lost_threads() -> bool:
    """Whether this process is a fork without the threads that a used Ray leaves in a process when it is shut down.

    Ray's own state is inherited, and does not name the process; so the kernel is asked (Linux).
    """
    with contextlib.suppress(OSError, IndexError, ValueError):
        flags = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[6])
        if flags & FORKED:
            names = [file.read_text(encoding="utf-8") for file in Path("/proc/self/task").glob("*/comm")]
            return not any(name.startswith(STAYS) for name in names)
    return False
