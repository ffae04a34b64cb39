"""A real S3 server on loopback, behind a gate that can be shut, as a network fails; it notes what passes through it."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from commands import Commands, until

from trainers.distributed.process_group import free_port

BUCKET = "runs-of-many"
REQUEST = re.compile(rb"^(PUT|POST|DELETE) /([^ ?]*)(\?[^ ]*)? HTTP", re.MULTILINE)


class Gate:
    """Passes connections on to a port, while it is open."""

    def __init__(self, port: int) -> None:
        self.port, self.open = port, True
        self.passed: list[tuple[str, str]] = []  # method and key of each request that changes something
        self.pairs: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        self.open = False
        for one in self.pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if not self.open:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.port), 5)
            except OSError:
                near.close()
                continue
            self.pairs += [near, far]
            threading.Thread(target=self._pass, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, watched: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if watched:
                    for found in REQUEST.finditer(data):
                        self.passed.append((found[1].decode(), found[2].decode()))
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class Server:
    """The server with one bucket, and the environment of machines that know its keys. `closed`: it checks them."""

    def __init__(self, commands: Commands, closed: bool = False) -> None:
        port = free_port()
        server = commands.call(
            str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port),
            environment={"INITIAL_NO_AUTH_ACTION_COUNT": "1"} if closed else None,
        )  # fmt: skip
        until(lambda: _listens(port) or server.process.poll() is not None, "the S3 server", 60, every=0.2)
        self.gate = Gate(port)
        self.environment = {
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.gate.address,
        }  # fmt: skip
        _client(f"http://127.0.0.1:{port}").create_bucket(Bucket=BUCKET)

    def machine(self, folder: Path) -> dict[str, str]:
        """The environment of a machine with a disk of its own."""
        folder.mkdir(exist_ok=True)
        return {**self.environment, "HOME": str(folder)}


def runs_of(home: Path) -> Path:
    """Where a machine keeps the runs of its bucket."""
    (folder,) = (home / ".cache" / "troupe" / "buckets").iterdir()
    return folder


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _client(address: str) -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="key",
                        aws_secret_access_key="secret")  # fmt: skip
