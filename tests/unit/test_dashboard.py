"""What a dashboard tells of jobs, without one."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import dashboard, verbs
from cluster.columns import columns_of, paragraphs
from cluster.dashboard import Dashboard
from cluster.show import Progress
from cluster.words import Words


def details(status: str, message: str) -> Any:
    return SimpleNamespace(
        metadata={"run": "digits", "troupe": "0.2.0"}, status=SimpleNamespace(value=status), message=message,
        submission_id="digits", driver_exit_code=0, start_time=(time.time() - 75) * 1000, end_time=None,
    )  # fmt: skip


def test_a_job_that_has_not_begun_says_why_and_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [details("PENDING", "waiting for resources"), details("SUCCEEDED", "")]
    client = object.__new__(Dashboard)
    monkeypatch.setattr(dashboard, "LOOK", 0.0)
    monkeypatch.setattr(client, "ask", lambda what, *words: "printed" if what == "get_job_logs" else [answers.pop(0)])
    said: list[str] = []
    assert "".join(client.logs("digits", True, said.append)) == "printed"
    assert said == ["digits: pending since 1m15s: waiting for resources"]


def test_the_list_of_jobs_says_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    client = object.__new__(Dashboard)
    monkeypatch.setattr(client, "ask", lambda what: [details("PENDING", "waiting for resources")])
    (row,) = dashboard.rows(client.jobs())
    assert (row["state"], row["time"], row[""]) == ("pending", "1m15s", "waiting for resources")


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_list_of_jobs_fits_its_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    client = object.__new__(Dashboard)
    jobs = [details("PENDING", "waiting for resources, " * 5), details("FAILED", f"/a/path/{'x' * 150}/that-is-long")]
    jobs[1].submission_id = "猫の名前はまだないのである-" * 5
    monkeypatch.setattr(client, "ask", lambda what: jobs)
    monkeypatch.setattr(dashboard, "reach", lambda address: client)
    monkeypatch.setenv("COLUMNS", str(columns))
    answer = verbs.carry_out(Words("jobs", options={"address": "http://h:1"}), Progress())
    assert answer.text is not None
    shown = paragraphs(answer.text).splitlines()
    assert max(map(columns_of, shown)) <= columns
    assert "waiting for resources" in " ".join(" ".join(shown).split())
