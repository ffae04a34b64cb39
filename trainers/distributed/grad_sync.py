"""What the loop requires of gradient synchronization. exact.py is the default on CPUs, ddp.py on GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

Rows = Mapping[int, Tensor]  # a row of float64 numbers for each micro-batch, on its device; all equally long
Requests = tuple[bool, ...]  # what a worker asks all for: to stop, and to save


class Reduced(NamedTuple):
    """What all workers know after a phase."""

    total: Tensor  # the sum of the rows of all micro-batches
    requests: Requests  # whether any worker asks; with `ddp`, as of the phase before


class GradSync(Protocol):
    """Gradient synchronization of one run, in one worker. In a row, the first number is the weight."""

    share: range  # this worker's micro-batches
    notice: str  # a notice for the user about how it works here, or ""

    def callables(self, used: Sequence[str]) -> Mapping[str, Callable[..., Any]]:
        """The networks for a loss to call, in a phase that trains those named in `used` or keeps their graph."""

    def reduce_gradients(
        self,
        parameters: Sequence[nn.Parameter],
        loss: Callable[[int], tuple[Tensor, bool]],
        rows: Rows,
        requests: Callable[[], Requests],
        kept_graphs: bool,
        private: bool,
    ) -> Reduced:
        """Leave in `.grad` the sum of the gradients of all micro-batches over the sum of their weights.

        `loss` computes the loss of a micro-batch of the share, returns it and whether it has a weight, and writes the
        micro-batch's row. `requests` is called as late as possible. `kept_graphs`: the graphs of several
        micro-batches were made in an earlier phase. `private`: `.grad` will be changed in place.
        """

    def reduce_rows(self, rows: Rows, requests: Callable[[], Requests]) -> Reduced:
        """Add up rows, in a phase without gradients to synchronize."""

    def close(self) -> None:
        """Release what is shared with other workers; no phase follows."""
