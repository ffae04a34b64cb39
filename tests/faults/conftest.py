"""Commands that a test, or a module, starts; whatever is left of them is ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from commands import Commands


@pytest.fixture
def troupe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Commands in a folder of this test's own."""
    commands = Commands(tmp_path_factory.mktemp("here"))
    yield commands
    commands.clean()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Commands whose runs the tests of a module share: compare with them, never change them."""
    commands = Commands(tmp_path_factory.mktemp("shared"))
    yield commands
    commands.clean()
