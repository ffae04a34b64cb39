"""A group of workers from its start to its result: watched, ended as a whole, and started anew where that can help.

`Group` is what is watched: Ray actors in one placement group, or a dummy in tests. The policies `hung_worker` and
`guilty` only look and answer; `supervise` acts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from cluster.checks import needs
from cluster.show import Progress, duration
from trainers.engine.errors import FAILED, STOPPED, SURROUNDINGS, PeerLost, Stopped, TroupeError
from trainers.run import Plan

POLL = 0.1  # seconds between looks at results
STATUS = 0.25  # seconds between looks at the workers
SILENCE_AT_START = 45.0  # seconds until then without any answer
PATIENCE_AT_START = 300.0  # seconds until the first micro-batch: imports, data, compiling
GRACE = 10.0  # seconds for the other workers to end, or to say who is guilty, once one has ended


Row = tuple[int, Mapping[str, float]]  # step, metrics


class Lost(TroupeError):
    """A worker died or hung: the run can go on from its newest checkpoint in a new group."""


class Look(NamedTuple):
    """What was seen of one worker."""

    silent: float  # seconds since it last answered
    microbatches: int  # whose loss was there; the last of them may not be finished
    idle: float  # seconds since the last one
    slowest: float  # seconds of its longest piece of work
    waiting: bool  # for other workers


class Group(Protocol):
    """Workers that train one run."""

    def outcomes(self) -> Mapping[int, Any]:
        """By rank: results, and errors as values, of the workers that have ended. Waits for a moment."""

    def looks(self) -> Sequence[Look]:
        """The newest look at every worker, ended or not."""

    def news(self) -> tuple[Mapping[str, Any], Sequence[str], Sequence[Row]]:
        """Progress of the run, lines to be told, and rows of metrics that were not handed over before, in order."""

    def resting(self) -> int | None:
        """The step at which the run is held for whoever watches, if it is."""

    def go_on(self, stopping: bool) -> None:
        """Let a run go on that is held; or save and stop where it is."""

    def stop(self) -> None:
        """Ask all workers to save and stop."""

    def end(self) -> None:
        """End all workers at once, and give back what they held."""


def hung_worker(looks: Sequence[Look], limit: float) -> int | None:
    """The worker that hangs: one that should be busy but shows no progress; never one that waits for others."""
    begun = [look.microbatches > 1 for look in looks]
    allowed = [max(limit, 10 * look.slowest) for look in looks]
    for rank, look in enumerate(looks):  # who waits for it at the start is not known to wait: it is blamed first
        if look.silent > (allowed[rank] if begun[rank] else max(limit, SILENCE_AT_START)):
            return rank
    for rank, look in enumerate(looks):
        if look.idle > (allowed[rank] if begun[rank] else max(limit, PATIENCE_AT_START)) and not look.waiting:
            return rank
    everyone_waits = bool(looks) and all(look.waiting for look in looks)
    if everyone_waits and min(look.idle for look in looks) > max(limit, PATIENCE_AT_START):
        return 0
    return None


def guilty(outcomes: Mapping[int, Any]) -> TroupeError | None:
    """The error to show: a worker's own, or the loss of a worker; not that of those who missed it."""
    errors = [outcome for outcome in outcomes.values() if isinstance(outcome, TroupeError)]
    own = [error for error in errors if not isinstance(error, PeerLost)]
    return min(own, key=lambda error: isinstance(error, (Lost, Stopped)), default=None)


def supervise(
    start: Callable[[], Group], max_restarts: int, hang_after: float, stop_requested: Callable[[], bool],
    progress: Progress, report: Callable[[int, Mapping[str, float]], None] = lambda step, row: None,
    at_rest: Callable[[int], None] = lambda step: None, note: Callable[[str], None] = lambda why: None,
) -> dict[str, Any]:  # fmt: skip
    """Start a group, watch it to its end, and start it anew after the loss of a worker. Returns the run's result.

    `report` is told every row of metrics, in order; steps that are made anew after a loss are told again. A group that
    is held at a step goes on when `at_rest` returns. `note` is told why a group had to begin anew.
    """
    restarts = 0
    while True:
        group: Group | None = None
        try:
            group = start()
            return _watch(group, hang_after, stop_requested, progress, report, at_rest)
        except Lost as lost:
            if restarts >= max_restarts:
                again = f" ({restarts} restarts before)" if restarts else ""
                raise TroupeError(f"{lost.mistakes[0]}{again}; go on with --resume", FAILED) from None
            if stop_requested():
                raise TroupeError(
                    f"{lost.mistakes[0]} while it was stopped, before it had saved; go on with --resume", STOPPED
                ) from None
            restarts += 1
            note(lost.mistakes[0])
            progress.say(
                f"{lost.mistakes[0]}; going on from the newest checkpoint (restart {restarts} of {max_restarts})"
            )
        finally:
            if group is not None:
                group.end()


def _watch(
    group: Group, hang_after: float, stop_requested: Callable[[], bool], progress: Progress,
    report: Callable[[int, Mapping[str, float]], None], at_rest: Callable[[int], None],
) -> dict[str, Any]:  # fmt: skip
    """The result of a group, or the error of the worker that is guilty of there being none."""
    asked, last_status, ended = False, 0.0, None
    while True:
        outcomes = group.outcomes()
        looks = group.looks()
        if time.monotonic() - last_status > STATUS or len(outcomes) == len(looks):
            last_status = time.monotonic()
            newest, lines, rows = group.news()
            for step, row in rows:
                report(step, row)
            for line in lines:
                progress.say(line)
            progress.show(newest)
            resting = group.resting()
            if resting is not None:
                at_rest(resting)
        else:
            resting = None
        if stop_requested() and not asked:
            asked = True
            progress.say("stopping: saving first")
            group.stop()
        if resting is not None:
            group.go_on(asked)
        error = guilty(outcomes)
        if error is not None and not isinstance(error, Stopped):
            raise error
        if len(outcomes) == len(looks):
            if error is not None:
                raise error
            missed = next((outcome for outcome in outcomes.values() if isinstance(outcome, PeerLost)), None)
            if missed is not None:
                raise Lost(missed.mistakes)
            result: dict[str, Any] = outcomes[0]
            return result
        if outcomes:  # some have ended: the others should too, soon
            ended = ended or time.monotonic()
            if time.monotonic() - ended > GRACE:
                missing = [rank for rank in range(len(looks)) if rank not in outcomes]
                raise Lost(f"worker {missing[0]} did not end with the others")
            continue
        rank = hung_worker(looks, hang_after)
        if rank is not None:
            look = looks[rank]
            what = "does not answer" if look.silent > look.idle / 2 else "makes no progress"
            raise Lost(f"worker {rank} {what} since {duration(max(look.silent, look.idle))}")


class ActorGroup:
    """Ray actors, one for each worker, in one placement group."""

    def __init__(self, plan: Plan, runtime_env: Mapping[str, Any], held_for: str = "", placement: Any = None) -> None:
        """Start the workers, in a placement group of their own or in the last bundles of the one given, and the run."""
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from cluster.worker import Worker

        self.ray = ray
        self.size = int(plan.settings["workers"])
        each = needs(plan.settings)
        self.owned, self.placement = placement is None, placement
        if self.placement is None:
            self.placement = placement_group([each] * self.size, strategy="PACK")
            if not self.placement.wait(60):
                ray.util.remove_placement_group(self.placement)
                raise TroupeError(
                    f"workers={self.size}: the cluster has no room for them now; wait, or take fewer workers",
                    SURROUNDINGS,
                )
        first = self.placement.bundle_count - self.size
        actor: Any = ray.remote(  # type: ignore[call-overload]
            num_cpus=each["CPU"], num_gpus=each.get("GPU", 0), runtime_env=dict(runtime_env) or None, max_restarts=0,
            concurrency_groups={"watch": 2},
        )(Worker)  # fmt: skip
        self.actors = [
            actor.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self.placement, placement_group_bundle_index=first + bundle
                )
            ).remote()
            for bundle in range(self.size)
        ]
        self.processes: dict[int, int] = {}
        try:
            asked = [worker.where.options(concurrency_group="watch").remote() for worker in self.actors]
            places = ray.get(asked, timeout=PATIENCE_AT_START)
        except ray.exceptions.RayError as error:
            self.end()
            raise Lost(f"the workers did not start: {str(error).splitlines()[0]}") from error
        order = sorted(range(self.size), key=lambda place: places[place][0])  # neighbours in rank share a host
        self.actors = [self.actors[place] for place in order]
        self.begin(plan, held_for)

    def begin(self, plan: Plan, held_for: str = "") -> None:
        """Start a run; the workers may have carried out another one. It is held after rows with the metric named."""
        _, address, port = self.ray.get(self.actors[0].where.options(concurrency_group="watch").remote())
        self.results = {
            worker.train.remote(plan, rank, self.size, address, port, held_for): rank
            for rank, worker in enumerate(self.actors)
        }
        self.ended: dict[int, Any] = {}
        self.answered = [time.monotonic()] * self.size
        self.answers: list[dict[str, Any]] = [{} for _ in self.actors]
        self.asked: dict[Any, int] = {}
        self.lines: list[str] = []
        self.rows: list[Row] = []

    def outcomes(self) -> Mapping[int, Any]:
        waiting = [ref for ref, rank in self.results.items() if rank not in self.ended]
        if waiting:
            done, _ = self.ray.wait(waiting, num_returns=len(waiting), timeout=POLL)
            for ref in done:
                rank = self.results[ref]
                try:
                    self.ended[rank] = self.ray.get(ref)
                except self.ray.exceptions.RayActorError:
                    process = f", process {self.processes[rank]}" if rank in self.processes else ""
                    self.ended[rank] = Lost(f"worker {rank} died (killed, or out of memory{process})")
                except self.ray.exceptions.RayError as error:
                    self.ended[rank] = Lost(f"worker {rank}: {str(error).splitlines()[0]}")
        return self.ended

    def looks(self) -> Sequence[Look]:
        self._ask()
        now = time.monotonic()
        return [
            Look(
                now - self.answered[rank], answer.get("microbatches", 0),
                answer.get("idle", 0.0) + now - self.answered[rank], answer.get("slowest", 0.0),
                answer.get("waiting", False),
            )
            for rank, answer in enumerate(self.answers)
        ]  # fmt: skip

    def news(self) -> tuple[Mapping[str, Any], Sequence[str], Sequence[Row]]:
        if 0 in self.ended:  # its last rows: nobody asks a worker that has ended otherwise
            with contextlib.suppress(self.ray.exceptions.RayError):
                self._take(
                    0, self.ray.get(self.actors[0].status.options(concurrency_group="watch").remote(), timeout=5)
                )
        (lines, self.lines), (rows, self.rows) = (self.lines, []), (self.rows, [])
        return self.answers[0].get("progress", {}), lines, rows

    def resting(self) -> int | None:
        step: int | None = self.answers[0].get("resting") if 0 not in self.ended else None
        return step

    def go_on(self, stopping: bool) -> None:
        self.answers[0]["resting"] = None  # until it says so again
        self.actors[0].go_on.options(concurrency_group="watch").remote(stopping)

    def stop(self) -> None:
        for worker in self.actors:
            worker.stop.options(concurrency_group="watch").remote()

    def end(self) -> None:
        for worker in self.actors:
            with contextlib.suppress(Exception):
                self.ray.kill(worker)
        if self.owned:
            with contextlib.suppress(Exception):
                self.ray.util.remove_placement_group(self.placement)

    def _ask(self) -> None:
        """Keep one question under way to each worker, and take in what has been answered."""
        if self.asked:
            done, _ = self.ray.wait(list(self.asked), num_returns=len(self.asked), timeout=0)
            for ref in done:
                rank = self.asked.pop(ref)
                with contextlib.suppress(self.ray.exceptions.RayError):
                    self._take(rank, self.ray.get(ref))
        for rank, worker in enumerate(self.actors):
            if rank not in self.asked.values() and rank not in self.ended:
                if time.monotonic() - self.answered[rank] < STATUS and self.answers[rank]:
                    continue
                self.asked[worker.status.options(concurrency_group="watch").remote()] = rank

    def _take(self, rank: int, answer: dict[str, Any]) -> None:
        """What a worker has answered; only the first one's lines and rows are for others."""
        self.answered[rank], self.answers[rank] = time.monotonic(), answer
        self.processes[rank] = answer["process"]
        if rank == 0:
            self.lines += answer["said"]
            self.rows += answer["rows"]
