"""What the micro-batches of a phase compute besides gradients: a row of numbers each, added up like gradients.

A row holds the weight, the loss, the metrics, and the statistics of batch norms, as float64 on the device. Rows and
their sum stay where they are from step to step, and are read only when a number is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.contract.family import Loss
from trainers.engine import batch_norm
from trainers.engine.batch_norm import Statistics

WEIGHT, LOSS, METRICS = range(3)  # places in a row


class PhaseResults:
    """The newest results of one phase in this worker, and their sum over all workers."""

    def __init__(self, phase: str, device: torch.device) -> None:
        self.phase, self.device = phase, device
        self.names: list[str] = []  # of the metrics
        self.statistics: list[Statistics] = []  # of the newest micro-batch: they tell the layers
        self.rows: dict[int, Tensor] = {}
        self.cells: dict[int, list[Tensor]] = {}  # the parts of each row
        self.sizes: dict[int, list[int]] = {}  # of these parts
        self.totals: dict[tuple[str, ...], Tensor] = {}  # by the names of the metrics: some steps may have others
        self.unread: dict[tuple[str, ...], None] = {}  # those not yet read, the newest last

    @torch.no_grad()
    def write(self, index: int, loss: Loss, statistics: list[Statistics]) -> None:
        """Write the row of a micro-batch."""
        self.names, self.statistics = list(loss.metrics), statistics
        parts = batch_norm.tensors_of(statistics)
        cells = self._cells(index, parts)
        into, sources = cells[METRICS + len(self.names) :], parts
        weight = 1.0 if loss.weight is None else loss.weight
        for cell, value in zip(cells, (weight, loss.value, *loss.metrics.values()), strict=False):
            if isinstance(value, Tensor):
                into.append(cell)
                sources.append(value if value.dim() == 0 else value.reshape(()))
            else:
                cell.fill_(float(value))
        torch._foreach_copy_(into, sources)
        if loss.weight is not None:
            row = self.rows[index]
            row[METRICS : METRICS + len(self.names)] *= row[WEIGHT]

    def _cells(self, index: int, parts: Sequence[Tensor]) -> list[Tensor]:
        """The parts of a micro-batch's row: a number each, then the statistics; made anew if their sizes change."""
        numbers = METRICS + len(self.names)
        sizes = [1] * numbers + [part.numel() for part in parts]
        if self.sizes.get(index) != sizes:
            self.sizes[index] = sizes
            self.rows[index] = torch.zeros(sum(sizes), dtype=torch.float64, device=self.device)
            split = torch.split(self.rows[index], sizes)
            self.cells[index] = [*(cell[0] for cell in split[:numbers]), *split[numbers:]]
        return self.cells[index]

    def add_up(self, total: Tensor) -> None:
        """Keep the sum over all workers."""
        names = tuple(self.names)
        if names not in self.totals or self.totals[names].shape != total.shape:
            self.totals[names] = torch.zeros_like(total)
        self.total.copy_(total)
        self.unread.pop(names, None)
        self.unread[names] = None

    @property
    def total(self) -> Tensor:
        """The newest sum over all workers."""
        return self.totals[tuple(self.names)]

    @property
    def sums_of_statistics(self) -> Tensor:
        """Sums of the statistics over all micro-batches, in the order of `batch_norm.tensors_of`."""
        return self.total[METRICS + len(self.names) :]

    def read_loss(self) -> float:
        """The mean loss. Waits for the device."""
        weight, loss = self.total[: LOSS + 1].tolist()
        return loss / weight if weight else math.nan

    def read(self) -> dict[str, float]:
        """The mean loss and metrics by name. Waits for the device."""
        found: dict[str, float] = {}
        for names in self.unread:
            weight, *sums = self.totals[names][: METRICS + len(names)].tolist()
            for name, value in zip((f"{self.phase}_loss", *names), sums, strict=True):
                found[name] = value / weight if weight else math.nan
        self.unread.clear()
        return found
