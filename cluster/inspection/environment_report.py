"""`troupe env`: describe this machine. Imports no heavy library, so that it works if one of them is broken."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from cluster.host import hardware
from cluster.terminal.progress import size
from cluster.terminal.tables import table
from trainers.base.version import __version__
from trainers.runtime import processor

LIBRARIES = ("torch", "torchvision", "ray", "numpy", "pillow", "pydantic", "tensorboardX", "safetensors")
PREFIXES = ("RAY_", "OMP_", "MKL_", "GLIBC_", "CUDA_")  # of variables that affect a run


def facts() -> dict[str, Any]:
    """Versions and hardware; memory in bytes, and None for what is missing."""
    names = sorted(name for name in os.environ if name.startswith(PREFIXES) and "TOKEN" not in name)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    shared = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else None
    return {
        "troupe": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "processor": processor.name(),
        "processor_kind": processor.kind(),
        "cores": hardware.cores(),
        "few_cores": hardware.why_few_cores(),
        "gpus": hardware.gpus(),
        "no_gpu": hardware.why_no_gpu(),
        "memory": memory,
        "shared_memory_free": shared,
        "libraries": {name: _version(name) for name in LIBRARIES},
        "variables": {name: os.environ[name] for name in names},
    }


def text_of_environment(report: Mapping[str, Any]) -> str:
    """The block for a bug report."""
    shared, few = report["shared_memory_free"], f" ({report['few_cores']})" if report["few_cores"] else ""
    lines = {
        "troupe": report["troupe"],
        "python": f"{report['python']} ({report['executable']})",
        "system": report["system"],
        "processor": f"{report['processor']} ({report['processor_kind']}), {report['cores']} cores{few}",
        "memory": size(report["memory"] or 0),
        "shared memory": "none" if shared is None else f"{size(shared)} free",
        "gpus": f"{report['gpus']} ({report['no_gpu']})" if report["no_gpu"] else report["gpus"],
        **{name: version or "not installed" for name, version in report["libraries"].items()},
        "environment": " ".join(f"{name}={value}" for name, value in report["variables"].items()) or "-",
    }
    block = table([{"": name, " ": value} for name, value in lines.items()], heads=False)
    return f"Paste this into the bug report:\n\n```\n{block}\n```"


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
