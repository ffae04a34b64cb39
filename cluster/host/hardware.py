"""CPUs and GPUs that this process can use, and why they are fewer than the machine has."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from cluster.host.ray_environment import search_path
from trainers.base import cgroups
from trainers.base.timeouts import WAITS

DEVICES = Path("/dev")
HIDDEN = "CUDA_VISIBLE_DEVICES hides them"
# The smallest use of a GPU: drivers, versions and GPU models differ in too many ways for other checks
PROBE = """
import json
try:
    import torch
    torch.ones(1, device="cuda").add(1).item()
    print(json.dumps([torch.cuda.device_count(), ""]))
except Exception as error:
    print(json.dumps([0, (str(error).strip().splitlines() or [type(error).__name__])[0]]))
"""


class Gpus(NamedTuple):
    usable: int
    why: str  # if there are some and none is usable: the reason


def allowed() -> int:
    """CPUs in the affinity mask of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """CPUs that this process can use: its affinity mask, or the quota of its container if smaller, rounded up."""
    quota = cgroups.quota()
    return allowed() if quota is None else max(1, min(allowed(), math.ceil(quota)))


def why_few_cores() -> str:
    """Why fewer CPUs can be used than the machine has, in a few words; empty if not fewer."""
    quota, all_cpus = cgroups.quota(), os.cpu_count() or 1
    if quota is None or quota >= allowed():
        few = f"the affinity of this process, as of taskset, is {allowed()} of {all_cpus} CPUs"
        return few if allowed() < all_cpus else ""
    up = "" if quota == math.ceil(quota) else ", rounded up"
    return f"the quota of its container is {quota:.3g} of {allowed()} CPUs{up}"


def gpus() -> int:
    """GPUs that torch can use here."""
    return _gpus().usable


def why_no_gpu() -> str:
    """Why torch can use none of the GPUs here; empty if it can, or if there are none."""
    return _gpus().why


def _gpus() -> Gpus:
    has_device = any(re.fullmatch(r"nvidia\d+", name) for name in _names())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not has_device:
        return Gpus(0, "")
    if visible is not None and visible.split(",")[0].strip() in ("", "-1", "NoDevFiles"):
        return Gpus(0, HIDDEN)
    return _query(visible)


def _names() -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(DEVICES)
    return []


@functools.cache
def _query(visible: str | None) -> Gpus:
    """Ask torch in a separate process: this one does not import torch, and can be forked."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **search_path()},
            stdin=subprocess.DEVNULL,
            timeout=WAITS.gpu_check,
            check=False,
        )
        count, why = json.loads(done.stdout.strip().splitlines()[-1])
        return Gpus(int(count), str(why))
    except subprocess.TimeoutExpired:
        return Gpus(0, f"torch does not answer within {WAITS.gpu_check:.0f} s")
    except (OSError, ValueError, LookupError, TypeError):
        return Gpus(0, "the test process of torch failed")
