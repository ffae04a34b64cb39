"""What a person sees while a run goes on."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.cli import main
from cluster.terminal import progress
from cluster.terminal.progress import Progress, bar, describe, duration, size
from cluster.terminal.tables import table
from trainers.base.timeouts import WAITS


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def at(step: int, **metrics: float) -> dict[str, Any]:
    return {"step": step, "steps": 800, "samples_per_second": 412.4, "metrics": metrics}


def test_the_line_tells_step_speed_losses_and_time_left() -> None:
    metrics = {"discriminator_loss": 0.4123, "real_score": 0.9, "eval_accuracy": 0.87654}
    assert describe(at(120, **metrics), 70) == (
        "step 120/800  412 samples/s  discriminator_loss 0.412  eval_accuracy 0.877  1m10s left"
    )


def test_the_line_leaves_out_what_is_not_known_yet() -> None:
    assert describe({"step": 0, "steps": 800, "samples_per_second": 0.0, "metrics": {}}, None) == "step 0/800"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.4, "0s"), (42, "42s"), (59.6, "1m00s"), (185, "3m05s"), (3599.7, "1h00m"), (7800, "2h10m")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (75_240_000, "75.2 MB"), (3.2e9, "3.2 GB"), (5e12, "5000.0 GB")],
)
def test_sizes_are_short(count: float, text: str) -> None:
    assert size(count) == text


def test_a_bar_fills() -> None:
    assert [bar(share, 4) for share in (0, 0.5, 1)] == ["[    ]", "[##  ]", "[####]"]


def test_where_nobody_looks_there_is_one_plain_line_now_and_then(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.show({})
    for step in range(100):
        progress.show(at(step))
        clock.now += WAITS.plain_line / 10
    progress.end()
    lines = stream.getvalue().splitlines()
    assert 9 <= len(lines) <= 11
    assert lines[0] == "step 0/800  412 samples/s"
    assert all("\x1b" not in line and "\r" not in line for line in lines)
    assert lines[5].endswith(" left")


def test_time_left_is_reckoned_from_where_this_run_began(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.show(at(400))
    clock.now += 100
    progress.show(at(600))
    assert stream.getvalue().splitlines()[1].endswith("1m40s left")


def test_on_a_terminal_one_line_renews_itself(clock: Clock) -> None:
    stream = Terminal()
    progress = Progress(stream)
    for step in range(3):
        progress.show(at(step))
        progress.show(at(step))  # a moment later: nothing
        clock.now += 1
    assert stream.getvalue().count("step ") == 3
    assert stream.getvalue().count("\r\x1b[K") == 2
    assert "\n" not in stream.getvalue()
    progress.end()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_a_notice_has_a_line_of_its_own(clock: Clock) -> None:
    stream = Terminal()
    progress = Progress(stream)
    progress.show(at(1))
    progress.notify("a worker died")
    assert stream.getvalue().endswith("\r\x1b[Ktroupe: a worker died\n")


def test_packing_is_told_like_training_and_its_end_always(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for done in range(0, 101, 10):
        progress.packing(done, 100)
        clock.now += 0.1
    lines = stream.getvalue().splitlines()
    assert lines == [f"packing images 0/100  {bar(0)}", f"packing images 100/100  {bar(1)}"]


def test_what_goes_on_before_the_first_step_is_shown_as_such(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for seconds in range(90):
        progress.show({"doing": f"beginning, {seconds} s"} if seconds else {})
        clock.now += 1
    assert all(line.startswith("beginning, ") for line in stream.getvalue().splitlines())
    assert len(stream.getvalue().splitlines()) == 8, "every ten seconds"


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
def test_the_line_never_wraps(clock: Clock, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """A line as wide as the terminal would wrap on some, and each renewal would leave one behind."""
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    progress = Progress(stream)
    metrics = {"classify_loss": 0.4123, "accuracy": 0.9, "eval_accuracy": 0.87654, "eval_loss": 1.25, "test_loss": 3.0}
    for step in (0, 120, 799):
        progress.show(at(step, **metrics))
        clock.now += 70
        progress.packing(step, 100_000)
        clock.now += 70
    lines = stream.getvalue().replace("\r\x1b[K", "\n").splitlines()
    assert len(lines) == 6
    assert max(map(len, lines)) < columns
    shown = lines[2]
    assert columns == 20 or shown.endswith(" left")
    assert columns < 80 or "eval_accuracy 0.877" in shown, "evaluations before other metrics"
    assert (columns == 200) == ("classify_loss" in shown and "test_loss" in shown)


def test_a_narrow_line_keeps_the_step_and_the_time_left() -> None:
    assert describe(at(120, discriminator_loss=0.4), 70, 26) == "step 120/800  1m10s left"
    assert describe(at(120, discriminator_loss=0.4), 70, 10) == "step 120/8"


def test_what_goes_on_between_two_steps_is_shown(clock: Clock) -> None:
    text = describe({**at(120, discriminator_loss=0.4), "doing": "evaluating 34%"}, 70)
    assert text == "step 120/800  evaluating 34%  412 samples/s  discriminator_loss 0.4"
    stream = io.StringIO()
    progress = Progress(stream)
    progress.doing("preparing evaluations")
    assert stream.getvalue() == "", "a short one says nothing in a pipe"
    clock.now += WAITS.plain_line
    progress.doing("evaluating 34%")
    assert stream.getvalue() == "evaluating 34%\n"


class Gone(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_has_gone_costs_nothing(clock: Clock) -> None:
    progress = Progress(Gone())
    progress.notify("hello")
    for step in range(3):
        progress.show(at(step))
        clock.now += WAITS.plain_line
    progress.end()


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize(
    "words",
    [("--help",), ("train", "--help"), ("train", "dcgan", "--help"), ("train", "classifier", "model=mlp", "--help"),
     ("runs", "--help"), ("families",), ("datasets",), ("train", "cifar_speed", "data=digits", "--dry-run")],
    ids=" ".join,
)  # fmt: skip
def test_help_tables_and_dry_runs_fit_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any, columns: int, words: Any
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    assert main.command(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert all(line == line.rstrip() for line in lines)


def test_a_table_in_a_pipe_has_one_line_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    rows = [{"name": "a" * 50, "state": "b" * 200}, {"name": "c", "state": "d"}]
    assert table(rows).splitlines()[1:] == ["a" * 50 + "  " + "b" * 200, "c" + " " * 51 + "d"]
