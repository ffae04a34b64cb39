"""Progress output: one line that updates during a run, plain lines if the stream is no terminal, and the result.

Everything fits the terminal, since a wrapped line cannot be updated. A closed stream does not stop the run.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from cluster.terminal.streams import flush, is_terminal
from cluster.terminal.tables import columns_of, cut, table, width_of, wrapped
from trainers.base.timeouts import WAITS
from trainers.drawing.decoration import Decorations
from trainers.settings.fields import show_size

size = show_size
LINE = "the progress line"
EVALUATED = 2  # number of evaluation metrics in a progress line, the main one first


class Silence(io.StringIO):
    """A stream that discards its output."""

    def write(self, text: str) -> int:
        return len(text)


class Progress:
    """Shows the latest progress of a run on a stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream: TextIO = stream or sys.stdout or Silence()
        self.terminal = is_terminal(self.stream)
        self.renews = self.terminal and os.environ.get("TERM") != "dumb"  # which cannot overwrite a line
        self.started: tuple[float, int] | None = None
        self.last = 0.0
        self.shown = ""
        self.making = Decorations(self.notify).making

    def notify(self, line: str) -> None:
        """A notice or a warning, on a line of its own."""
        self._clear()
        self._print(self._fitted(f"troupe: {line}"))

    def line(self, line: str) -> None:
        """Part of an answer, on a line of its own."""
        self._clear()
        self._print(self._fitted(line))

    def show(self, progress: Mapping[str, Any]) -> None:
        """Show the latest state of the run, at a limited rate."""
        if "step" in progress:
            with self.making(LINE):
                self._show(progress)
        elif progress.get("doing"):  # before the first step
            self.doing(progress["doing"])

    def _show(self, progress: Mapping[str, Any]) -> None:
        now = time.monotonic()
        step, steps = progress["step"], progress["steps"]
        if self.started is None:
            self.started = (now, step)
        if now - self.last < (0.2 if self.renews else WAITS.plain_line):
            return
        self.last = now
        started_at, first = self.started
        remaining = (now - started_at) / (step - first) * (steps - step) if step > first else None
        self._renew(describe(progress, remaining, self._width()))

    def packing(self, done: int, total: int) -> None:
        """Show how many images of a folder are packed."""
        now = time.monotonic()
        if now - self.last < (0.2 if self.renews else WAITS.plain_line) and done < total:
            return
        self.last = now
        with self.making(LINE):
            line, width = f"packing images {done}/{total}", self._width()
            room = min(30, (width or 80) - len(line) - 4)
            self._renew(f"{line}  {bar(done / max(1, total), room)}" if room > 4 else cut(line, width))

    def doing(self, what: str) -> None:
        """Show what the run does between steps; in a pipe only if it takes long."""
        now = time.monotonic()
        self.last = self.last or now
        if now - self.last < (0.2 if self.renews else WAITS.plain_line):
            return
        self.last = now
        with self.making(LINE):
            self._renew(cut(what, self._width()))

    def end(self) -> None:
        self._clear()

    def _width(self) -> int | None:
        """Maximum columns of a line that does not wrap; None without a terminal."""
        return width_of(self.stream) - 1 if self.terminal else None

    def _fitted(self, line: str) -> str:
        return wrapped(line, width_of(self.stream)) if self.terminal else line

    def _renew(self, line: str) -> None:
        if line == self.shown:
            return
        self._clear()
        self.shown = line
        self._print(line, end="" if self.renews else "\n")

    def _clear(self) -> None:
        if self.renews and self.shown:
            self._print("\r\x1b[K", end="")
        self.shown = ""

    def _print(self, text: str, end: str = "\n") -> None:
        with contextlib.suppress(Exception):  # closed, full, or a custom stream, which can raise anything
            print(text, end=end, file=self.stream)
            flush(self.stream)


def describe(progress: Mapping[str, Any], remaining: float | None, width: int | None = None) -> str:
    """`step 120/800  412 samples/s  discriminator_loss 0.41  generator_loss 2.13  1m10s left`.

    At most `width` columns, if given: step and time left first, then the main evaluation, then speed, then as many
    metrics as fit, those of evaluations before others.
    """
    texts = {"step": f"step {progress['step']}/{progress['steps']}"}
    if progress.get("doing"):
        texts["doing"], remaining = progress["doing"], None
    if progress.get("samples_per_second"):
        texts["speed"] = f"{progress['samples_per_second']:.0f} samples/s"
    evaluated = [name for name in progress["metrics"] if name.startswith("eval_")][:EVALUATED]
    numbers = {name: value for name, value in progress["metrics"].items() if "loss" in name or name in evaluated}
    texts |= {name: f"{name} {value:.3g}" for name, value in numbers.items()}
    if remaining is not None:
        texts["left"] = f"{duration(remaining)} left"
    important = sorted(numbers, key=lambda name: "eval" not in name)
    chosen: set[str] = set()
    for name in ("step", "doing", "left", *important[:1], "speed", *important[1:]):
        line = "  ".join(text for part, text in texts.items() if part in {*chosen, name})
        if width is None or columns_of(line) <= width:
            chosen.add(name)
    if "step" not in chosen:
        return cut(texts["step"], width)
    return "  ".join(text for part, text in texts.items() if part in chosen)


def lines_of(result: Mapping[str, Any], parts: Sequence[str]) -> list[str]:
    """The summary of a finished run: duration and speed, results, and the paths of its files (`parts`)."""
    speed, share, best = result.get("samples_per_second"), result.get("evaluation_share"), result.get("best")
    steps = "1 step" if result["steps"] == 1 else f"{result['steps']} steps"
    watch = f", {result['watch_share']:.1%} on watch" if result.get("watch_share") else ""
    timing = [
        f"{steps} in {duration(result['seconds'])}",
        f"{speed:.0f} samples/s" if speed else "",
        f"{share or 0:.1%} of the time in evaluations{watch}" if share or watch else "",
    ]
    lines = [f"{result['name']}: " + ", ".join(filter(None, timing))]
    if result["restarts"]:
        last, count = result["restarts"][-1], len(result["restarts"])
        times = "once" if count == 1 else f"{count} times"
        lines.append(f"  restarted       {times}, last at step {last['step']}: {last['why']}")
    if result.get("worry"):
        lines.append(f"  worry           {result['worry']}")
    if result.get("target"):
        lines.append(f"  reached         {result['target']} at step {result['steps']}, after {result['seconds']:.1f} s")
    if best:
        newest = result["metrics"][best["metric"]]
        lines.append(
            f"  {best['metric']:<14}  {newest:.4g} at the end, best {best['value']:.4g} at step {best['step']}"
        )
    lines += verdict_lines(result["verdict"]) if result.get("verdict") else []
    files = [(part, result[part]) for part in parts if result.get(part)]
    files += [(Path(path).stem, path) for path in result["pictures"]]
    lines += [f"  {part:<14}  {from_here(path)}" for part, path in files]
    return lines


def from_here(path: str) -> str:
    """A path relative to the current folder, if it is inside."""
    near = os.path.relpath(path)
    return path if near.startswith("..") else near


def verdict_lines(report: Mapping[str, Any]) -> list[str]:
    """The numbers of a verdict next to those of real samples, and their origin."""
    right = report.get("judge_accuracy")
    judge = f", by a classifier with {right:.1%} accuracy on them" if right is not None else ""
    rows = [
        {"": f"  {name}", "generated": f"{sides['generated']:.4g}", "real": f"{sides['real']:.4g}"}
        for name, sides in report["numbers"].items()
    ]
    head = f"  verdict by {report['features']}: {report['samples']} samples and as many held-out ones{judge}"
    return [head, *table(rows).splitlines(), *(f"  note: {note}" for note in report["notes"])]


def rows_of_runs(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Runs and searches as rows of a table; `-` for unknown values."""
    table_rows = []
    for row in rows:
        far = "-" if row["step"] is None else f"{row['step']}/{row['steps']}"
        far = f"{row['trials_ended']}/{row['trials']} trials" if row["kind"] == "search" else far
        time = "-" if row["seconds"] is None else duration(row["seconds"])
        table_rows.append(
            {
                "name": row["name"],
                "family": row["family"] or "-",
                "data": row["data"] or "-",
                "steps": far,
                "state": row["state"],
                "time": time,
                "size": size(row["bytes"]),
                "": row["note"] or "",
            }
        )
    return table_rows


def rows_of_packed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Packed folders of images as rows of a table."""
    return [{"source": row["source"], "size": size(row["bytes"]), "packed": row["packed"]} for row in rows]


def bar(share: float, width: int = 30) -> str:
    """`[#########           ]`."""
    return "[" + "#" * round(share * width) + " " * (width - round(share * width)) + "]"


def duration(seconds: float) -> str:
    """`42s`, `3m05s`, `2h10m`."""
    total = round(seconds)
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    return f"{total // 3600}h{total % 3600 // 60:02d}m"


def about_trials(terms: Mapping[str, Any], at_once: int, each: Mapping[str, float], workers: int, room: int) -> str:
    """The number of trials, how many run at once, and why."""
    seeds = f", each with {len(terms['seeds'])} seeds" if terms["seeds"] else ""
    points = "1 point" if terms["points"] == 1 else f"{terms['points']} points"
    takes = " and ".join(
        f"{count * workers:g} {kind}{'s' if count * workers != 1 else ''}" for kind, count in each.items()
    )
    why = "as many as fit" if at_once == room else "as requested" if terms["max_concurrent"] else "all of them"
    return (
        f"{points}{seeds}, {terms['algorithm']}, {terms['scheduler']}; {at_once} at once, {why} (a trial takes {takes})"
    )
