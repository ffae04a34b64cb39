"""What no public name of Ray does; another version of it may have others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from cluster.host.signals import nothing_heard
from trainers.base.errors import SURROUNDINGS, TroupeError
from trainers.base.problems import Problem

used_in = 0  # the process that has used Ray


@contextlib.contextmanager
def handlers_refused() -> Iterator[None]:
    """Inside, Ray does not hear SIGTERM itself: it would also where that is to be ignored, and end this process."""
    from ray._private import utils

    before = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before


def disconnect() -> None:
    """Leave Ray, which ends what it has started for this process: killed at once, as it does not hear what else it is
    sent. Ray takes our handlers away with its own, and what the Ray was for has ended: nobody is interrupted."""
    import ray
    from ray._private import worker

    for started in getattr(worker._global_node, "all_processes", {}).values():
        for one in started:
            one.process.terminate = one.process.kill
    if ray.is_initialized():
        with nothing_heard():
            ray.shutdown()


def refuse_inherited() -> None:
    """Raise TroupeError (exit code 3) in a process that was forked from one that had used Ray: its threads and its
    connections have stayed there, and whoever asked it here would wait for ever."""
    global used_in
    import ray
    from ray._private.worker import global_worker

    listening = getattr(global_worker, "listener_thread", None)  # of those who joined
    stayed = ray.is_initialized() and listening is not None and not listening.is_alive()
    if used_in not in (0, os.getpid()) or stayed:
        reason = "this process was forked from one that had used Ray, which cannot be used in both"
        hint = "begin it anew instead (multiprocessing: spawn), or take workers=1"
        raise TroupeError(Problem("ray-inherited", "workers", reason, hint), SURROUNDINGS)
    used_in = os.getpid()
