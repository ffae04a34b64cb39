"""What the fast tests share: hypothesis without a clock and without a database, so that every run sees the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("unit", deadline=None, database=None, derandomize=True, max_examples=100)
settings.load_profile("unit")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks are faster so, above all where other programs run too."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
