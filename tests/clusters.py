"""A Ray cluster of this machine, as somebody else may have started it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commands import TESTS, Command, Commands, until

from cluster.backend import auth
from cluster.host.environment import worker_environment
from trainers.distributed.process_group import free_port

RAY = str(Path(sys.executable).with_name("ray"))
HEALTH = {
    "RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "200",
    "RAY_health_check_timeout_ms": "3000", "RAY_health_check_failure_threshold": "3",
}  # so that a node that has gone is known to have soon, and one that is merely busy stays  # fmt: skip


class Cluster:
    """A head node of two CPUs, which wants a token unless it is `open`; with a `dashboard`, for jobs."""

    def __init__(
        self, commands: Commands, folder: str, open: bool = False, dashboard: bool = False, cpus: int = 2, **more: str
    ) -> None:  # fmt: skip
        self.commands, self.folder = commands, folder
        self.address = f"127.0.0.1:{free_port()}"
        token = {"RAY_AUTH_MODE": "disabled"} if open else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
        self.environment = {**token, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
                            **HEALTH, **more}  # fmt: skip
        port = free_port()
        self.dashboard = f"http://127.0.0.1:{port}"
        shown = ["--include-dashboard=false"]
        if dashboard:  # its agent has a port of its own: another Ray of this machine may have the usual one
            shown = ["--include-dashboard=true", f"--dashboard-port={port}",
                     f"--dashboard-agent-listen-port={free_port()}"]  # fmt: skip
        self.head = self.start("--head", "--port", self.address.split(":")[1], *shown, "--temp-dir", folder, cpus=cpus)

    def asked(self, path: str) -> str:
        """What the dashboard answers."""
        headers = {"Authorization": f"Bearer {self.environment.get('RAY_AUTH_TOKEN', '')}"}
        with urllib.request.urlopen(urllib.request.Request(self.dashboard + path, headers=headers)) as answer:
            return str(answer.read().decode())

    def start(self, *words: str, cpus: int, prefix: tuple[str, ...] = ()) -> Command:
        environment = {**self.environment, "PYTHONPATH": str(TESTS.parent),
                       "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}"}  # fmt: skip
        command = self.commands.call(
            *prefix, RAY, "start", *words, "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}", "--block",
            "--object-store-memory=100000000", environment=environment,
        )  # fmt: skip
        until(lambda: "Ray runtime started" in command.out.read_text(), "a node", 60)
        return command

    @contextlib.contextmanager
    def node(self, *words: str, cpus: int, prefix: tuple[str, ...] = ()) -> Iterator[Command]:
        """One node more, which ends at once and without a word; the head then knows that it has gone."""
        before = self.nodes()
        node = self.start("--address", self.address, *words, cpus=cpus, prefix=prefix)
        try:
            yield node
        finally:
            node.clean()
            until(lambda: self.nodes() <= before, "the head knows that the node has gone", 60, every=0.1)

    def nodes(self) -> set[str]:
        """The ids of the nodes that live, as the dashboard tells."""
        told = json.loads(self.asked("/api/v0/nodes"))["data"]["result"]["result"]
        return {node["node_id"] for node in told if node["state"] == "ALIVE"}


def hiding(commands: Commands, folder: Path, *others: tuple[Path, Path]) -> tuple[str, ...]:
    """What is put before a node's command so that an empty disk lies over a folder, as where each machine has its own,
    and one file over another in each of the pairs; nothing where no disk can be mounted."""
    mounts = [f"mount -t tmpfs tmpfs {folder}", *(f"mount --bind {over} {file}" for over, file in others)]
    prefix = ("unshare", "--mount", "sh", "-c", f'{" && ".join(mounts)} && exec "$@"', "sh")
    return prefix if commands.call(*prefix, "true").wait(30).code == 0 else ()


@contextlib.contextmanager
def ray_here(**variables: str) -> Iterator[Any]:
    """Ray's library in this process, for tests that look at free resources; what it changes here is put back, and
    nothing is written into the home folder."""
    before = dict(os.environ)
    os.environ.update(
        {**worker_environment(), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", **variables}
    )
    import ray

    auth.reload_token_settings()
    try:
        yield ray
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)
        auth.reload_token_settings()
