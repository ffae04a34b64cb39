"""What kind of processor this is, and which ways of computing convolutions were measured to be faster on it.

Imports no torch: a run's versions tell of both.
"""

from __future__ import annotations

import functools
import platform
from typing import NamedTuple

CPUINFO = "/proc/cpuinfo"  # of Linux
CUBLAS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # of GPUs: without it, products are not repeatable
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # the newest of them makes the kind


class Ways(NamedTuple):
    """Which convolutions of trainers/runtime/convolutions.py are taken instead of torch's own."""

    places: int = 0  # of the output (height times width), up to which one product of matrices is taken; 0 for never
    width: int = 1  # channels of the input that such a convolution has at least
    winograd: bool = False  # a quarter of the multiplications, for wide 3x3 filters; in float32 only

    def __str__(self) -> str:
        products = f"products up to {self.places} places" if self.places else ""
        return " and ".join(filter(None, [products, "winograd" if self.winograd else ""])) or "torch's own"


# By kind of processor and number format; what was never measured takes torch's own. Whole steps of DCGAN, WRN-16-4 and
# Darknet, under benchmarks/results/KIND: of genuineintel-6-amx_bf16 step_speed_*.json (1.31, 1.71, 1.56 times the plain
# loop in float32), of authenticamd-25-avx512_bf16 convolutions.json (products up to 16 places were 0.93, 1.0 and 1.1
# times as fast as torch's own in float32, which few places and many channels alone gain; Winograd's 1.0, 1.22, 1.09).
# An AMD of family 26 was slower with either in float32 when it was tried by hand, and is left to torch.
FASTER = {
    ("GenuineIntel 6 amx_bf16", "float32"): Ways(places=16, winograd=True),
    ("GenuineIntel 6 amx_bf16", "bfloat16"): Ways(places=16),
    ("AuthenticAMD 25 avx512_bf16", "float32"): Ways(places=4, width=128, winograd=True),
    ("AuthenticAMD 25 avx512_bf16", "bfloat16"): Ways(places=4, width=128),
}


def ways(precision: str) -> Ways:
    """The faster ways of convolutions here, in this number format: a pure function of the kind of processor."""
    return FASTER.get((kind(), precision), Ways())


@functools.cache
def kind() -> str:
    """Maker, family and newest instruction set, as `GenuineIntel 6 amx_bf16`; elsewhere the machine's name."""
    facts = _facts()
    if "vendor_id" not in facts:
        return platform.machine()
    flags = set(facts.get("flags", "").split())
    newest = next((name for name in INSTRUCTIONS if name in flags), "")
    return " ".join(filter(None, [facts["vendor_id"], facts.get("cpu family", ""), newest]))


def name() -> str:
    """The processor as its maker names it: torch's kernels are chosen by it."""
    facts = _facts()
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return f"{facts['model name']} (model {facts.get('model', '?')})"


def _facts() -> dict[str, str]:
    """What Linux tells of the first core; nothing elsewhere."""
    try:
        with open(CPUINFO, encoding="utf-8", errors="replace") as file:
            first = file.read().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
