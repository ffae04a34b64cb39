"""Workers on Ray that die, hang or fail, a driver that dies, and a stop: one line each, and no bit lost."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from clusters import Cluster
from commands import FRAGILE, Commands, assert_same_run, checkpoints, lives, process_of, until, until_step
from tiers import long

from trainers.base.timeouts import WAITS
from trainers.run_folders.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(200)]

OPTIONS = ("--families", str(FRAGILE))
GUILTY = f"{FRAGILE}/fragile/training.py:50"  # where it raises what is made up
WORDS = ("fragile", "image_size=8", "batch_size=8", "microbatch_size=2", "log_every=1", "checkpoint_every=10", *OPTIONS)
STEPS = "steps=80"
SLOW = "pause=0.01"  # 40 ms for a step of two phases with two micro-batches each


@pytest.fixture(scope="module")
def straight(shared: Commands) -> Commands:
    shared.train(*WORDS, STEPS, "--name", "run")
    return shared


def run_with_a_killed_worker(troupe: Commands, cluster: Cluster, *words: str) -> tuple[Path, int]:
    """A run to its end, of which worker 1 was killed half way, and that worker's process; it alone is named."""
    run = troupe.path("run")
    command = troupe.start("train", *WORDS, STEPS, SLOW, "workers=2", *words, "--name", "run", on=cluster)
    until_step(run, 25, command)
    victim = process_of(run, 1)
    os.kill(victim, signal.SIGKILL)
    done = command.wait(90)
    assert done.code == 0, done
    assert done.err == ""
    line, told_again = [line for line in done.out.splitlines() if "died" in line]  # and no paragraph of Ray's
    assert [line] == [line for line in done.out.splitlines() if "(restart " in line]
    assert line == (
        f"troupe: worker 1 died (killed, or out of memory, process {victim}); resuming from the newest checkpoint "
        "(restart 1 of 3)"
    )
    why = f"worker 1 died (killed, or out of memory, process {victim})"
    (restart,) = RunFolder(run).read_restarts()
    assert restart["why"] == why
    assert restart["step"] >= 20
    assert told_again == f"  restarted       once, last at step {restart['step']}: {why}"
    assert f"restarted once: {why}" in troupe.run("runs").out
    return run, victim


def test_a_killed_worker_is_named_and_the_run_goes_on_by_itself(
    troupe: Commands, straight: Commands, cluster: Cluster
) -> None:
    run, victim = run_with_a_killed_worker(troupe, cluster)
    assert process_of(run, 1) != victim
    assert_same_run(run, straight.path("run"))


@pytest.mark.long
def test_with_ddp_a_killed_worker_is_named_too_and_the_run_goes_on(troupe: Commands, cluster: Cluster) -> None:
    """Gradients meet inside backward: those who waited there must not be taken for the guilty ones."""
    run, _ = run_with_a_killed_worker(troupe, cluster, "grad_sync=ddp")
    assert "Traceback" not in (run / "logs" / "rank_0.log").read_text()
    assert checkpoints(run)[-1].name == "step_00000080"


@pytest.mark.long
def test_without_restarts_a_killed_worker_ends_the_run_in_one_line(troupe: Commands, cluster: Cluster) -> None:
    run = troupe.path("run")
    command = troupe.start("train", *WORDS, STEPS, SLOW, "workers=2", "max_restarts=0", "--name", "run",
                           on=cluster)  # fmt: skip
    until_step(run, 12, command)
    os.kill(process_of(run, 0), signal.SIGKILL)
    killed = time.monotonic()
    done = command.wait(40)
    assert done.code == 1
    assert re.fullmatch(
        r"troupe: worker 0 died \(killed, or out of memory, process \d+\); continue with --resume run\n", done.err
    ), done
    assert "died" not in done.out
    assert time.monotonic() - killed < 20
    assert int(checkpoints(run)[-1].name[5:]) >= 10


def test_a_worker_that_stops_answering_is_ended_in_time_and_the_run_goes_on(
    troupe: Commands, straight: Commands, cluster: Cluster
) -> None:
    """Stopped with SIGSTOP: it can neither answer nor end itself, and rank 0 holds the run."""
    run = troupe.path("run")
    command = troupe.start("train", *WORDS, STEPS, SLOW, "workers=2", "worker_timeout=3", "--name", "run",
                           on=cluster)  # fmt: skip
    until_step(run, 25, command)
    victim = process_of(run, 0)
    os.kill(victim, signal.SIGSTOP)
    stopped = time.monotonic()
    until(lambda: "restart 1 of 3" in command.out.read_text(), "the worker that does not answer is seen", 40)
    assert time.monotonic() - stopped < 25, "3 s, or ten times the slowest micro-batch"
    done = command.wait(90)
    assert done.code == 0, done
    assert done.err == ""
    (line,) = [line for line in done.out.splitlines() if "(restart " in line]
    assert re.match(r"troupe: worker 0 has not answered for \d+s; resuming from the newest checkpoint", line)
    until(lambda: not lives(victim), "the end of the worker that does not answer")
    assert_same_run(run, straight.path("run"))


@pytest.mark.long
def test_a_worker_that_stops_at_the_start_is_seen_within_a_minute_and_named(
    troupe: Commands, straight: Commands, cluster: Cluster
) -> None:
    """Worker 1 is stopped before both have met; worker 0, which waits for it, is not to blame."""
    run = troupe.path("run")
    command = troupe.start("train", *WORDS, STEPS, "workers=2", "worker_timeout=10", "--name", "run", on=cluster)
    until(lambda: (run / "logs" / "rank_1.log").exists() and "process" in (run / "logs" / "rank_1.log").read_text(),
          "worker 1 begins", 60)  # fmt: skip
    victim = process_of(run, 1)
    os.kill(victim, signal.SIGSTOP)
    stopped = time.monotonic()
    until(lambda: "restart 1 of 3" in command.out.read_text(), "the worker that does not answer is seen", 70)
    assert time.monotonic() - stopped < 60
    done = command.wait(90)
    assert done.code == 0, done
    (line,) = [line for line in done.out.splitlines() if "(restart " in line]
    assert re.match(r"troupe: worker 1 has not answered for \d+s; resuming from the newest checkpoint", line)
    assert_same_run(run, straight.path("run"))


def test_a_killed_driver_leaves_a_run_that_goes_on_at_once(
    troupe: Commands, straight: Commands, cluster: Cluster
) -> None:
    run = troupe.path("run")
    command = troupe.start("train", *WORDS, STEPS, SLOW, "workers=2", "--name", "run", on=cluster)
    until_step(run, 25, command)
    workers = [process_of(run, rank) for rank in range(2)]
    command.kill()
    done = troupe.train("--resume", "run", "workers=1", "pause=0", *OPTIONS)
    assert done.err == ""
    assert not any(lives(pid) for pid in workers)
    assert_same_run(run, straight.path("run"))


@pytest.mark.parametrize("stop", ["Ctrl-C", *long("SIGTERM", "SIGHUP")])
def test_a_stop_saves_and_another_number_of_workers_goes_on(troupe: Commands, straight: Commands, stop: str) -> None:
    run = troupe.path("run")
    command = troupe.start("train", *WORDS, STEPS, SLOW, "workers=2", "--name", "run")
    until_step(run, 13, command)
    if stop == "Ctrl-C":
        command.interrupt()  # every process of the terminal hears it
    elif stop == "SIGHUP":
        command.hang_up()  # and so it is with a terminal that closes
    else:
        command.send(signal.SIGTERM)
    done = command.wait(30)
    assert done.code == 130, done
    (line,) = done.mistakes
    assert re.match(r"troupe: run: stopped at step \d+ of 80 and saved; continue with --resume run", line)
    assert "troupe: stopping: saving first" in done.out.splitlines()
    assert not command.members()
    troupe.train("--resume", "run", "workers=1", "pause=0", *OPTIONS)
    assert_same_run(run, straight.path("run"))


@pytest.mark.long
def test_a_second_ctrl_c_ends_all_workers_at_once(troupe: Commands) -> None:
    run = troupe.path("run")
    command = troupe.start("train", *WORDS, STEPS, "pause=5", "workers=2", "--name", "run")
    until_step(run, 1, command, seconds=90)
    command.interrupt()
    until(lambda: "saving first" in command.out.read_text(), "the first one is heard")
    assert command.process.poll() is None
    time.sleep(WAITS.same_request)
    command.interrupt()
    done = command.wait(15)
    assert done.code == 130
    assert done.mistakes == ["troupe: interrupted; saved checkpoints are kept"]
    until(lambda: not command.members(), "nothing of it lives on", 20)


def test_an_error_of_one_worker_is_shown_alone_and_in_one_line(troupe: Commands, cluster: Cluster) -> None:
    """Micro-batch 2 of 4 is the second worker's; the first one only misses it."""
    run = troupe.path("run")
    done = troupe.run("train", *WORDS, "steps=6", "raise_at=3", "guilty=2", "workers=2", "--name", "run", on=cluster)
    assert done.code == 1
    log = run / "logs" / "rank_1.log"
    assert done.mistakes == [
        f"troupe: worker 1: {GUILTY}: ValueError: made up: micro-batch 2 of step 3 (traceback in {log.resolve()})"
    ]
    assert "Traceback" not in done.out
    assert "in loss" in log.read_text()
    assert "Traceback" not in (run / "logs" / "rank_0.log").read_text()


def test_without_ray_an_error_of_a_family_is_told_in_the_same_words(troupe: Commands) -> None:
    done = troupe.run("train", *WORDS, "steps=6", "raise_at=3", "guilty=2", "--name", "run")
    assert done.code == 1
    log = troupe.path("run") / "logs" / "rank_0.log"
    assert done.mistakes == [
        f"troupe: worker 0: {GUILTY}: ValueError: made up: micro-batch 2 of step 3 (traceback in {log.resolve()})"
    ]
    assert "in loss" in log.read_text()


@pytest.mark.long
def test_a_loss_that_is_not_finite_ends_all_workers_without_a_restart(troupe: Commands, cluster: Cluster) -> None:
    run = troupe.path("run")
    done = troupe.run("train", *WORDS, "steps=20", "nan_at=15", "guilty=3", "workers=2", "--name", "run",
                      on=cluster)  # fmt: skip
    assert done.code == 1
    (line,) = done.mistakes
    assert line.startswith("troupe: step 15: the loss of phase second is not finite (nan); the phase changed nothing")
    assert "restart" not in done.out
    assert [path.name for path in checkpoints(run)] == ["step_00000000", "step_00000010"]


@pytest.mark.long
def test_a_damaged_checkpoint_is_told_by_workers_too(troupe: Commands, straight: Commands, cluster: Cluster) -> None:
    run = troupe.path("run")
    troupe.train(*WORDS, "steps=30", "--name", "run")
    (run / "checkpoints" / "step_00000030" / "state.pt").write_bytes(b"")
    done = troupe.train("--resume", "run", STEPS, "workers=2", *OPTIONS, on=cluster)
    (line,) = [line for line in done.out.splitlines() if "damaged" in line]
    assert line.startswith("troupe: step_00000030: damaged (state.pt differs in size from its manifest)")
    assert_same_run(run, straight.path("run"))
