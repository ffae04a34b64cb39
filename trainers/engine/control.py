"""A worker's progress as its supervisor sees it, and the only request it takes: to stop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

Report = Callable[[int, Mapping[str, float]], None]  # receives each row of metrics: its step, and numbers by name


class Interrupted(Exception):
    """A stop was requested during work that changes nothing in the run: the work was abandoned, and is repeated when
    the run resumes."""


class Control:
    """Shared by a worker's loop and its supervisor, which may run in another thread."""

    def __init__(
        self,
        notify: Callable[[str], None] = lambda line: None,
        report: Report = lambda step, row: None,
        plots: bool = True,
        on_activity: Callable[[str], None] = lambda what: None,
        on_step_end: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.notify = notify  # prints one line for the user: a notice or a warning
        self.report = report  # on rank 0: every row of metrics with its step, in order, as it is written
        self.on_activity = on_activity  # the work between two steps, whenever it changes
        self.on_step_end = on_step_end  # on rank 0: a step with rows is written, its checkpoint too; may hold the run
        self.plots = plots  # whether to plot curves and figures of evaluations, besides the samples themselves
        self.stop_requested = False
        self.progress: dict[str, Any] = {}  # step, steps, samples_per_second, metrics: the newest; doing
        self.heartbeats = 0
        self.microbatches = 0
        self.slowest = 0.0  # seconds of the longest piece of work so far
        self.last_heartbeat = time.monotonic()

    def restart_clock(self) -> None:
        """Restart the clock: time spent waiting for other workers does not count as work."""
        self.last_heartbeat = time.monotonic()

    def microbatch(self) -> None:
        """The loss of a micro-batch is computed, and the one before it finished; a GPU may still be computing both."""
        self.microbatches += 1
        self.heartbeat()

    def show_activity(self, what: str) -> None:
        """Set the work between two steps for the progress line; "" for none."""
        self.progress = {**self.progress, "doing": what}
        self.on_activity(what)

    def make_heartbeat(self, what: str) -> Callable[[], None]:
        """A function to call after each piece of a long task: it signals progress, shows the elapsed time, and raises
        Interrupted if a stop is requested."""
        started = time.monotonic()

        def heartbeat() -> None:
            self.heartbeat()
            self.show_activity(f"{what}, {time.monotonic() - started:.0f} s")
            if self.stop_requested:
                raise Interrupted

        return heartbeat

    def heartbeat(self) -> None:
        """Signal that a piece of work is done: a micro-batch, a chunk of a grid, a checkpoint."""
        now = time.monotonic()
        if self.heartbeats:
            self.slowest = max(self.slowest, now - self.last_heartbeat)
        self.heartbeats += 1
        self.last_heartbeat = now


class Marks:
    """Marks behind pieces of work: `done` is called for each one that the device has passed. A GPU is not waited for:
    if it hangs, its marks are never passed, and `done` is not called any more."""

    def __init__(self, done: Callable[[], None], device: str, event: Callable[[], Any] | None = None) -> None:
        """`event` makes an event of the device, as `torch.cuda.Event`; by default, a CPU needs none."""
        self.done = done
        self.event = event
        if event is None and device == "cuda":
            import torch

            self.event = torch.cuda.Event
        self.waiting: deque[Any] = deque()

    def set(self) -> None:
        """Set a mark behind all work so far, and look which ones have been passed."""
        if self.event is None:
            self.done()
            return
        event = self.event()
        event.record()
        self.waiting.append(event)
        while self.waiting and self.waiting[0].query():
            self.waiting.popleft()
            self.done()

    def wait(self) -> None:
        """Wait until the device has passed all marks."""
        while self.waiting:
            self.waiting[0].synchronize()
            self.waiting.popleft()
            self.done()
