"""What a person sees while a run goes on."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import show
from cluster.show import QUIET, Progress, bar, describe, duration, size


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(show, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def at(step: int, **metrics: float) -> dict[str, Any]:
    return {"step": step, "steps": 800, "images_per_second": 412.4, "metrics": metrics}


def test_the_line_tells_step_speed_losses_and_time_left() -> None:
    metrics = {"discriminator_loss": 0.4123, "real_score": 0.9, "eval_accuracy": 0.87654}
    assert describe(at(120, **metrics), 70) == (
        "step 120/800  412 images/s  discriminator_loss 0.412  eval_accuracy 0.877  1m10s left"
    )


def test_the_line_leaves_out_what_is_not_known_yet() -> None:
    assert describe({"step": 0, "steps": 800, "images_per_second": 0.0, "metrics": {}}, None) == "step 0/800"


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
        clock.now += QUIET / 10
    progress.end()
    lines = stream.getvalue().splitlines()
    assert 9 <= len(lines) <= 11
    assert lines[0] == "step 0/800  412 images/s"
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
    progress.say("a worker died")
    assert stream.getvalue().endswith("\r\x1b[Ktroupe: a worker died\n")


def test_packing_is_told_like_training_and_its_end_always(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for done in range(0, 101, 10):
        progress.packing(done, 100)
        clock.now += 0.1
    lines = stream.getvalue().splitlines()
    assert lines == [f"packing images 0/100  {bar(0)}", f"packing images 100/100  {bar(1)}"]
