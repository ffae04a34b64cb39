"""The values of black and white in images, and warnings if images use little of that range, or exceed it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Range = str | Sequence[float]  # auto; full, which is the same without warnings; the values of black and white
EIGHT, SIXTEEN, FLOAT = "8-bit", "16-bit", "float"  # kinds of images; 32-bit integers count as 16-bit
WHITE = {EIGHT: 255.0, SIXTEEN: 65535.0, FLOAT: 1.0}  # of the full range of a kind; black is 0
LITTLE = 0.1  # of a range: images that fill less of it look alike
NOISE = 1e-4  # of a step, as of 0.05 in 32 bits, which is 0.0500000007
GRID = 32  # pixels per side, at least, at which the values of an image are sampled
REST = 1000  # one sampled pixel in this many may be an outlier at either end, such as a dead pixel


class Values:
    """The range of values in images, by their kind."""

    def __init__(self) -> None:
        self.lows: dict[str, list[float]] = {}
        self.highs: dict[str, list[float]] = {}

    def add(self, kind: str, numbers: NDArray[Any]) -> None:
        """Add the values of an image, before conversion to 8 bits."""
        down, right = (max(1, side // GRID) for side in numbers.shape[:2])
        seen = numbers[::down, ::right].ravel()
        seen = seen[np.isfinite(seen)]
        if len(seen):
            ends = len(seen) // REST, len(seen) - 1 - len(seen) // REST
            seen = np.partition(seen, ends)
            self.lows.setdefault(kind, []).append(float(seen[ends[0]]))
            self.highs.setdefault(kind, []).append(float(seen[ends[1]]))

    def ranges(self) -> dict[str, list[float]]:
        """The lowest and the highest value of each kind, except for one image in twenty."""
        return {
            kind: [sorted(lows)[len(lows) // 20], sorted(self.highs[kind])[-1 - len(lows) // 20]]
            for kind, lows in self.lows.items()
        }


def in_eight_bits(numbers: NDArray[Any], kind: str, value_range: Range) -> NDArray[np.uint8]:
    """Values of an image as 0 to 255; `auto` takes floats of 0 to 1 as such, and others as 0 to 255."""
    if not isinstance(value_range, str):
        black, white = value_range
        shares = (np.nan_to_num(numbers.astype(np.float64), nan=black) - black) / (white - black)
        return np.asarray((shares.clip(0, 1) * 255).round(), np.uint8)
    if kind == SIXTEEN:
        return np.asarray((numbers.clip(0, 65535) / 257).round(), np.uint8)
    numbers = np.nan_to_num(numbers, nan=0.0, posinf=255.0, neginf=0.0)
    numbers = numbers * 255 if numbers.max(initial=0.0) <= 1 else numbers
    return np.asarray(numbers.clip(0, 255).round(), np.uint8)


def value_table(value_range: Range) -> list[int] | None:
    """The new value of each of the 256 values of an 8-bit image; None if all stay unchanged."""
    if isinstance(value_range, str):
        return None
    return [int(level) for level in in_eight_bits(np.arange(256), EIGHT, value_range)]


def lines(ranges: Mapping[str, Sequence[float]], value_range: Range) -> list[str]:
    """Warnings for the user about images whose values use little of their range, or exceed it."""
    texts = []
    for kind, (low, high) in ranges.items() if value_range != "full" else ():
        black, white = (0.0, WHITE[kind]) if isinstance(value_range, str) else value_range
        if kind == FLOAT and isinstance(value_range, str) and high > 1:
            white = 255.0
        leaves = isinstance(value_range, str) and (low < black or high > white)
        if not leaves and high - low >= LITTLE * (white - black):
            continue
        trouble = "beyond" if leaves else "under a tenth of"
        what = f"its {kind} images have values from {low:g} to {high:g}, {trouble} the {black:g} to {white:g} of black "
        way = f"use value_range={':'.join(f'{end:.9g}' for end in usual(low, high))}, or value_range=full"
        texts.append(f"{what}to white; {way} to keep them")
    return texts


def usual(low: float, high: float) -> tuple[float, float]:
    """The probable range of images with such values: that of a number of bits, if they fill a tenth of it."""
    if low >= 0:
        bits = max(1, math.ceil(math.log2(high + 1)))
        white = 2.0**bits - 1
        if high - low >= LITTLE * white:
            return 0.0, white
    if high - low >= 1:
        return float(math.floor(low)), float(math.ceil(high))
    digits = 2 - math.floor(math.log10(high - low)) if high > low else 6
    step = 10.0**-digits
    ends = math.floor(low / step + NOISE) * step, math.ceil(high / step - NOISE) * step
    return ends if ends[0] < ends[1] else (ends[0], ends[0] + 1)
