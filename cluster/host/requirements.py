"""What a run requires of its environment: checked before it starts, with an error instead of a silent wait."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.host import hardware
from trainers.base.problems import Problem
from trainers.runtime import processor
from trainers.settings import rules
from trainers.settings.config import Config


def resolve(config: Config, own_machine: bool) -> dict[str, Any]:
    """The settings with `auto` resolved for this machine."""
    settings = config.model_dump()
    if config.device == "auto":
        settings["device"] = "cuda" if own_machine and hardware.gpus() else "cpu"
    if config.grad_sync == "auto":
        settings["grad_sync"] = "ddp" if settings["device"] == "cuda" else "exact"
    return settings


def remarks(config: Config, settled: Config) -> list[str]:
    """Remarks about this machine: limits of its GPUs and CPUs that affect the run."""
    notes = no_gpu(config, settled)
    if (why := hardware.why_few_cores()) and settled.device == "cpu":
        notes.append(f"{plural(hardware.cores(), 'CPU')} can be used here: {why}")
    return notes


def no_gpu(config: Config, settled: Config) -> list[str]:
    """Why `device=auto` does not use the GPUs of this machine."""
    if config.device == "auto" and settled.device == "cpu" and (why := hardware.why_no_gpu()):
        return [f"device=cpu: torch cannot use the GPUs of this machine ({why})"]
    return []


def plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def room(config: Config, oversubscribe: bool) -> list[Problem]:
    """The resources that this machine lacks for the run."""
    workers = config.least_workers
    if config.device == "cuda":
        gpus = hardware.gpus()
        if gpus == 0:
            why = hardware.why_no_gpu()
            reason = f"torch cannot use the GPUs here ({why})" if why else "there is no GPU here"
            return [Problem("no-room", "device", reason, "use device=cpu", "cuda")]
        if workers > gpus:
            reason = f"each needs a GPU, there are {gpus}"
            return [Problem("no-room", "workers", reason, f"use workers={gpus}", workers)]
        return []
    needed = workers * config.threads_per_worker
    if needed > hardware.cores() and workers > 1 and not oversubscribe:
        hint = "use fewer workers, or let them share cores with --oversubscribe"
        few = f" ({why})" if (why := hardware.why_few_cores()) else ""
        reason = f"needs {needed} CPUs, this machine has {hardware.cores()}{few}"
        return [Problem("no-room", "workers", reason, hint, workers)]
    return []


def needs(settings: Mapping[str, Any]) -> dict[str, float]:
    """The resources of each worker."""
    return {"CPU": float(settings["threads_per_worker"]), **({"GPU": 1.0} if settings["device"] == "cuda" else {})}


def hint(config: Config) -> str | None:
    """A hint how the run could be faster here, or None."""
    if config.device == "cuda":
        sizes = [size for size in rules.divisors(config.batch_size) if size <= config.batch_size // config.workers]
        if config.microbatch_size >= sizes[-1]:
            return None
        few = f"{config.microbatch_size} samples at once may be too few for a GPU"
        return f"{few}; microbatch_size={sizes[-1]} changes the results, and may be faster"
    possible = min(hardware.cores() // config.threads_per_worker, config.microbatches)
    if possible <= config.workers:
        return None
    return (
        f"{hardware.cores() - config.workers * config.threads_per_worker} of {hardware.cores()} cores are idle; "
        f"workers={possible} gives the same results faster"
    )


def writable(folder: Path) -> Problem | None:
    """The problem if a folder cannot be written, or None; creates the folder if it is missing."""
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
        hint = "free some, or use another folder"
        return Problem("no-space", str(folder), "no space left (less than 16 MB)", hint)
    return None


def faster_precision(config: Config) -> str:
    """The speedup of `precision=bfloat16` on this machine, or an empty text."""
    gain = processor.bfloat16_gain()
    if not gain or (config.device, config.precision) != ("cpu", "float32"):
        return ""
    return f"this processor supports bfloat16: precision=bfloat16 makes a step of convolutions {gain} times as fast"
