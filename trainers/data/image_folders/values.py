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
REST_IMAGES = 20  # one image in so many may be an outlier
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
        return {kind: _range(lows, self.highs[kind]) for kind, lows in self.lows.items()}

    def narrow(self, value_range: Range) -> dict[str, dict[str, Any]]:
        """Of each kind, the images that fill little of their range among others that fill it: how many of how many,
        and their range. Not those of one value, and not one image in twenty; nothing where `lines` warns of all."""
        found: dict[str, dict[str, Any]] = {}
        for kind, lows in self.lows.items():
            ends = list(zip(lows, self.highs[kind], strict=True))
            little = [(low, high) for low, high in ends if low < high and _fills_little(kind, low, high, value_range)]
            if value_range == "full" or len(little) <= len(ends) // REST_IMAGES:
                continue
            if not lines({kind: self.ranges()[kind]}, value_range):
                black_white = list(_ends_of(kind, max(high for _, high in little), value_range))
                held = _range(*map(list, zip(*little, strict=True)))
                found[kind] = {"images": len(little), "of": len(ends), "values": held, "range": black_white}
        return found


def _range(lows: Sequence[float], highs: Sequence[float]) -> list[float]:
    """The lowest and the highest of these, except for one in twenty."""
    rest = len(lows) // REST_IMAGES
    return [sorted(lows)[rest], sorted(highs)[-1 - rest]]


def _ends_of(kind: str, high: float, value_range: Range) -> tuple[float, float]:
    """The values of black and white for an image with values up to `high`."""
    if not isinstance(value_range, str):
        black, white = value_range
        return black, white
    return 0.0, 255.0 if kind == FLOAT and high > 1 else WHITE[kind]


def _fills_little(kind: str, low: float, high: float, value_range: Range) -> bool:
    black, white = _ends_of(kind, high, value_range)
    return high - low < LITTLE * (white - black)


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
        black, white = _ends_of(kind, high, value_range)
        leaves = isinstance(value_range, str) and (low < black or high > white)
        if not leaves and not _fills_little(kind, low, high, value_range):
            continue
        trouble = "beyond" if leaves else "under a tenth of"
        what = f"its {kind} images have values from {low:g} to {high:g}, {trouble} the {black:g} to {white:g} of black "
        texts.append(f"{what}to white; use value_range={_usual_text(low, high)}, or value_range=full to keep them")
    return texts


def mixed_lines(narrow: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Warnings about images whose values use little of the range that others use, from `Values.narrow`."""
    texts = []
    for kind, found in narrow.items():
        (low, high), (black, white) = found["values"], found["range"]
        texts.append(
            f"{found['images']} of its {found['of']} {kind} images have values from {low:g} to {high:g}, under a tenth "
            f"of the {black:g} to {white:g} of black to white, which others fill; use value_range="
            f"{_usual_text(low, high)}, which clips the others, or value_range=full to keep them"
        )
    return texts


def _usual_text(low: float, high: float) -> str:
    """The probable range as a setting: `0:4095`."""
    return ":".join(f"{end:.9g}" for end in usual(low, high))


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
