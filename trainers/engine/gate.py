"""The gate through which a phase reaches the parameters: closed by the first loss that is not finite.

On a CPU the host sees each loss at once. A GPU works behind its host, which does not wait for it: there the gate is a
number on the device. Once it is closed, no phase changes anything, and the host learns of it at its next look.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ROOM = 4096  # losses that are kept for the next look; a look is due when there is no more room


class NotFinite(NamedTuple):
    """The first loss that is not finite: of which step and phase."""

    step: int
    phase: str
    loss: float


class Gate:
    """The losses of the phases since the last look, and whether one of them has closed the gate."""

    def __init__(self, device: torch.device, on_host: bool | None = None) -> None:
        """`on_host`: whether the host can read losses without waiting; by default, on a CPU."""
        memory = np.zeros(ROOM)
        self.on_host = device.type == "cpu" if on_host is None else on_host
        self.memory = memory if self.on_host else None
        self.losses = torch.from_numpy(memory).to(device)
        self.cells = self.losses.unbind()
        self.closed = torch.zeros((), dtype=torch.float32, device=device)  # 1 if it is
        self._scale = torch.ones(1, dtype=torch.float32, device=device)
        self.phases: list[tuple[int, str]] = []  # step and name, since the last look

    def check(self, step: int, phase: str, loss: Tensor, weight: Tensor) -> NotFinite | None:
        """Close the gate if this sum of losses over its weight is not finite. Returns what the host knows of it."""
        cell = self.cells[len(self.phases)]
        torch.div(loss, weight, out=cell)
        self.phases.append((step, phase))
        if self.memory is not None:
            found = NotFinite(step, phase, float(self.memory[0]))
            self.phases.clear()
            return None if math.isfinite(found.loss) else found
        torch._amp_foreach_non_finite_check_and_unscale_([cell], self.closed, self._scale)
        return self.look() if len(self.phases) == ROOM else None

    def look(self) -> NotFinite | None:
        """The first loss since the last look that is not finite. Waits for the device."""
        phases, self.phases = self.phases, []
        for (step, phase), loss in zip(phases, self.losses[: len(phases)].tolist() if phases else (), strict=True):
            if not math.isfinite(loss):
                return NotFinite(step, phase, loss)
        return None

    @property
    def is_open(self) -> Tensor:
        """1 if the gate is open, else 0, () on the device."""
        return 1 - self.closed

    @contextlib.contextmanager
    def protecting(self, list_tensors: Callable[[], Sequence[Tensor]]) -> Iterator[None]:
        """Restore these tensors after the block if the gate is closed. On a host that sees losses, it is open here."""
        tensors = [] if self.on_host else [tensor.detach() for tensor in list_tensors()]
        saved = [tensor.clone() for tensor in tensors]
        yield
        for tensor, before in zip(tensors, saved, strict=True):
            tensor.copy_(self.choose(before, tensor))

    def choose(self, before: Tensor, after: Tensor) -> Tensor:
        """The value after a phase, or the one before it if the gate is closed."""
        if self.on_host or before.shape != after.shape:
            return after
        return torch.where(self.closed > 0, before.to(after), after)

    def choose_each(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`choose` for tensors by name."""
        return {name: self.choose(before.get(name, value), value) for name, value in after.items()}
