"""Watching a group of workers: who hangs, who is guilty, what is started anew. With a dummy group, without Ray."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sentences import Sentences

from cluster.backend import connection, supervisor
from cluster.backend.actors import ActorGroup
from cluster.backend.supervisor import (
    NODE,
    PREEMPTED,
    RESIZED,
    WORKER,
    WorkerLost,
    WorkerStatus,
    hung_worker,
    root_cause,
    supervise,
)
from cluster.backend.worker import Worker, interface_of
from cluster.terminal.progress import Progress
from trainers.base.errors import CONFLICT, FAILED, STOPPED, NotStarted, PeerLost, Stopped, TroupeError, with_run_name
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS

BUSY = WorkerStatus(silent=0.1, microbatches=100, idle=0.5, slowest=0.4, waiting=False)
WAITING = BUSY._replace(idle=1000.0, waiting=True)
RESULT = {"name": "mine", "steps": 4}


def test_the_interface_that_has_an_address_is_found() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.7") is None


def test_a_worker_that_stops_at_the_start_is_seen_within_a_minute_and_not_the_one_that_waits_for_it() -> None:
    meeting = WorkerStatus(silent=0.1, microbatches=0, idle=50.0, slowest=0.0, waiting=False)
    stopped = meeting._replace(silent=50.0)
    assert hung_worker([meeting, stopped], 10.0) == 1
    assert hung_worker([meeting, meeting], 10.0) is None, "imports, data and compiling may take minutes"
    assert hung_worker([meeting, stopped._replace(silent=40.0)], 10.0) is None


class Dummy:
    """A group whose life is a list of moments: outcomes, and looks where not all are busy. The last one stays."""

    def __init__(
        self, *moments: Mapping[int, Any] | tuple[Mapping[int, Any], Sequence[WorkerStatus]], size: int = 2
    ) -> None:
        self.moments = [moment if isinstance(moment, tuple) else (moment, [BUSY] * size) for moment in moments]
        self.place = -1
        self.ended = self.stopped = 0
        self.lines = ["a notice"]
        self.on_stop: Callable[[], None] = lambda: None
        self.held: dict[int, int] = {}  # the step at which the run is held, by moment
        self.released: list[bool] = []
        self.moving: dict[int, WorkerLost] = {}  # why it should begin anew elsewhere, by moment

    def outcomes(self) -> Mapping[int, Any]:
        time.sleep(0.001)
        self.place = min(self.place + 1, len(self.moments) - 1)
        return self.moments[self.place][0]

    def statuses(self) -> Sequence[WorkerStatus]:
        return self.moments[self.place][1]

    def updates(self) -> tuple[Mapping[str, Any], Sequence[str], Sequence[tuple[int, Mapping[str, float]]]]:
        lines, self.lines = self.lines, []
        return {"step": 2, "steps": 4, "metrics": {}}, lines, [(2, {"loss": 1.0})]

    def paused_at(self) -> int | None:
        return self.held.pop(self.place, None)

    def release(self, stopping: bool) -> None:
        self.released.append(stopping)

    def move_reason(self) -> WorkerLost | None:
        return self.moving.pop(self.place, None)

    def stop(self) -> None:
        self.stopped += 1
        self.on_stop()

    def end(self) -> None:
        self.ended += 1


class Watched:
    """What came of supervising groups, one after the other."""

    def __init__(
        self,
        groups: Iterable[Dummy | Exception],
        max_restarts: int = 3,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.groups = list(groups)
        self.started = 0
        self.noted: list[str] = []
        self.stream = io.StringIO()
        self.result: Any = None
        self.error: TroupeError | None = None
        try:
            self.result = supervise(
                self.start, max_restarts, 60.0, stop_requested, Progress(self.stream),
                note=lambda kind, why: self.noted.append(kind),
            )  # fmt: skip
        except TroupeError as error:
            self.error = error
        begun = [one for one in self.groups[: self.started] if isinstance(one, Dummy)]
        assert all(one.ended == 1 for one in begun), "each group is ended, once"

    def start(self, lost: WorkerLost | None) -> Any:
        self.started += 1
        one = self.groups[self.started - 1]
        if isinstance(one, Exception):
            raise one
        return one

    @property
    def said(self) -> str:
        return self.stream.getvalue()


def killed(rank: int) -> WorkerLost:
    return WorkerLost(f"worker {rank} died (killed, or out of memory)")


def test_the_result_of_the_first_worker_is_the_runs() -> None:
    watched = Watched([Dummy({}, {1: {}}, {1: {}, 0: RESULT})])
    assert watched.result == RESULT
    assert "a notice" in watched.said


def test_a_lost_worker_starts_the_group_anew() -> None:
    watched = Watched([Dummy({}, {1: killed(1)}), Dummy({0: RESULT, 1: RESULT})])
    assert watched.result == RESULT
    assert watched.started == 2
    assert "worker 1 died" in watched.said
    assert "resuming from the newest checkpoint (restart 1 of 3)" in watched.said


def test_after_so_many_restarts_it_is_told_in_one_line(sentences: Sentences) -> None:
    watched = Watched([Dummy({0: killed(0)}) for _ in range(5)], max_restarts=2)
    assert watched.started == 3
    assert watched.error is not None
    assert watched.error.code == FAILED
    assert [(one.code, one.about, one.resumes) for one in watched.error.problems] == [("lost", "", True)]
    sentences(watched.error.problems)


@pytest.mark.parametrize("kind", [NODE, PREEMPTED])
def test_nodes_that_go_use_up_no_restarts(kind: str) -> None:
    lost = [Dummy({0: WorkerLost("worker 0 died with its node", kind)}) for _ in range(3)]
    watched = Watched([*lost, Dummy({0: killed(0)}), Dummy({0: RESULT, 1: RESULT})], max_restarts=1)
    assert watched.result == RESULT
    assert watched.said.count("worker 0 died with its node; resuming from the newest checkpoint\n") == 3
    assert "(restart 1 of 1)" in watched.said
    assert watched.noted == [kind, kind, kind, WORKER]


def test_a_group_whose_node_is_about_to_go_saves_and_begins_anew_elsewhere() -> None:
    going = Dummy({}, {}, {0: Stopped(Problem("test", reason="saved")), 1: Stopped(Problem("test", reason="saved"))})
    going.moving = {1: WorkerLost("the node of worker 1 will leave in 30 s", PREEMPTED)}
    watched = Watched([going, Dummy({0: RESULT, 1: RESULT})], max_restarts=0)
    assert watched.result == RESULT
    assert going.stopped == 1
    assert "the node of worker 1 will leave in 30 s: saving first" in watched.said
    assert watched.noted == [PREEMPTED]


def test_a_group_grows_without_a_word_of_loss() -> None:
    small = Dummy({}, {}, {0: Stopped(Problem("test", reason="saved")), 1: Stopped(Problem("test", reason="saved"))})
    small.moving = {1: WorkerLost("there is room for more workers than 2", RESIZED)}
    watched = Watched([small, Dummy({0: RESULT, 1: RESULT})], max_restarts=0)
    assert watched.result == RESULT
    assert watched.noted == []


def test_a_stop_counts_more_than_a_move() -> None:
    asked: list[bool] = []
    moving = Dummy({}, {}, {0: Stopped(Problem("test", reason="saved")), 1: Stopped(Problem("test", reason="saved"))})
    moving.moving = {1: WorkerLost("there is room for more workers than 2", RESIZED)}
    moving.on_stop = lambda: asked.append(True)
    watched = Watched([moving], stop_requested=lambda: bool(asked))
    assert isinstance(watched.error, Stopped)


def test_no_restart_is_made_where_none_is_wanted(sentences: Sentences) -> None:
    watched = Watched([Dummy({0: killed(0)})], max_restarts=0)
    assert watched.error is not None
    assert watched.started == 1
    assert [(one.code, one.about, one.resumes) for one in watched.error.problems] == [("lost", "", True)]
    sentences(watched.error.problems)


def test_workers_that_do_not_start_are_a_lost_group() -> None:
    watched = Watched([WorkerLost("the workers did not start: gone"), Dummy({0: RESULT, 1: RESULT})])
    assert watched.result == RESULT
    assert watched.started == 2


def test_a_place_that_is_not_there_is_no_loss() -> None:
    told = TroupeError(Problem("test", reason="no room"), 3)
    watched = Watched([told])
    assert watched.started == 1
    assert watched.error is told
    assert told.code == 3


def test_a_workers_own_error_is_shown_at_once_and_nothing_is_started_anew() -> None:
    own = TroupeError(Problem("test", reason="step 3: the loss is not finite"), FAILED)
    watched = Watched([Dummy({}, {1: own}), Dummy({0: RESULT, 1: RESULT})])
    assert watched.error is own
    assert watched.started == 1


def test_an_own_error_wins_over_a_loss_and_those_who_missed_others_are_never_shown() -> None:
    own = TroupeError(Problem("test", reason="other settings"), CONFLICT)
    missed = PeerLost(Problem("test", reason="lost the other workers: connection closed"))
    stopped = Stopped(Problem("test", reason="stopped"))
    assert root_cause({}) is None
    assert root_cause({0: RESULT}) is None
    assert root_cause({0: missed, 1: missed}) is None
    assert root_cause({0: missed, 1: own}) is own
    assert root_cause({0: killed(0), 1: own, 2: missed}) is own
    assert root_cause({0: stopped, 1: own}) is own
    assert isinstance(root_cause({0: missed, 1: killed(1)}), WorkerLost)


def test_a_worker_that_missed_others_waits_for_the_guilty_one_to_be_known() -> None:
    missed = PeerLost(Problem("test", reason="lost the other workers: connection closed"))
    own = TroupeError(Problem("test", reason="worker 1: ValueError: broken"), FAILED)
    watched = Watched([Dummy({0: missed}, {0: missed}, {0: missed, 1: own})])
    assert watched.error is own
    watched = Watched([Dummy({0: missed}, {0: missed, 1: killed(1)}), Dummy({0: RESULT, 1: RESULT})])
    assert watched.result == RESULT
    assert "lost the other workers" not in watched.said


def test_where_all_missed_one_another_the_group_is_started_anew() -> None:
    missed = PeerLost(Problem("test", reason="lost the other workers: connection closed"))
    watched = Watched([Dummy({0: missed, 1: missed}), Dummy({0: RESULT, 1: RESULT})])
    assert watched.result == RESULT


def test_a_worker_that_does_not_end_with_the_others_is_lost(
    monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    monkeypatch.setattr(WAITS, "end_of_group", 0.02)
    watched = Watched([Dummy({1: RESULT})], max_restarts=0)
    assert watched.error is not None
    assert [(one.code, one.about, one.resumes) for one in watched.error.problems] == [("lost", "", True)]
    sentences(watched.error.problems)


def test_a_stop_is_asked_for_once_and_ends_the_run_after_saving() -> None:
    stopped = Stopped(Problem("test", reason="mine: stopped at step 2, saved; continue with --resume mine"))
    dummy = Dummy({}, {}, {}, {0: stopped}, {0: stopped, 1: stopped})
    watched = Watched([dummy], stop_requested=lambda: dummy.place >= 1)
    assert dummy.stopped == 1
    assert watched.error is stopped
    assert stopped.code == STOPPED
    assert "stopping: saving first" in watched.said


def test_a_run_that_is_held_goes_on_when_whoever_watches_has_seen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WAITS, "poll_workers", 0.0)
    one, seen = Dummy({}, {}, {}, {0: RESULT, 1: None}), list[int]()
    one.held = {0: 4, 2: 8}
    supervise(lambda lost: one, 0, 60.0, lambda: False, Progress(io.StringIO()), on_step_end=seen.append)
    assert seen == [4, 8]
    assert one.released == [False, False]


def test_a_run_that_is_held_and_stopped_meanwhile_stops_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WAITS, "poll_workers", 0.0)
    asked = False

    def stop(step: int) -> None:
        nonlocal asked
        asked = True

    one = Dummy({}, {}, {0: Stopped(Problem("test", reason="stopped")), 1: Stopped(Problem("test", reason="stopped"))})
    one.held = {0: 4}
    with pytest.raises(Stopped):
        supervise(lambda lost: one, 0, 60.0, lambda: asked, Progress(io.StringIO()), on_step_end=stop)
    assert one.released == [True]
    assert one.stopped == 1


def test_a_group_lost_while_it_was_stopped_is_not_started_anew(sentences: Sentences) -> None:
    watched = Watched([Dummy({}, {0: killed(0)}), Dummy({0: RESULT, 1: RESULT})], stop_requested=lambda: True)
    assert watched.started == 1
    assert watched.error is not None
    assert watched.error.code == STOPPED
    assert not isinstance(watched.error, Stopped), "who says so has saved"
    assert [(one.code, one.about, one.resumes) for one in watched.error.problems] == [("lost", "", True)]
    sentences(watched.error.problems)


def test_a_hung_worker_is_lost_and_the_group_started_anew() -> None:
    hung = BUSY._replace(idle=125.0)
    silent = BUSY._replace(silent=125.0, idle=125.0)
    watched = Watched([
        Dummy({}, ({}, [WAITING, hung])), Dummy(({}, [silent, WAITING])), Dummy({0: RESULT, 1: RESULT}),
    ])  # fmt: skip
    assert watched.result == RESULT
    assert "worker 1 has made no progress for 2m05s" in watched.said
    assert "worker 0 has not answered for 2m05s" in watched.said


def test_a_group_is_ended_where_watching_it_fails() -> None:
    class Broken(Dummy):
        def statuses(self) -> Sequence[WorkerStatus]:
            raise RuntimeError("a bug")

    broken = Broken({})
    with pytest.raises(RuntimeError, match="a bug"):
        supervise(lambda lost: broken, 3, 60.0, lambda: False, Progress(io.StringIO()))
    assert broken.ended == 1


def test_nobody_hangs_where_all_are_busy() -> None:
    assert hung_worker([], 60) is None
    assert hung_worker([BUSY] * 4, 60) is None


def test_a_worker_that_waits_is_never_the_one_that_hangs() -> None:
    assert hung_worker([WAITING, WAITING, BUSY], 60) is None
    assert hung_worker([WAITING, BUSY._replace(idle=61.0), WAITING], 60) == 1
    assert hung_worker([BUSY._replace(idle=61.0), WAITING], 60) == 0


def test_a_worker_that_no_longer_answers_hangs_even_where_it_waited() -> None:
    assert hung_worker([BUSY, WAITING._replace(silent=61.0)], 60) == 1
    assert hung_worker([BUSY, WAITING._replace(silent=59.0)], 60) is None


def test_slow_work_gets_ten_times_its_slowest_piece() -> None:
    slow = BUSY._replace(idle=90.0, slowest=10.0)
    assert hung_worker([slow], 60) is None
    assert hung_worker([slow._replace(idle=101.0)], 60) == 0


@pytest.mark.parametrize("microbatches", [0, 1])
def test_before_the_first_finished_microbatch_there_is_more_patience(microbatches: int) -> None:
    starting = WorkerStatus(
        silent=0.1, microbatches=microbatches, idle=WAITS.first_microbatch - 1, slowest=0.0, waiting=False
    )
    assert hung_worker([starting, BUSY], 60) is None
    assert hung_worker([starting._replace(idle=WAITS.first_microbatch + 1), BUSY], 60) == 0
    assert hung_worker([starting._replace(silent=WAITS.first_microbatch + 1), BUSY], 60) == 0
    assert hung_worker([starting._replace(idle=WAITS.first_microbatch + 1)], 2 * WAITS.first_microbatch) is None


def test_grids_and_checkpoints_do_not_end_the_patience_at_the_start() -> None:
    """A worker that has drawn the first grid may compile for minutes; one that has trained may not."""
    worker = Worker()
    for _ in range(5):
        worker.control.heartbeat()
    beaten = worker.status()["microbatches"]
    worker.control.microbatch()
    begun = worker.status()["microbatches"]
    worker.control.microbatch()
    trained = worker.status()["microbatches"]
    assert worker.control.heartbeats == 7
    slow = [[WAITING, BUSY._replace(microbatches=count, idle=125.0)] for count in (beaten, begun, trained)]
    watched = Watched([
        Dummy({}, ({}, slow[0]), ({}, slow[1]), {0: RESULT, 1: RESULT}),
    ])  # fmt: skip
    assert watched.result == RESULT
    assert watched.started == 1
    watched = Watched([Dummy({}, ({}, slow[2])), Dummy({0: RESULT, 1: RESULT})])
    assert "worker 1 has made no progress for 2m05s" in watched.said


def test_workers_that_all_wait_for_one_another_hang_together() -> None:
    both = [WAITING._replace(idle=WAITS.first_microbatch + 1)] * 2
    assert hung_worker(both, 60) == 0
    assert hung_worker([both[0], WAITING._replace(idle=WAITS.first_microbatch - 1)], 60) is None


def test_time_in_which_the_watcher_was_stopped_is_nobodys_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    present = supervisor.SuspendAwareClock()
    seen = []
    for later in (0.1, 0.3, 3600.0, 0.1):
        now[0] += later
        seen.append(round(present.now() - 100.0, 6))
    assert seen == [0.1, 0.4, 0.4, 0.5]
    assert present.suspended == 3600.0


def test_a_watcher_that_was_stopped_takes_nobody_for_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    """All were stopped together, as when a container is paused, or only the watcher was."""
    now = [100.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    watched = ActorGroup.__new__(ActorGroup)  # without Ray
    watched.size, watched.ended, watched.pending, watched.actors = 2, {}, {}, []
    watched.lines, watched.rows, watched.processes = [], [], {}
    watched.clock = supervisor.SuspendAwareClock()
    watched.answered, watched.answers = [watched.clock.now()] * 2, [{}, {}]
    watched.moved = [(0, 0.0)] * 2

    def answer(rank: int, microbatches: int, idle: float) -> None:
        told = {"microbatches": microbatches, "idle": idle, "slowest": 0.1, "waiting": False, "process": 1,
                "said": [], "rows": []}  # fmt: skip
        watched._take(rank, told)

    for rank in range(2):
        answer(rank, 10, 0.1)
    now[0] += 3600.0
    assert hung_worker(watched.statuses(), 60.0) is None, "nobody has been asked meanwhile"
    answer(0, 5000, 0.1)  # it went on
    answer(1, 10, 3600.2)  # it was stopped with us
    now[0] += 0.2
    assert hung_worker(watched.statuses(), 60.0) is None
    for _ in range(70):
        now[0] += 1.0
        answer(0, 5001, 0.1)
        answer(1, 10, now[0] - 99.9)
        looks = watched.statuses()
    assert hung_worker(looks, 60.0) == 1, "one that hangs is seen after it"


@pytest.mark.parametrize("silent", [0.0, 1e9], ids=["seen since", "never seen"])
def test_a_stop_before_the_first_micro_batch_waits_for_nothing(monkeypatch: pytest.MonkeyPatch, silent: float) -> None:
    monkeypatch.setattr(WAITS, "answer_at_start", 0.01)
    one = Dummy(({}, [BUSY._replace(microbatches=0, silent=silent)] * 2))
    with pytest.raises(NotStarted):
        supervise(lambda lost: one, 3, 1e12, lambda: True, Progress(io.StringIO()))
    assert (one.stopped, one.ended) == (0, 1)


def test_a_stop_looks_at_the_workers_anew_before_it_takes_them_for_not_begun() -> None:
    """The first steps may have been made since they were last seen."""
    seen, stopped = [BUSY._replace(microbatches=0, silent=1.0)] * 2, Stopped(Problem("test", reason="saved"))
    one = Dummy(({}, seen), ({}, [BUSY] * 2), ({0: stopped, 1: stopped}, [BUSY] * 2))
    with pytest.raises(Stopped):
        supervise(lambda lost: one, 3, 60.0, lambda: True, Progress(io.StringIO()))
    assert (one.stopped, one.ended) == (1, 1)


@pytest.mark.parametrize(
    ("problem", "kept"),
    [(Problem("lost", reason="made up", resumes=True), True),
     (Problem("no-space", reason="made up", hint="help", resumes=True), True),
     (Problem("no-room", reason="made up", hint="help", resumes=True), False),
     (Problem("damaged", reason="made up"), True)],
    ids=["lost", "no-space", "no-room", "damaged"],
)  # fmt: skip
def test_advice_to_go_on_names_the_run_or_says_that_there_is_none(
    problem: Problem, kept: bool, sentences: Sentences
) -> None:
    error = with_run_name(TroupeError(problem, CONFLICT), "mine", kept)
    assert error.problems == [replace(problem, run="mine", kept=kept) if problem.resumes else problem]
    assert error.code == CONFLICT
    assert str(error) == "\n".join(error.mistakes)
    sentences(error.problems)


@pytest.mark.parametrize("port", ["0", "65536", "9" * 400, "²"], ids=["none", "above", "long", "raised"])
def test_an_address_whose_port_is_none_is_told_before_anybody_is_asked(port: str, sentences: Sentences) -> None:
    with pytest.raises(TroupeError) as error:
        connection._knock(f"h:{port}")
    assert [(one.code, one.about, one.value) for one in error.value.problems] == [
        ("bad-value", "--address", f"h:{port}")
    ]
    sentences(error.value.problems)
