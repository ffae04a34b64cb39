"""What a person sees while a run goes on: one line that renews itself, or a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

QUIET = 10.0  # seconds between plain lines, where the output is no terminal


class Progress:
    """Shows the newest progress of a run on a stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.started: tuple[float, int] | None = None
        self.last = 0.0
        self.shown = ""

    def say(self, line: str) -> None:
        """A notice or a warning, on a line of its own."""
        self._clear()
        print(f"troupe: {line}", file=self.stream, flush=True)

    def show(self, progress: Mapping[str, Any]) -> None:
        """The newest state of the run; does nothing where it was shown a moment ago."""
        if not progress:
            return
        now = time.monotonic()
        step, steps = progress["step"], progress["steps"]
        if self.started is None:
            self.started = (now, step)
        if now - self.last < (0.2 if self.terminal else QUIET):
            return
        self.last = now
        begun, first = self.started
        left = (now - begun) / (step - first) * (steps - step) if step > first else None
        line = describe(progress, left)
        if line == self.shown:
            return
        self._clear()
        self.shown = line
        if self.terminal:
            print(line, end="", file=self.stream, flush=True)
        else:
            print(line, file=self.stream, flush=True)

    def packing(self, done: int, total: int) -> None:
        """How far a folder of images is packed."""
        now = time.monotonic()
        if now - self.last < (0.2 if self.terminal else QUIET) and done < total:
            return
        self.last = now
        self._clear()
        self.shown = f"packing images {done}/{total}  {bar(done / max(1, total))}"
        print(self.shown, end="" if self.terminal else "\n", file=self.stream, flush=True)

    def end(self) -> None:
        self._clear()

    def _clear(self) -> None:
        if self.terminal and self.shown:
            print("\r\x1b[K", end="", file=self.stream)
        self.shown = ""


def describe(progress: Mapping[str, Any], left: float | None) -> str:
    """`step 120/800  412 images/s  discriminator_loss 0.41  generator_loss 2.13  1m10s left`."""
    parts = [f"step {progress['step']}/{progress['steps']}"]
    if progress.get("images_per_second"):
        parts.append(f"{progress['images_per_second']:.0f} images/s")
    parts += [f"{name} {value:.3g}" for name, value in progress["metrics"].items() if "loss" in name or "eval" in name]
    if left is not None:
        parts.append(f"{duration(left)} left")
    return "  ".join(parts)


def bar(share: float, width: int = 30) -> str:
    """`[#########           ]`."""
    return "[" + "#" * round(share * width) + " " * (width - round(share * width)) + "]"


def duration(seconds: float) -> str:
    """`42s`, `3m05s`, `2h10m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def size(count: float) -> str:
    """Bytes as a person reads them: `75.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
