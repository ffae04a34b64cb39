"""Clusters that the tests of a module join."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from clusters import Cluster, ray_here
from commands import Commands


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray of two CPUs, whose free resources a test can look at."""
    with ray_here(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0") as here:
        here.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
        yield here


@pytest.fixture(scope="module")
def cluster(shared: Commands) -> Iterator[Cluster]:
    """One that wants a token."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # a short path: sockets lie there
    yield Cluster(shared, folder)
    shared.clean()
    shutil.rmtree(folder, ignore_errors=True)
