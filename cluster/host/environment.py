"""The environment of worker processes, which must be set before they start.

glibc's allocator returns large tensors to the kernel and allocates them again in every step, with a page fault for
every 4 KiB; these settings keep them in the heap, in one arena. They change the speed, not the results
(benchmarks/step_speed.py runs the plain loop without them).
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator, Mapping

from cluster.host.signals import hold_signals
from cluster.terminal.streams import flush
from trainers.runtime import processor

MARK = "TROUPE_ENVIRONMENT"
TUNABLES = {"arena_max": 1, "mmap_threshold": 1 << 32, "trim_threshold": 1 << 33, "top_pad": 1 << 28}
# Huge pages, by kind of processor; measured by hand, once each. On this one a step of WRN-16-4 took 0.88 of the time in
# float32 and 0.96 in bfloat16, a step of DCGAN the same time. On an Intel with AMX there was no gain in the steady
# state, and each first touch took milliseconds if the virtual machine had not touched that memory before.
HUGE_PAGES = {"AuthenticAMD 25 avx512_bf16"}


def worker_environment() -> dict[str, str]:
    """Variables of every training process. One thread: workers are the unit of parallelism, and a run with more threads
    sets them in torch itself."""
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", MARK: "1", **processor.CUBLAS}
    if platform.libc_ver()[0] == "glibc" and not os.environ.get("GLIBC_TUNABLES", "").startswith("glibc.malloc"):
        values = {**TUNABLES, **({"hugetlb": 1} if processor.kind() in HUGE_PAGES else {})}
        environment["GLIBC_TUNABLES"] = ":".join(f"glibc.malloc.{name}={value}" for name, value in values.items())
    return environment


def restart_process() -> None:
    """Execute the same command again in the workers' environment, once."""
    if MARK not in os.environ:
        os.environ.update(worker_environment())
        flush(sys.stdout)
        hold_signals()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextlib.contextmanager
def environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set these variables for processes started inside; None unsets a variable."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
