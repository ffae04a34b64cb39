"""What kind of processor this is, and which ways of computing convolutions were measured to be faster on it.

Imports no torch: a run's versions tell of both.
"""

from __future__ import annotations

import functools
import platform
from typing import NamedTuple

CPUINFO = "/proc/cpuinfo"  # of Linux
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # the newest of them makes the kind


class Ways(NamedTuple):
    """Which convolutions of trainers/engine/layers.py are taken instead of torch's own."""

    products: bool = False  # one product of matrices, where the output has few places
    winograd: bool = False  # a quarter of the multiplications, for wide 3x3 filters; in float32 only

    def __str__(self) -> str:
        taken = [name for name, chosen in self._asdict().items() if chosen]
        return " and ".join(taken) or "torch's own"


# By maker and instructions, and by number format. Each line is a measurement of whole steps, benchmarks/convolutions.py
# or, where it is older, step_speed.py; the file under benchmarks/results is named. What was never measured is torch's.
FASTER = {
    ("GenuineIntel amx_bf16", "float32"): Ways(products=True, winograd=True),  # step_speed_*, of an Intel with AMX
    ("GenuineIntel amx_bf16", "bfloat16"): Ways(products=True),  # the same
    ("AuthenticAMD avx512_bf16", "bfloat16"): Ways(products=True),  # convolutions, of an AMD with avx512_bf16
}


def ways(precision: str) -> Ways:
    """The faster ways of convolutions here, in this number format: a pure function of the kind of processor."""
    return FASTER.get((kind(), precision), Ways())


@functools.cache
def kind() -> str:
    """Maker and newest instruction set, as `GenuineIntel amx_bf16`; the machine's name where neither is told."""
    facts = _facts()
    flags = set(facts.get("flags", "").split())
    newest = next((name for name in INSTRUCTIONS if name in flags), "")
    return f"{facts['vendor_id']} {newest}".strip() if "vendor_id" in facts else platform.machine()


def name() -> str:
    """The processor as its maker names it: torch's kernels are chosen by it."""
    facts = _facts()
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return f"{facts['model name']} (model {facts.get('model', '?')})"


def _facts() -> dict[str, str]:
    """What Linux tells of the first core; nothing elsewhere."""
    try:
        with open(CPUINFO) as file:
            first = file.read().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
