"""Hosts of a cluster on this machine: each has a network, processes, a name and shared memory of its own, and the disk
is one for all.

They lie in namespaces without names, which are on no other network than that of their switch: nothing of this machine
or of other tests can meet them, and the kernel removes them with the process that they belong to.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import RAY
from commands import TESTS, Command, Commands, until

NETWORK, PORT = "10.77.0", 6379
SWITCH = "ip link add switch type bridge && ip link set switch up"
HOST = """
ip link set lo up && ip link set {name}-link up && ip address add {address}/24 dev {name}-link && hostname {name} &&
mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs {folder} &&
printf '127.0.0.1 localhost\\n127.0.1.1 {name}\\n' > {folder}/hosts && mount --bind {folder}/hosts /etc/hosts
"""
SHARED = ("--net",)  # kinds of namespaces: of the switch
OWN = ("--net", "--mount", "--uts", "--pid")  # of a host
PATIENCE = 90  # seconds for a node of Ray to start


class Space:
    """New namespaces, until `end`, or until this process ends."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.kinds = kinds
        seen = ("--mount-proc",) if "--pid" in kinds else ()
        self.process = subprocess.Popen(
            ("unshare", *kinds, *seen, "--fork", "--kill-child", "sh", "-c", "echo made && exec cat"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        if said != "made":
            self.end()
            raise subprocess.CalledProcessError(self.process.returncode, "unshare", stderr=said)
        self.pid = int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def entering(self, *kinds: str) -> tuple[str, ...]:
        """What is put before a command so that it runs inside, or in some of the namespaces alone."""
        return ("nsenter", f"--target={self.pid}", *(kinds or self.kinds))

    def run(self, *words: str, kinds: tuple[str, ...] = ()) -> None:
        subprocess.run((*self.entering(*kinds), *words), capture_output=True, text=True, timeout=60, check=True)

    def holds(self, pid: int) -> bool:
        """Whether a process lies inside."""
        return os.readlink(f"/proc/{pid}/ns/net") == os.readlink(f"/proc/{self.pid}/ns/net")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Hosts:
    """A cluster of `count` hosts, which wants a token: `cpus` on the first one, where its head is, one on each other.

    Workers' ranks follow the numbers of their hosts, from 1. `variables` are the environment of all nodes.
    """

    def __init__(self, commands: Commands, folder: str, count: int, cpus: int, variables: dict[str, str]) -> None:
        self.commands, self.folder = commands, folder
        self.spaces: list[Space] = []
        self.address = f"{NETWORK}.1:{PORT}"
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64, "RAY_USAGE_STATS_ENABLED": "0",
                            **variables}  # fmt: skip
        try:
            try:
                self.switch = self._space(SHARED)
                self.switch.run("sh", "-c", SWITCH)
                self.hosts = {number: self._host(number) for number in range(1, count + 1)}
            except (OSError, subprocess.CalledProcessError) as error:
                reason = getattr(error, "stderr", "") or str(error)
                pytest.skip(f"no hosts can be made here ({reason.splitlines()[0]})")
            head = ("--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={folder}")
            self._has_started(self._node(1, cpus, *head))
            for node in [self._node(number, 1, f"--address={self.address}") for number in range(2, count + 1)]:
                self._has_started(node)
        except BaseException:
            self.end()
            raise

    def start(self, *words: str) -> Command:
        """`troupe WORDS ... --address` on the first host."""
        return self.commands.start(
            *words, "--address", self.address, prefix=self._inside(1), environment=self.environment
        )

    def where(self, log: Path) -> tuple[int, int]:
        """The host and the process, by its number outside of all hosts, whose output goes to `log`."""
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.path.samefile(f"/proc/{name}/fd/1", log):
                    return next(number for number, host in self.hosts.items() if host.holds(int(name))), int(name)
        raise AssertionError(f"no process writes to {log}")

    def cut(self, host: int) -> None:
        """Pull the cable of a host out of the switch."""
        self.switch.run("ip", "link", "set", f"port{host}", "down")

    def mend(self, host: int) -> None:
        """Put the cable of a host back."""
        self.switch.run("ip", "link", "set", f"port{host}", "up")

    def end(self) -> None:
        for space in self.spaces:
            space.end()

    def _space(self, kinds: tuple[str, ...]) -> Space:
        space = Space(kinds)
        self.spaces.append(space)
        return space

    def _host(self, number: int) -> Space:
        host, name, port = self._space(OWN), f"host{number}", f"port{number}"
        cable = ("type", "veth", "peer", "name", port, "netns", str(self.switch.pid))
        host.run("ip", "link", "add", f"{name}-link", *cable, kinds=SHARED)
        self.switch.run("ip", "link", "set", port, "master", "switch", "up")
        host.run("sh", "-c", HOST.format(name=name, address=f"{NETWORK}.{number}", folder=self.folder))
        return host

    def _inside(self, host: int) -> tuple[str, ...]:
        return (*self.hosts[host].entering(), "env", f"--chdir={self.commands.folder}")

    def _node(self, host: int, cpus: int, *words: str) -> Command:
        environment = {
            **self.environment, "PYTHONPATH": str(TESTS.parent), "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}",
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": f"{host:056x}",
        }  # fmt: skip
        return self.commands.call(
            *self._inside(host), RAY, "start", *words, f"--node-ip-address={NETWORK}.{host}", f"--num-cpus={cpus}",
            "--block", "--object-store-memory=100000000", environment=environment,
        )  # fmt: skip

    def _has_started(self, node: Command) -> None:
        def told() -> bool:
            assert node.process.poll() is None, node.wait(0)
            return "Ray runtime started" in node.out.read_text()

        until(told, "a node", PATIENCE)


@contextlib.contextmanager
def hosts(commands: Commands, count: int, cpus: int = 1, **variables: str) -> Iterator[Hosts]:
    """A cluster of several hosts; nothing of it is left."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # a short path: sockets lie there
    try:
        cluster = Hosts(commands, folder, count, cpus, variables)
        try:
            yield cluster
        finally:
            cluster.end()
    finally:
        shutil.rmtree(folder)
