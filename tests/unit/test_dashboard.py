"""What a dashboard tells of jobs, without one."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import dashboard
from cluster.dashboard import Dashboard


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
