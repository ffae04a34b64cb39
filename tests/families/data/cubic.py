"""`cubic`: points of a curve, made when they are asked for: a source that has no end and stores nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainers.data.images import Request, Source

COEFFICIENTS = (0.9, 0.5, 3.0, 2.4)  # y = 0.9 + 0.5 x + 3 x^2 + 2.4 x^3


class Points:
    """Point i is at a place between -1 and 1 that follows from i alone; `held_out` are those with negative numbers."""

    size, held_out, fingerprint = 1_000_000, 64, "cubic"

    def __init__(self) -> None:
        self.facts = {"kind": "points", "size": self.size, "held_out": self.held_out}
        self._device: Any = "cpu"

    def to(self, device: Any) -> None:
        self._device = device

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        import torch

        golden = torch.tensor(list(indices), dtype=torch.float64) * 0.6180339887498949  # its multiples fill the range
        x = (2 * (golden - golden.floor()) - 1).to(self._device)
        return {"x": x, "y": sum(part * x**power for power, part in enumerate(COEFFICIENTS))}

    def held_out_batch(self, indices: Sequence[int]) -> dict[str, Any]:
        return self.batch([-1 - index for index in indices])

    def preview(self, count: int) -> None:
        return None


def open_cubic(request: Request) -> Points:
    return Points()


SOURCES = {"cubic": Source("cubic", "made up for tests: points of a cubic curve", open_cubic, kind="points")}
