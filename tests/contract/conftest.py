"""What the tests of this folder share."""

from __future__ import annotations

import pytest
from wrong import Wrong


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> Wrong:
    """What was wrong with the newest command in this process."""
    return Wrong(monkeypatch)
