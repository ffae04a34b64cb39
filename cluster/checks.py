"""What must be true of the surroundings before a run starts: said at once, never a silent wait."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainers.engine import rules
from trainers.engine.config import Config
from trainers.engine.problems import Problem


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> int:
    """CUDA devices that this process may use, told without importing torch."""
    there = [name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)] if os.path.isdir("/dev") else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return len(there)
    return min(len(there), len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))


def resolve(config: Config, own_machine: bool) -> dict[str, Any]:
    """The settings with `auto` replaced by what it means here."""
    settings = config.model_dump()
    if config.device == "auto":
        settings["device"] = "cuda" if own_machine and gpus() else "cpu"
    if config.exchange == "auto":
        settings["exchange"] = "ddp" if settings["device"] == "cuda" else "exact"
    return settings


def room(config: Config, oversubscribe: bool) -> list[Problem]:
    """What this machine lacks for the run."""
    workers = config.least_workers
    if config.device == "cuda":
        there = gpus()
        if there == 0:
            return [Problem("no-room", "device", "there is no GPU here", "say device=cpu", "cuda")]
        if workers > there:
            reason = f"one GPU each is needed, there are {there}"
            return [Problem("no-room", "workers", reason, f"say workers={there}", workers)]
        return []
    needed = workers * config.threads_per_worker
    if needed > cores() and workers > 1 and not oversubscribe:
        hint = "take fewer workers, or let them share cores with --oversubscribe"
        return [Problem("no-room", "workers", f"needs {needed} CPUs, this machine has {cores()}", hint, workers)]
    return []


def needs(settings: Mapping[str, Any]) -> dict[str, float]:
    """What each worker takes of a node."""
    return {"CPU": float(settings["threads_per_worker"]), **({"GPU": 1.0} if settings["device"] == "cuda" else {})}


def hint(config: Config) -> str | None:
    """How the run could be faster here."""
    if config.device == "cuda":
        sizes = [size for size in rules.divisors(config.batch_size) if size <= config.batch_size // config.workers]
        if config.microbatch_size >= sizes[-1]:
            return None
        few = f"{config.microbatch_size} samples at once may be too few for a GPU"
        return f"{few}; microbatch_size={sizes[-1]} is another recipe, and may be faster"
    possible = min(cores() // config.threads_per_worker, config.microbatches)
    if possible <= config.workers:
        return None
    return (
        f"{cores() - config.workers * config.threads_per_worker} of {cores()} cores stay idle; "
        f"workers={possible} gives the same numbers sooner"
    )


def writable(folder: Path) -> Problem | None:
    """Why a folder cannot be written, or None; makes it where it is missing."""
    full = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"troupe" * 1024)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full:
            return Problem("not-written", str(folder), f"cannot be written ({error.strerror or error})")
    if full or shutil.disk_usage(folder).free < 16 << 20:
        hint = "free some, or take another folder"
        return Problem("no-space", str(folder), "no space left (less than 16 MB)", hint)
    return None
