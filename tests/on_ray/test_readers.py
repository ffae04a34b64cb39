"""A reader that has gone (`| head`) costs no work, and exit code 0 means done."""

from __future__ import annotations

import json
import os

import pytest
from commands import DCGAN, MARKED, TESTS, TROUPE, Commands, assert_same_run, server
from tiers import long

pytestmark = [pytest.mark.ray, pytest.mark.timeout(150)]

RUN = (*DCGAN, "steps=30", "log_every=1", "sample_every=10")


def through(commands: Commands, reader: str, *words: str, seconds: float = 90) -> int:
    """The exit code of `troupe WORDS | READER`."""
    line = " ".join((*TROUPE, *words))
    done = commands.call("bash", "-c", f"{line} | {reader}; exit ${{PIPESTATUS[0]}}").wait(seconds)
    assert "Traceback" not in done.err
    assert "Exception ignored" not in done.err
    return done.code


def read_up_to(lines: int, commands: Commands, *words: str, seconds: float = 90) -> int:
    """The exit code of `troupe WORDS`, forked from a process that has imported all, whose reader goes after so many
    lines."""
    read, write = os.pipe()
    variables = {**os.environ, **MARKED, "PYTHONPATH": str(TESTS.parent)}
    with (
        open(read, "rb") as reader, open(write, "wb") as out, open(commands.folder / "err", "wb") as err,
        open(os.devnull, "rb") as nothing,
    ):  # fmt: skip
        streams = (nothing.fileno(), out.fileno(), err.fileno())
        started = server().start(("troupe", *words), commands.folder, variables, streams, False, None)
        out.close()
        for _ in range(lines):
            reader.readline()
    code = started.wait(seconds)
    told = (commands.folder / "err").read_text()
    assert "Traceback" not in told
    assert "Exception ignored" not in told
    return code


@pytest.mark.parametrize("workers", [1, *long(2)])
def test_a_run_goes_on_to_its_end(troupe: Commands, shared: Commands, workers: int) -> None:
    assert through(troupe, "head -n 1", "train", *RUN, f"workers={workers}", "--name", "run") == 0
    run = troupe.path("run")
    assert json.loads((run / "result.json").read_text())["steps"] == 30
    if not shared.path("straight").exists():
        shared.train(*RUN, "--name", "straight")
    assert_same_run(run, shared.path("straight"))


def test_a_run_that_fails_is_not_told_as_done(troupe: Commands) -> None:
    assert through(troupe, "true", "train", *RUN, "learning_rate=1e9", "--name", "run") == 1


def test_a_failed_verify_is_not_told_as_done_nor_a_wrong_word(troupe: Commands) -> None:
    assert read_up_to(0, troupe, "verify", "dcgan", "workers=2", "evaluate_every=0") == 0
    assert through(troupe, "true", "train", "dcgan", "no_such=1") == 2


def test_an_answer_that_could_not_be_written_is_told(troupe: Commands) -> None:
    done = troupe.call("bash", "-c", f"{TROUPE[0]} families > /dev/full").wait(30)
    assert done.code == 3
    assert done.mistakes == ["troupe: the output could not be written (No space left on device)"]
