"""A stop on request saves first and exits with 130; a second request ends at once."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import time

import pytest
from commands import (
    FRAGILE,
    FRAGILE_RUN,
    OWN_FAMILIES,
    Commands,
    assert_same_run,
    checkpoints,
    leftovers,
    until,
    until_step,
)
from tiers import long

from cluster.host.signals import REQUESTS
from cluster.requests.models import REQUESTS as VERBS
from trainers.base.timeouts import WAITS
from trainers.storage import checkpoint

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150)]

PROMISED = 15  # seconds, to save and to end
NAMED = [number for number in REQUESTS if number <= signal.SIGRTMIN]  # one of the real-time signals stands for all
# Something is written in every step, and a step has several phases between which it can stop
EVERYTHING = (
    "everything", "batch_size=16", "microbatch_size=4", "ema=0.9", "memory_format=contiguous", "log_every=1",
    "checkpoint_every=1000", "evaluate_every=1", "sample_every=5", "steps=24", "--families", str(OWN_FAMILIES),
)  # fmt: skip


@pytest.fixture(scope="module")
def straight(shared: Commands) -> Commands:
    shared.train(*EVERYTHING, "--name", "run")
    return shared


@pytest.mark.parametrize("number", [signal.SIGTERM, *long(*NAMED[::2])])
def test_a_stopped_run_is_saved_and_goes_on_with_the_same_bits(
    troupe: Commands, straight: Commands, number: int
) -> None:
    run = troupe.path("run")
    command = troupe.start("train", *EVERYTHING, "--name", "run")
    until_step(run, 7, command)
    command.ask_all(number)
    done = command.wait(PROMISED)
    assert done.code == 130
    (line,) = done.mistakes
    step = int(checkpoints(run)[-1].name.removeprefix("step_")[:8])
    assert line == f"troupe: run: stopped at step {step} of 24 and saved; continue with --resume run"
    assert step >= 7
    assert "troupe: stopping: saving first" in done.out.splitlines()
    troupe.train("--resume", "run", "--families", str(OWN_FAMILIES))
    assert_same_run(run, straight.path("run"))


def test_a_run_whose_terminal_is_closed_is_saved_and_goes_on_with_the_same_bits(
    troupe: Commands, straight: Commands
) -> None:
    """A shell sends SIGHUP too, a moment before or after the kernel."""
    run = troupe.path("run")
    command, close = troupe.start_in_terminal("train", *EVERYTHING, "--name", "run")
    until_step(run, 7, command)
    close()
    with contextlib.suppress(ProcessLookupError):
        command.send(signal.SIGHUP)
    assert command.wait(PROMISED).code == 130
    assert checkpoint.position_of(checkpoints(run)[-1].name)[0] >= 7
    troupe.train("--resume", "run", "--families", str(OWN_FAMILIES))
    assert_same_run(run, straight.path("run"))


def test_under_nohup_a_run_goes_on_to_its_end(troupe: Commands, straight: Commands) -> None:
    run = troupe.path("run")
    command = troupe.start("train", *EVERYTHING, "--name", "run", prefix=("nohup",))
    until_step(run, 7, command)
    command.send(signal.SIGHUP)
    done = command.wait(60)
    assert done.code == 0, done
    assert_same_run(run, straight.path("run"))


def test_a_closed_terminal_that_was_ignored_costs_nothing(troupe: Commands, straight: Commands) -> None:
    """As after `nohup`, or `disown` of a shell: what is written to a terminal that is no more is lost, and no more."""
    run = troupe.path("run")
    command, close = troupe.start_in_terminal("train", *EVERYTHING, "--name", "run", ignoring=signal.SIGHUP)
    until_step(run, 7, command)
    close()
    assert command.wait(60).code == 0
    assert_same_run(run, straight.path("run"))


def test_a_stop_in_the_middle_of_a_step_is_kept_as_such(troupe: Commands) -> None:
    """A step with two phases on fresh samples stops between them, and the second is made after the resume."""
    run = troupe.path("run")
    command = troupe.start("train", *FRAGILE_RUN, "steps=6", "pause=0.25", "--name", "run")
    until_step(run, 1, command)
    time.sleep(0.1)  # in the first phase of four micro-batches
    command.send(signal.SIGINT)
    assert command.wait(PROMISED).code == 130
    assert checkpoints(run)[-1].name == "step_00000001_phase_1"
    troupe.train("--resume", "run", "pause=0", "--families", str(FRAGILE))
    troupe.train(*FRAGILE_RUN, "steps=6", "--name", "straight")
    assert_same_run(run, troupe.path("straight"))


@pytest.mark.parametrize("workers", [1, *long(2)])
def test_a_stop_in_the_middle_of_an_evaluation_leaves_it_for_later(troupe: Commands, workers: int) -> None:
    """It would take minutes."""
    run, words = troupe.path("run"), (*FRAGILE_RUN, "steps=6", "evaluate_every=2")
    command = troupe.start("train", *words, "evaluation_pause=2", f"workers={workers}", "--name", "run")
    until_step(run, 2, command)
    time.sleep(0.5)
    command.send(signal.SIGINT)
    done = command.wait(PROMISED)
    assert done.code == 130, done
    assert done.mistakes == ["troupe: run: stopped at step 2 of 6 and saved; continue with --resume run"]
    assert checkpoints(run)[-1].name == "step_00000002_pending"
    troupe.train("--resume", "run", "evaluation_pause=0", "--families", str(FRAGILE))
    troupe.train(*words, "--name", "straight")
    assert_same_run(run, troupe.path("straight"))


def test_a_second_ctrl_c_ends_at_once(troupe: Commands) -> None:
    """A micro-batch takes 20 s, so that nothing can be saved before."""
    run = troupe.path("run")
    command = troupe.start("train", *FRAGILE_RUN, "steps=6", "pause=20", "--name", "run")
    until(lambda: checkpoints(run), "the first checkpoint")
    time.sleep(0.5)
    command.interrupt()
    until(lambda: "saving first" in command.out.read_text(), "the first one is heard")
    assert command.process.poll() is None
    time.sleep(WAITS.same_request)
    command.interrupt()
    done = command.wait(5)
    assert done.code == 130
    assert done.mistakes == ["troupe: interrupted; saved checkpoints are kept"]
    assert leftovers(run) == []


@pytest.mark.parametrize("number", [signal.SIGINT, *long(signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)])
def test_a_stop_before_there_is_anything_to_save(troupe: Commands, number: int) -> None:
    command = troupe.start("train", *FRAGILE_RUN, "--name", "run")
    until((troupe.path("run") / "settings.json").exists, "the run's folder", every=0.001)
    command.ask_all(number)
    done = command.wait(PROMISED)
    assert done.code == 130
    assert len(done.mistakes) == 1, done
    assert done.mistakes[0].startswith("troupe: ")


# A verb that is asked to end at the moment when it opens a file, or makes a connection, whose name holds a word
ASKED_WITHIN = """
import os, sys, time
word, number, moment = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sys.argv[1:] = sys.argv[4:]
sys.orig_argv = sys.argv
def hook(event, details):
    global word
    if word and event in ("open", "socket.connect", "os.listdir", "os.scandir") and word in str(details):
        word = ""
        print(time.monotonic(), file=open(moment, "w"))
        os.kill(os.getpid(), number)
sys.addaudithook(hook)
from cluster.cli.start import main
main()
"""
AT_ONCE = 3  # seconds; a machine that is not busy needs one
THERE = ("--families", str(OWN_FAMILIES))
NOWHERE = ("--address", "http://127.0.0.1:9")
UNTRAINED = {
    "runs": (("runs",), "settings.json"),
    "report": (("report", "run"), "metrics.jsonl"),
    "logs": (("logs", "run"), "runs/run"),
    "stop": (("stop", "run"), "runs/run"),
    "families": (("families", *THERE), str(OWN_FAMILIES)),
    "datasets": (("datasets",), "trainers/data"),
    "recipes": (("recipes",), "mnist_mlp_bn"),
    "env": (("env",), "METADATA"),
    "check": (("check",), "runs"),
    "jobs": (("jobs", *NOWHERE), "127.0.0.1"),
    "evaluate": (("evaluate", "run", *THERE), "step_000000"),
    "sample": (("sample", "run", *THERE), "step_000000"),
    "predict": (("predict", "run", "image.png", *THERE), "settings.json"),
    "export": (("export", "run", "--out", "exported", *THERE), "exported"),
    "submit": (("submit", "train", "dcgan", "--runs-dir", "/shared", *NOWHERE), "127.0.0.1"),
    "verify": (("verify", "dcgan", "workers=2"), "popen_spawn_posix"),
}
HEAVY = ("verify", "sample", "predict", "export", "submit")


@pytest.mark.parametrize("verb", [*(verb for verb in UNTRAINED if verb not in HEAVY), *long(*HEAVY)])
def test_what_does_not_train_ends_at_once(troupe: Commands, straight: Commands, verb: str) -> None:
    (troupe.folder / "runs").symlink_to(straight.folder / "runs")
    (troupe.folder / "image.png").touch()
    words, within = UNTRAINED[verb]
    moment = troupe.folder / "moment"
    number = random.Random(verb).choice(NAMED)
    done = troupe.call(sys.executable, "-c", ASKED_WITHIN, within, str(int(number)), str(moment), *words).wait(60)
    ended = time.monotonic()
    assert moment.exists(), done
    assert done.code == 130, done
    assert len(done.mistakes) == 1, done
    assert ended - float(moment.read_text()) < AT_ONCE
    until(lambda: not troupe.started[-1].members(), "the end of all its processes", 5)
    assert not (troupe.folder / "exported").exists()


def test_all_that_does_not_train_is_covered() -> None:
    assert {*UNTRAINED} == {*VERBS} - {"train", "search"}
