"""What whoever watches a worker sees of it, and the one thing it can be asked: to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any


class Left(Exception):
    """A stop was asked for during work that changes nothing in the run: it was left, and is done anew when the run goes
    on."""


class Control:
    """Shared by a worker's loop and its watcher, which may live in another thread."""

    def __init__(
        self,
        say: Callable[[str], None] = lambda line: None,
        report: Callable[[int, Mapping[str, float]], None] = lambda step, row: None,
        draws: bool = True,
        shows: Callable[[str], None] = lambda what: None,
        at_rest: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.say = say  # tells the person one line: a notice or a warning
        self.report = report  # on rank 0: every row of metrics with its step, in order, as it is written
        self.shows = shows  # what goes on between two steps, whenever it changes
        self.at_rest = at_rest  # on rank 0: all of a step with rows is written, its checkpoint too; may hold the run
        self.draws = draws  # whether curves and pictures of evaluations are wanted, beside the samples themselves
        self.stop_requested = False
        self.progress: dict[str, Any] = {}  # step, steps, samples_per_second, metrics: the newest; doing
        self.beats = 0
        self.microbatches = 0
        self.slowest = 0.0  # seconds of the longest piece of work so far
        self.last = time.monotonic()

    def rested(self) -> None:
        """Time spent waiting for other workers is nobody's work."""
        self.last = time.monotonic()

    def microbatch(self) -> None:
        """The loss of a micro-batch is there, the one before it is finished; of a GPU, they are under way."""
        self.microbatches += 1
        self.beat()

    def doing(self, what: str) -> None:
        """What goes on between two steps, for the progress line; "" for nothing."""
        self.progress = {**self.progress, "doing": what}
        self.shows(what)

    def beating(self, what: str) -> Callable[[], None]:
        """What is called after each piece of a long work: it tells whoever watches, shows how long it has gone on, and
        raises Left where a stop is asked for."""
        begun = time.monotonic()

        def beat() -> None:
            self.beat()
            self.doing(f"{what}, {time.monotonic() - begun:.0f} s")
            if self.stop_requested:
                raise Left

        return beat

    def beat(self) -> None:
        """A piece of work is done: a micro-batch, a chunk of a grid, a checkpoint."""
        now = time.monotonic()
        if self.beats:
            self.slowest = max(self.slowest, now - self.last)
        self.beats += 1
        self.last = now
