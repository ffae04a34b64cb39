"""The control groups (v1 and v2) of this process: the resource limits of a container."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def groups(controller: str) -> Iterator[tuple[Path, bool]]:
    """The folder of each group that limits this controller, parent groups included; whether it is v2."""
    with contextlib.suppress(OSError):
        for line in OWN_CGROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            for root in {CGROUPS / controllers, CGROUPS / controller if controllers else CGROUPS}:
                inside = root / path.lstrip("/")  # missing if the container sees only its own root
                for folder in {root, inside, *(parent for parent in inside.parents if root in parent.parents)}:
                    yield folder, not controllers


def quota() -> float | None:
    """CPU quota in CPUs, on average and possibly fractional; None if there is no limit."""
    limits = []
    for folder, second in groups("cpu"):
        with contextlib.suppress(OSError, ValueError):
            if second:
                most, each = (folder / "cpu.max").read_text(encoding="utf-8").split()
            else:
                most, each = (
                    (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
                )
            if int(most) > 0 and int(each) > 0:  # "max" and -1: no limit
                limits.append(int(most) / int(each))
    return min(limits, default=None)
