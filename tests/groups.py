"""Which of two processes runs a test: those of a group run in the same one.

Of our own, as `--dist loadgroup` of pytest-xdist 3.8 groups nothing under pytest 9.2.
"""

from __future__ import annotations

from typing import Any

import pytest
import tiers
from xdist.scheduler.loadscope import LoadScopeScheduling

WITH_POOL = ("contract/test_contract.py", "contract/test_defaults.py", "contract/test_stops_between_steps.py",
             "contract/test_widened.py", "distributed/test_grad_sync.py", "unit/test_switches.py")  # fmt: skip


def group_of(nodeid: str) -> str:
    """All that share a Ray; all faults; the tests of a variant in the contract, which share its runs; else each test is
    a group."""
    path, _, test = nodeid.partition("::")
    if "/on_ray/" in path or path.endswith("on_ray.py"):
        return "ray"
    if "/faults/" in path:
        return "faults"
    return test.partition("[")[2] if path.endswith("test_contract.py") else nodeid


def fast_group_of(nodeid: str) -> str:
    """Fast tests take less time than what they share: all that share a pool of workers, else those of a file."""
    path = nodeid.partition("::")[0]
    return "pool" if path.endswith(WITH_POOL) else path


class Groups(LoadScopeScheduling):
    """The largest group first; fast ones in the order of their files, as long tests are in the first folders."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self.is_fast = tiers.tier_asked(config) == tiers.FAST
        config.option.loadscopereorder = not self.is_fast

    def _split_scope(self, nodeid: str) -> str:
        return fast_group_of(nodeid) if self.is_fast else group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    return Groups(config, log)
