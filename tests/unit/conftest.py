"""What the fast tests share: hypothesis without a clock and without a database, so that every run sees the same."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", deadline=None, database=None, derandomize=True, max_examples=100)
settings.load_profile("unit")
