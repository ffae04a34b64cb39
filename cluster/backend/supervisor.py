"""Supervises a group of workers from its start to its result: watches it, ends all of it, restarts it after a loss.

A `Group` is Ray actors in one placement group (`cluster.backend.actors`), or a dummy in tests. The policies
`hung_worker`, `root_cause`, `failure` and `can_save` have no side effects; `supervise` acts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from cluster.terminal.progress import Progress, duration
from trainers.base.errors import FAILED, STOPPED, NotStarted, PeerLost, Stopped, TroupeError
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS
from trainers.engine.control import Report

Row = tuple[int, Mapping[str, float]]  # step, metrics
Outcomes = Mapping[int, Any]  # by rank: results, and errors as values

WORKER, NODE, PREEMPTED, HUNG, RAY, RESIZED = "worker lost", "node lost", "preempted", "hung", "ray lost", "resized"
CLEANED = "ray cleaned away"  # files of a local Ray were deleted; its workers saved before it was ended
COUNTED = (WORKER, HUNG, RAY)  # toward the limit of restarts; nodes join and leave by decision of their cluster


class SuspendAwareClock:
    """A clock that pauses while its process is stopped, as by Ctrl-Z: workers are not blamed for that time."""

    def __init__(self) -> None:
        self.last, self.suspended = time.monotonic(), 0.0

    def now(self) -> float:
        """Seconds on this clock; to be called at every poll."""
        now = time.monotonic()
        if now - self.last > WAITS.watcher_away:
            self.suspended += now - self.last
        self.last = now
        return now - self.suspended


class WorkerLost(TroupeError):
    """A worker hung, or a part died: the run can resume from its newest checkpoint in a new group."""

    def __init__(self, why: str, kind: str = WORKER) -> None:
        super().__init__(Problem("lost", reason=why, resumes=True), FAILED)
        self.why, self.kind = why, kind

    def __reduce__(self) -> Any:
        return type(self), (self.why, self.kind)


class WorkerStatus(NamedTuple):
    """The observed state of one worker."""

    silent: float  # seconds since it last answered
    microbatches: int  # whose loss was computed; the last of them may be unfinished
    idle: float  # seconds since the last one
    slowest: float  # seconds of its longest piece of work
    waiting: bool  # for other workers


class Group(Protocol):
    """Workers that train one run."""

    def outcomes(self) -> Outcomes:
        """The outcomes of workers that have ended. Waits briefly."""

    def statuses(self) -> Sequence[WorkerStatus]:
        """The latest state of every worker, ended or not."""

    def updates(self) -> tuple[Mapping[str, Any], Sequence[str], Sequence[Row]]:
        """Progress of the run, lines to print, and new rows of metrics, in order."""

    def paused_at(self) -> int | None:
        """The step at which the run is held for its caller, or None."""

    def release(self, stopping: bool) -> None:
        """Continue a held run; or save and stop it at its step."""

    def move_reason(self) -> WorkerLost | None:
        """Why the workers should save and restart elsewhere, or in another number; or None."""

    def stop(self) -> None:
        """Ask all workers to save and stop."""

    def end(self) -> None:
        """End all workers immediately, and release their resources."""


def hung_worker(statuses: Sequence[WorkerStatus], limit: float) -> int | None:
    """The hung worker: one that should be busy but makes no progress; never one that waits for others."""
    has_started = [status.microbatches > 1 for status in statuses]
    allowed = [max(limit, 10 * status.slowest) for status in statuses]
    for rank, status in enumerate(statuses):  # silence first: at the start, others do not yet report that they wait
        if status.silent > (allowed[rank] if has_started[rank] else max(limit, WAITS.silence_at_start)):
            return rank
    for rank, status in enumerate(statuses):
        if (
            status.idle > (allowed[rank] if has_started[rank] else max(limit, WAITS.first_microbatch))
            and not status.waiting
        ):
            return rank
    everyone_waits = bool(statuses) and all(status.waiting for status in statuses)
    if everyone_waits and min(status.idle for status in statuses) > max(limit, WAITS.first_microbatch):
        return 0
    return None


def root_cause(outcomes: Outcomes) -> TroupeError | None:
    """The error to report: a worker's own, or the loss of a worker; not PeerLost of the others."""
    errors = [outcome for outcome in outcomes.values() if isinstance(outcome, TroupeError)]
    own = [error for error in errors if not isinstance(error, PeerLost)]
    return min(own, key=lambda error: isinstance(error, (WorkerLost, Stopped)), default=None)


def failure(
    outcomes: Outcomes, statuses: Sequence[WorkerStatus], since_first_end: float, worker_timeout: float
) -> TroupeError | None:
    """The error that prevents a result; None if the group has a result, or still runs."""
    error = root_cause(outcomes)
    if len(outcomes) == len(statuses):
        missed = next((outcome for outcome in outcomes.values() if isinstance(outcome, PeerLost)), None)
        return WorkerLost(missed.mistakes[0]) if error is None and missed is not None else error
    if error is not None and not isinstance(error, Stopped):
        return error
    if outcomes:  # some have ended: the others should end soon
        missing = min(set(range(len(statuses))) - outcomes.keys())
        late = since_first_end > WAITS.end_of_group
        return WorkerLost(f"worker {missing} did not end with the others", HUNG) if late else None
    rank = hung_worker(statuses, worker_timeout)
    if rank is None:
        return None
    status = statuses[rank]
    what = "has not answered" if status.silent > status.idle / 2 else "has made no progress"
    return WorkerLost(f"worker {rank} {what} for {duration(max(status.silent, status.idle))}", HUNG)


def can_save(outcomes: Outcomes, statuses: Sequence[WorkerStatus], since_request: float) -> bool:
    """Whether a group that should stop has anything to save. Raises NotStarted if it certainly has not."""
    if outcomes or any(status.microbatches for status in statuses):
        return True
    if since_request > WAITS.answer_at_start or all(status.silent < since_request for status in statuses):
        raise NotStarted()  # observed since the request: the first steps can take milliseconds
    return False


def supervise(
    start: Callable[[WorkerLost | None], Group],
    max_restarts: int,
    worker_timeout: float,
    stop_requested: Callable[[], bool],
    progress: Progress,
    report: Report = lambda step, row: None,
    on_step_end: Callable[[int], None] = lambda step: None,
    note: Callable[[str, str], None] = lambda kind, why: None,
) -> dict[str, Any]:
    """Start a group, watch it to its end, and restart it after a loss. Returns the run's result.

    `start` receives the loss of the group before. `report` receives every row of metrics, in order; steps that are
    repeated after a loss are reported again. A group that is held at a step continues when `on_step_end` returns.
    `note` receives the kind of a loss, and why the group had to restart.
    """
    restarts, last = 0, None
    while True:
        group: Group | None = None
        try:
            group = start(last)
            return _watch(group, worker_timeout, stop_requested, progress, report, on_step_end)
        except WorkerLost as lost:
            counted = lost.kind in COUNTED
            if counted and restarts >= max_restarts:
                again = f" (after {restarts} restarts)" if restarts else ""
                raise TroupeError(Problem("lost", reason=f"{lost.why}{again}", resumes=True), FAILED) from None
            if stop_requested():
                reason = f"{lost.why} during the stop, before saving"
                raise TroupeError(Problem("lost", reason=reason, resumes=True), STOPPED) from None
            last, restarts = lost, restarts + counted
            if lost.kind != RESIZED:
                note(lost.kind, lost.why)
            count = f" (restart {restarts} of {max_restarts})" if counted else ""
            progress.notify(f"{lost.why}; resuming from the newest checkpoint{count}")
        finally:
            if group is not None:
                group.end()


def _watch(
    group: Group,
    worker_timeout: float,
    stop_requested: Callable[[], bool],
    progress: Progress,
    report: Report,
    on_step_end: Callable[[int], None],
) -> dict[str, Any]:
    """The result of a group. Raises the error that prevents it."""
    clock, last_news, stopping = SuspendAwareClock(), 0.0, False
    requested: float | None = None  # when a stop request was first seen
    first_end: float | None = None  # when an ended worker was first seen
    moving: WorkerLost | None = None  # why the group should save and restart elsewhere
    while True:
        now, outcomes, statuses = clock.now(), group.outcomes(), group.statuses()
        complete, paused_at = len(outcomes) == len(statuses), None
        if complete or time.monotonic() - last_news > WAITS.poll_workers:
            last_news = time.monotonic()
            paused_at = _pass_on_news(group, progress, report, on_step_end)

        why = ""
        if stop_requested() and not stopping:
            requested = requested or now
            why = "stopping" if can_save(outcomes, statuses, now - requested) else ""
        if not stopping and not why and (moving := group.move_reason()) is not None:
            why = moving.why
        if why:
            stopping = True
            progress.notify(f"{why}: saving first")
            group.stop()
        if paused_at is not None:
            group.release(stopping)

        first_end = first_end or (now if outcomes else None)
        error = failure(outcomes, statuses, now - (first_end or now), worker_timeout)
        if isinstance(error, Stopped) and moving is not None and not stop_requested():
            error = moving
        if error is not None:
            raise error
        if complete:
            result: dict[str, Any] = outcomes[0]
            return result


def _pass_on_news(group: Group, progress: Progress, report: Report, on_step_end: Callable[[int], None]) -> int | None:
    """Report and show news. Returns the step at which the run is held, if it is, after calling `on_step_end`."""
    newest, lines, rows = group.updates()
    for step, row in rows:
        report(step, row)
    for line in lines:
        progress.notify(line)
    progress.show(newest)
    paused_at = group.paused_at()
    if paused_at is not None:
        on_step_end(paused_at)
    return paused_at
