"""Workers as Ray actors in one placement group: as many as fit, within the range that was requested."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.backend import nodes
from cluster.backend.nodes import last_line
from cluster.backend.supervisor import (
    CLEANED,
    NODE,
    PREEMPTED,
    RAY,
    RESIZED,
    WORKER,
    Outcomes,
    Row,
    SuspendAwareClock,
    WorkerLost,
    WorkerStatus,
)
from cluster.host.requirements import needs
from cluster.terminal.progress import duration
from trainers.base.errors import ENVIRONMENT, NotStarted, TroupeError, of_worker
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS
from trainers.run import Plan
from trainers.run_folders.run_folder import RunFolder

if TYPE_CHECKING:
    from cluster.backend.connection import Connected
    from cluster.backend.local_ray import LocalRay

Answer = TypeVar("Answer")


def raise_if_died(died: Callable[[], str]) -> None:
    """Raises WorkerLost if Ray itself has died."""
    if why := died():
        raise WorkerLost(why, RAY)


def ask_ray(question: Callable[[], Answer], died: Callable[[], str]) -> Answer:
    """The answer of Ray. Raises WorkerLost if it dies meanwhile: it would be silent, and end this process after a
    minute."""
    answers: list[Answer | Exception] = []

    def run() -> None:
        try:
            answers.append(question())
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(WAITS.poll_results)
        if thread.is_alive():
            raise_if_died(died)
    (answer,) = answers
    if isinstance(answer, Exception):
        raise answer
    return answer


class PlacementRequest:
    """Places workers in their own placement group, as large as fits."""

    def __init__(
        self,
        each: Mapping[str, float],
        least: int,
        most: int,
        lost: WorkerLost | None,
        used: Connected | LocalRay,
        stop_requested: Callable[[], bool],
        notify: Callable[[str], None],
        cluster: bool,
    ) -> None:
        self.each, self.least, self.most, self.lost = dict(each), least, most, lost
        self.used, self.stop_requested, self.notify, self.cluster = used, stop_requested, notify, cluster
        self.group: Any = None  # a placement group that was requested and is not granted yet
        self.size, self.requested = most, 0.0  # its number of workers, and when it was requested

    def granted(self) -> Any:
        """A placement group for `least` to `most` workers, when there is room.

        Raises WorkerLost if Ray dies meanwhile, Stopped if a stop is requested, TroupeError (exit code 3) if there is
        no room for too long.
        """
        patience = WAITS.nodes if self.cluster and self.lost is not None else WAITS.room
        started, announced = time.monotonic(), False
        try:
            while True:
                raise_if_died(self.used.unusable)
                if self.stop_requested():
                    raise NotStarted()
                now = time.monotonic()
                self._request(now)
                if ask_ray(partial(self.group.wait, 0.5), self.used.unusable):
                    granted, self.group = self.group, None
                    return granted
                if now - started > 2 * WAITS.room_taken and not announced:
                    announced = True
                    self.notify(f"waiting for room for {self.size} workers, at most {duration(patience)}")
                if now - started > patience:
                    raise TroupeError(self._no_room(patience), ENVIRONMENT)
        finally:
            if self.group is not None:
                with contextlib.suppress(Exception):
                    self._withdraw()

    def _request(self, now: float) -> None:
        """Request a placement group; another one if the last was too large, or has waited for too long."""
        from ray.util import placement_group

        alive = ask_ray(nodes.live_nodes, self.used.unusable)
        possible = nodes.worker_capacity(self.each, [node["Resources"] for node in alive.values()])
        possible = max(self.least, min(self.most, possible))
        if self.group is not None:
            waited = now - self.requested
            taken = waited > WAITS.room_taken and self.size > self.least  # the room is in use
            if possible >= self.size and not taken and waited <= WAITS.room_requested_again:
                return
            self._withdraw()
            self.size -= taken
        self.size, self.requested = max(self.least, min(self.size, possible)), now
        self.group = ask_ray(partial(placement_group, [self.each] * self.size, strategy="PACK"), self.used.unusable)

    def _withdraw(self) -> None:
        from ray.util import remove_placement_group

        ask_ray(partial(remove_placement_group, self.group), self.used.unusable)

    def _no_room(self, patience: float) -> Problem:
        why = f" ({self.lost.why})" if self.lost else ""
        reason = f"the cluster has had no room for them for {duration(patience)}{why}"
        hint = "wait, or use fewer workers"
        return Problem("no-room", "workers", reason, hint, self.least, resumes=self.lost is not None)


class ActorGroup:
    """Ray actors, one for each worker, in one placement group."""

    def __init__(
        self,
        plan: Plan,
        runtime_env: Mapping[str, Any],
        placement: Any,
        pause_metric: str = "",
        request: PlacementRequest | None = None,
    ) -> None:
        """Start the workers in the last bundles of a placement group, and the run. `request`: the workers own the
        group; it is removed with them, and they move when nodes join and leave.

        Raises WorkerLost if a worker, or Ray, dies meanwhile.
        """
        import ray

        self.ray, self.request, self.placement = ray, request, placement
        self.size = placement.bundle_count if request is not None else int(plan.settings["workers"])
        self.nodes: list[str] = []  # of the workers, by rank
        self.ended: dict[int, Any] = {}
        self.probe: Any = None  # a placement group for one more worker, and when there was room for it
        self.room: Any = None
        self.more_since = 0.0
        self.actors = self._started(needs(plan.settings), runtime_env)
        self.processes: dict[int, int] = {}
        self.watch: nodes.NodeMonitor | None = None
        try:
            if request is not None:
                self.watch = ask_ray(nodes.NodeMonitor, request.used.unusable)
            self._rank_by_node()
            self.start_run(plan, pause_metric)
        except TroupeError:
            self.end()
            raise
        except Exception as error:  # from Ray, of many types
            kind = self._kind()
            self.end()
            raise WorkerLost(f"the workers did not start: {last_line(error)}", kind) from error

    def _started(self, each: Mapping[str, float], runtime_env: Mapping[str, Any]) -> list[Any]:
        """Actors in the last bundles of the placement group."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from cluster.backend.worker import Worker

        actor: Any = self.ray.remote(  # type: ignore[call-overload]
            num_cpus=each["CPU"],
            num_gpus=each.get("GPU", 0),
            runtime_env=dict(runtime_env) or None,
            max_restarts=0,
            concurrency_groups={"watch": 2},
        )(Worker)
        bundles = range(self.placement.bundle_count - self.size, self.placement.bundle_count)
        strategies = [PlacementGroupSchedulingStrategy(self.placement, bundle) for bundle in bundles]
        return [actor.options(scheduling_strategy=strategy).remote() for strategy in strategies]

    def _rank_by_node(self) -> None:
        """Give consecutive ranks to the workers of a node."""
        locations = self._answers_of(WAITS.first_microbatch, [self._where(worker) for worker in self.actors])
        order = sorted(range(self.size), key=lambda rank: locations[rank][0])
        self.actors = [self.actors[rank] for rank in order]
        self.nodes = [locations[rank][0] for rank in order]

    def _where(self, worker: Any) -> Any:
        return worker.where.options(concurrency_group="watch").remote()

    def _answers_of(self, patience: float, questions: list[Any]) -> list[Any]:
        """All answers. Raises WorkerLost if Ray dies meanwhile."""
        started = time.monotonic()
        while True:
            done, _ = self.ray.wait(questions, num_returns=len(questions), timeout=0.5)
            if len(done) == len(questions) or time.monotonic() - started > patience:
                return self.ray.get(questions, timeout=0.1)
            if self.request is not None:
                raise_if_died(self.request.used.unusable)
                if self.request.stop_requested():
                    raise NotStarted()
            self.ray.get(done)  # raises the error of one without waiting for the others

    def _hold_ray(self) -> None:
        if self.request is not None:
            raise_if_died(self.request.used.died)

    def _kind(self, rank: int | None = None) -> str:
        """The kind of loss of a worker, or of any worker: whether its node was lost."""
        if self.watch is None:
            return WORKER
        where = self.nodes if rank is None else [self.nodes[rank]]
        if any(node in self.watch.draining for node in where):
            return PREEMPTED
        if self.request is None or not self.request.cluster:
            return WORKER
        deadline = time.monotonic() + 2 * WAITS.poll_nodes  # by then Ray knows
        while time.monotonic() < deadline:
            if any(node not in self.watch.alive for node in where):
                return NODE
            time.sleep(WAITS.poll_results)
        return WORKER

    def start_run(self, plan: Plan, pause_metric: str = "") -> None:
        """Start a run, perhaps after another one. The run is held after rows with the metric `pause_metric`."""
        ((_, address, port),) = self._answers_of(WAITS.first_microbatch, [self._where(self.actors[0])])
        plan = replace(plan, settings={**plan.settings, "workers": self.size})
        self.logs = [RunFolder(plan.folder).log(rank) for rank in range(self.size)]
        self.results = {
            worker.train.remote(plan, rank, self.size, address, port, pause_metric): rank
            for rank, worker in enumerate(self.actors)
        }
        self.ended = {}
        self.clock = SuspendAwareClock()
        self.answered = [self.clock.now()] * self.size
        self.moved = [(0, 0.0)] * self.size  # micro-batches of each, and `suspended` when they were counted
        self.answers: list[dict[str, Any]] = [{} for _ in self.actors]
        self.pending: dict[Any, int] = {}
        self.lines: list[str] = []
        self.rows: list[Row] = []

    def outcomes(self) -> Outcomes:
        self._hold_ray()
        waiting = [ref for ref, rank in self.results.items() if rank not in self.ended]
        if waiting:
            done, _ = self.ray.wait(waiting, num_returns=len(waiting), timeout=WAITS.poll_results)
            for ref in done:
                rank = self.results[ref]
                self.ended[rank] = self._outcome(rank, ref)
        return self.ended

    def _outcome(self, rank: int, ref: Any) -> Any:
        """The result of a worker that has ended, or its error. Raises WorkerLost if Ray itself has died."""
        try:
            return self.ray.get(ref)
        except self.ray.exceptions.RayActorError:
            return self._death(rank)
        except self.ray.exceptions.RayTaskError as error:  # of the worker itself, not a loss
            return of_worker(rank, error.cause, self.logs[rank])
        except self.ray.exceptions.RayError as error:
            return WorkerLost(f"worker {rank}: {last_line(error)}")

    def _death(self, rank: int) -> WorkerLost:
        """Why a worker died. Raises WorkerLost if Ray itself has died."""
        self._hold_ray()
        kind = self._kind(rank)
        if kind == NODE:
            return WorkerLost(f"worker {rank} died with its node", kind)
        if kind == PREEMPTED:
            return WorkerLost(f"worker {rank} died with its node, which was draining", kind)
        process = f", process {self.processes[rank]}" if rank in self.processes else ""
        return WorkerLost(f"worker {rank} died (killed, or out of memory{process})", kind)

    def statuses(self) -> Sequence[WorkerStatus]:
        now = self.clock.now()
        self._poll_status(now)
        answers = []
        for rank, answer in enumerate(self.answers):
            silent, (_, away) = now - self.answered[rank], self.moved[rank]
            idle = answer.get("idle", 0.0) + silent - (self.clock.suspended - away)  # all may have been stopped with us
            answers.append(
                WorkerStatus(
                    silent,
                    answer.get("microbatches", 0),
                    max(silent, idle),
                    answer.get("slowest", 0.0),
                    answer.get("waiting", False),
                )
            )
        return answers

    def updates(self) -> tuple[Mapping[str, Any], Sequence[str], Sequence[Row]]:
        if 0 in self.ended:  # its last rows: workers that have ended are not polled
            with contextlib.suppress(self.ray.exceptions.RayError):
                self._take(
                    0, self.ray.get(self.actors[0].status.options(concurrency_group="watch").remote(), timeout=5)
                )
        (lines, self.lines), (rows, self.rows) = (self.lines, []), (self.rows, [])
        return self.answers[0].get("progress", {}), lines, rows

    def paused_at(self) -> int | None:
        step: int | None = self.answers[0].get("resting") if 0 not in self.ended else None
        return step

    def release(self, stopping: bool) -> None:
        self.answers[0]["resting"] = None  # until it reports it again
        self.actors[0].release.options(concurrency_group="watch").remote(stopping)

    def move_reason(self) -> WorkerLost | None:
        if self.request is None or self.watch is None:
            return None
        if why := self.request.used.missing():
            return WorkerLost(why, CLEANED)
        return self._node_leaves(self.watch.draining) or self._room_for_more(self.request)

    def _node_leaves(self, draining: Mapping[str, float]) -> WorkerLost | None:
        for rank, node in enumerate(self.nodes):
            if node in draining:
                remaining = f" in {max(0.0, draining[node] - time.time()):.0f} s" if draining[node] else ""
                return WorkerLost(f"the node of worker {rank} will leave{remaining}", PREEMPTED)
        return None

    def _room_for_more(self, request: PlacementRequest) -> WorkerLost | None:
        """The reason to grow, once there has been room for one more worker for `WAITS.more_nodes`."""
        if self.size >= request.most or self.ended:
            return None
        if self.room is None:
            self.probe = self.ray.util.placement_group([request.each])
            self.room = self.probe.ready()
        if not self.more_since and self.ray.wait([self.room], timeout=0)[0]:
            self.more_since = time.monotonic()
        if self.more_since and time.monotonic() - self.more_since > WAITS.more_nodes:
            return WorkerLost(f"there is room for more workers than {self.size}", RESIZED)
        return None

    def stop(self) -> None:
        for worker in self.actors:
            worker.stop.options(concurrency_group="watch").remote()

    def end(self) -> None:
        for worker in self.actors:
            with contextlib.suppress(Exception):
                self.ray.kill(worker)
        if self.watch is not None:
            self.watch.end()
        if self.request is not None:
            removing = threading.Thread(target=self._remove_placement_groups, daemon=True)
            removing.start()
            removing.join(timeout=5)  # a dead head does not answer

    def _remove_placement_groups(self) -> None:
        for group in (self.probe, self.placement):
            with contextlib.suppress(Exception):
                if group is not None:
                    self.ray.util.remove_placement_group(group)

    def _poll_status(self, now: float) -> None:
        """Keep one request pending at each worker, and take the answers that have arrived."""
        if self.pending:
            done, _ = self.ray.wait(list(self.pending), num_returns=len(self.pending), timeout=0)
            for ref in done:
                rank = self.pending.pop(ref)
                with contextlib.suppress(self.ray.exceptions.RayError):
                    self._take(rank, self.ray.get(ref))
        for rank, worker in enumerate(self.actors):
            if rank not in self.pending.values() and rank not in self.ended:
                if now - self.answered[rank] < WAITS.poll_workers and self.answers[rank]:
                    continue
                self.pending[worker.status.options(concurrency_group="watch").remote()] = rank

    def _take(self, rank: int, answer: dict[str, Any]) -> None:
        """Store the answer of a worker; only lines and rows of worker 0 are passed on."""
        self.answered[rank], self.answers[rank] = self.clock.now(), answer
        if answer["microbatches"] != self.moved[rank][0]:
            self.moved[rank] = answer["microbatches"], self.clock.suspended
        self.processes[rank] = answer["process"]
        if rank == 0:
            self.lines += answer["said"]
            self.rows += answer["rows"]
