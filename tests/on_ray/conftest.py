"""Clusters that the tests of a module join."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest
from clusters import Cluster
from commands import Commands


@pytest.fixture(scope="module")
def cluster(shared: Commands) -> Iterator[Cluster]:
    """One that wants a token."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # a short path: sockets lie there
    yield Cluster(shared, folder)
    shared.clean()
    shutil.rmtree(folder, ignore_errors=True)
