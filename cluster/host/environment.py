"""The environment of worker processes, which must be set before they start.

glibc's allocator gives large tensors back to the kernel and fetches them anew, with a page fault for every 4 KiB, in
every step; these settings keep them in the heap, in one arena. They change the speed and no number
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
# Huge pages, by kind of processor; tried by hand, once each. On this one a step of WRN-16-4 took 0.88 of the time in
# float32 and 0.96 in bfloat16, one of DCGAN the same. On an Intel with AMX they brought nothing in the steady state,
# and each first touch cost milliseconds where a virtual machine had not touched its memory yet.
HUGE_PAGES = {"AuthenticAMD 25 avx512_bf16"}


def worker_environment() -> dict[str, str]:
    """Variables of every process that trains. One thread: workers are the unit of parallelism, and a run that wants
    more threads says so to torch itself."""
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", MARK: "1", **processor.CUBLAS}
    if platform.libc_ver()[0] == "glibc" and not os.environ.get("GLIBC_TUNABLES", "").startswith("glibc.malloc"):
        values = {**TUNABLES, **({"hugetlb": 1} if processor.kind() in HUGE_PAGES else {})}
        environment["GLIBC_TUNABLES"] = ":".join(f"glibc.malloc.{name}={value}" for name, value in values.items())
    return environment


def start_anew() -> None:
    """Replace this process by the same command in the workers' environment, once."""
    if MARK not in os.environ:
        os.environ.update(worker_environment())
        flush(sys.stdout)
        hold_signals()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextlib.contextmanager
def environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """These variables, for the processes that are started inside; those that are None are not set there."""
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
