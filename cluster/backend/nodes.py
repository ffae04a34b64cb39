"""Nodes of a Ray: their room for workers, draining nodes, whether a cluster still answers, and error lines."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trainers.base.errors import ENVIRONMENT, TroupeError, message_of
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def last_line(error: BaseException) -> str:
    """The last line of an error: Ray writes paragraphs in colours, and the reason comes last."""
    lines = [line.strip() for line in COLOURS.sub("", message_of(error)).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def live_nodes() -> dict[str, dict[str, Any]]:
    """The live nodes by id, without draining ones."""
    import ray

    leaving = draining()
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving}  # type: ignore[no-untyped-call]


def at(node: Mapping[str, Any]) -> Any:
    """The scheduling strategy of what must run on this node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def draining() -> dict[str, float]:
    """The draining nodes by id, and their deadline: seconds since the epoch, 0 if unknown."""
    from ray._private import state

    return {node: moment / 1000 for node, moment in state.state.get_draining_nodes().items()}


def worker_capacity(each: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> int:
    """How many workers fit on nodes, each on a single one."""
    return sum(int(min(node.get(kind, 0) // count for kind, count in each.items() if count)) for node in nodes)


class NodeMonitor:
    """Polls the nodes in its own thread: Ray does not answer if the head has died."""

    def __init__(self) -> None:
        self.alive, self.draining = live_nodes(), draining()
        self.ended = threading.Event()
        threading.Thread(target=self._poll, daemon=True).start()

    def _poll(self) -> None:
        while not self.ended.wait(WAITS.poll_nodes):
            with contextlib.suppress(Exception):  # Ray may be shut down meanwhile
                self.alive, self.draining = live_nodes(), draining()

    def end(self) -> None:
        self.ended.set()


class ClusterHealth:
    """Whether a joined cluster still answers: its head, and the raylet that connects us to it."""

    def __init__(self, address: str) -> None:
        import ray

        self.address = address
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self.head = host.strip("[]"), int(port)
        own_id = ray.get_runtime_context().get_node_id()
        raylets = [node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == own_id]  # type: ignore[no-untyped-call]
        self.raylet = raylets[0] if raylets and os.path.exists(raylets[0]) else None
        self.checked_at = self.answered = time.monotonic()
        self.problem: Problem | None = None

    def check(self) -> None:
        """Raises TroupeError (exit code 3) if one of them has died: the raylet immediately, the head after `WAITS.head`
        seconds without an answer."""
        now = time.monotonic()
        if now - self.checked_at > WAITS.poll_nodes and self.problem is None:
            self.checked_at = now
            if self.raylet is not None and not _answers(socket.AF_UNIX, self.raylet):
                self.problem = self._died("the raylet of this machine died", "start it again with `ray start`")
            elif _answers(socket.AF_INET6 if ":" in self.head[0] else socket.AF_INET, self.head):
                self.answered = time.monotonic()
            elif time.monotonic() - self.answered > WAITS.head:
                self.problem = self._died(f"its head has not answered for {WAITS.head:.0f} s", "wait until it does")
        if self.problem is not None:
            raise TroupeError(self.problem, ENVIRONMENT)

    def _died(self, reason: str, hint: str) -> Problem:
        return Problem("cluster-died", "--address", reason, hint, self.address, resumes=True)


def _answers(kind: socket.AddressFamily, where: Any) -> bool:
    """Whether a process listens at an address."""
    with socket.socket(kind, socket.SOCK_STREAM) as connection:
        connection.settimeout(1)
        try:
            connection.connect(where)
        except OSError:
            return False
    return True
