"""Which of two processes runs a test: those of a group run in the same one, the largest group first.

Of our own, as `--dist loadgroup` of pytest-xdist 3.8 groups nothing under pytest 9.2.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling


def group_of(nodeid: str) -> str:
    """All that share a Ray; all faults; the tests of a variant in the contract, which share its runs; else each test is
    a group."""
    path, _, test = nodeid.partition("::")
    if "/on_ray/" in path or path.endswith("on_ray.py"):
        return "ray"
    if "/faults/" in path:
        return "faults"
    return test.partition("[")[2] if path.endswith("test_contract.py") else nodeid


class Groups(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    return Groups(config, log)
