"""Clusters that the tests of a module join."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import Cluster, ray_here
from commands import Commands


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The Ray that all tests share whose subject is not the end of one: two CPUs, a dashboard, and a token to show."""
    commands = Commands(tmp_path_factory.mktemp("cluster"))
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # a short path: sockets lie there
    yield Cluster(commands, folder, dashboard=True)
    commands.clean()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """An empty folder for temporary files, of a name that is short enough for a Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def ray(cluster: Cluster) -> Iterator[Any]:
    """This process has joined that cluster, whose free resources a test can look at."""
    with ray_here(**cluster.environment) as here:
        here.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield here
