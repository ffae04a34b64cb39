"""The kind of processor, and its speedup in bfloat16.

Does not import torch: the versions of a run include it.
"""

from __future__ import annotations

import functools
import platform

CPUINFO = "/proc/cpuinfo"  # of Linux
CUBLAS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # for GPUs: without it, matrix products are not reproducible
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # the newest of them determines the kind


# How much faster a step is in bfloat16 than in float32, by the newest instructions: DCGAN, WRN-16-4 and Darknet in
# step_speed_*.json of benchmarks/results/genuineintel-6-amx_bf16 and authenticamd-25-avx512_bf16.
BFLOAT16_GAIN = {"amx_bf16": "2.0 to 2.5", "avx512_bf16": "1.5 to 1.8"}


def bfloat16_gain() -> str:
    """The speedup of a step in bfloat16 here; "" if the processor has no instructions for it."""
    return BFLOAT16_GAIN.get(kind().rpartition(" ")[2], "")


@functools.cache
def kind() -> str:
    """Vendor, family and newest instruction set, as in `GenuineIntel 6 amx_bf16`; elsewhere the machine type."""
    facts = _facts()
    if "vendor_id" not in facts:
        return platform.machine()
    flags = set(facts.get("flags", "").split())
    newest = next((name for name in INSTRUCTIONS if name in flags), "")
    return " ".join(filter(None, [facts["vendor_id"], facts.get("cpu family", ""), newest]))


def name() -> str:
    """The vendor's name of the processor: torch selects kernels by it."""
    facts = _facts()
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return f"{facts['model name']} (model {facts.get('model', '?')})"


def _facts() -> dict[str, str]:
    """What Linux reports of the first core; empty elsewhere."""
    try:
        with open(CPUINFO, encoding="utf-8", errors="replace") as file:
            first = file.read().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
