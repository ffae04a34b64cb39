"""What a dashboard tells of jobs, without one."""

from __future__ import annotations

import io
import json
import time
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.cli import main, verbs
from cluster.ray_jobs import dashboard
from cluster.ray_jobs.dashboard import Dashboard
from cluster.requests.models import JobsRequest
from cluster.terminal.answers import JOB, MARK, Answer, as_record, record_in, without_records
from cluster.terminal.progress import Progress
from cluster.terminal.tables import columns_of, paragraphs
from trainers.base.errors import FAILED, STOPPED, NotStarted, Stopped, TroupeError
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS


def details(status: str, message: str) -> Any:
    return SimpleNamespace(
        metadata={"run": "digits", "troupe": "0.2.0"}, status=SimpleNamespace(value=status), message=message,
        submission_id="digits", driver_exit_code=0, start_time=(time.time() - 75) * 1000, end_time=None,
    )  # fmt: skip


def test_a_job_that_has_not_begun_says_why_and_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [details("PENDING", "waiting for resources"), details("SUCCEEDED", "")]
    client = object.__new__(Dashboard)
    monkeypatch.setattr(WAITS, "poll_job", 0.0)
    monkeypatch.setattr(client, "call", lambda what, *words: "printed" if what == "get_job_logs" else [answers.pop(0)])
    said: list[str] = []
    assert "".join(client.logs("digits", True, said.append)) == "printed"
    assert said == ["digits: pending for 1m15s: waiting for resources"]


def test_the_list_of_jobs_says_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    client = object.__new__(Dashboard)
    monkeypatch.setattr(client, "call", lambda what: [details("PENDING", "waiting for resources")])
    (row,) = dashboard.rows(client.jobs())
    assert (row["state"], row["time"], row[""]) == ("pending", "1m15s", "waiting for resources")


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_list_of_jobs_fits_its_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    client = object.__new__(Dashboard)
    jobs = [details("PENDING", "waiting for resources, " * 5), details("FAILED", f"/a/path/{'x' * 150}/that-is-long")]
    jobs[1].submission_id = "猫の名前はまだないのである-" * 5
    monkeypatch.setattr(client, "call", lambda what: jobs)
    monkeypatch.setattr(dashboard, "reach", lambda address: client)
    monkeypatch.setenv("COLUMNS", str(columns))
    answer = verbs.carry_out(JobsRequest(address="http://h:1"), Progress())
    assert answer.text is not None
    shown = paragraphs(answer.text).splitlines()
    assert max(map(columns_of, shown)) <= columns
    assert "waiting for resources" in " ".join(" ".join(shown).split())


SAVED = as_record(Answer(None, None, STOPPED, [Problem("stopped", "digits", "stopped")], True))
NOT_SAVED = as_record(Answer(None, None, STOPPED, [], False))


@pytest.mark.parametrize(
    ("printed", "saved"),
    [
        (f"troupe: digits: stopped\n{SAVED}\n", True),
        (f"{NOT_SAVED}\nbegun once more\n{SAVED}\nRay ends\n", True),
        (f"{SAVED}\n{NOT_SAVED}\n", False),
        (f"{SAVED}\n{MARK}half a rec", True),
        (f"{SAVED}\n{MARK}5\n", True),
        ("digits: stopped at step 5 of 9 and saved\n", False),  # words are for people
        (f"{as_record(Answer({}, ''))}\n", False),
        ("", False),
    ],
)
def test_whether_a_job_has_saved_is_told_by_its_record(
    monkeypatch: pytest.MonkeyPatch, printed: str, saved: bool
) -> None:
    states = ["RUNNING", "STOPPED"]
    client = object.__new__(Dashboard)
    answers = {"get_job_logs": lambda: printed, "stop_job": lambda: None,
               "list_jobs": lambda: [details(states.pop(0), "")]}  # fmt: skip
    monkeypatch.setattr(WAITS, "poll_job", 0.0)
    monkeypatch.setattr(client, "call", lambda what, *words: answers[what]())
    assert client.stop("digits", lambda line: None)["saved"] is saved


def test_records_are_not_among_what_a_job_prints_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = f"one\n{SAVED}\ntwo\n{NOT_SAVED}\nthree"
    assert without_records(whole) == "one\ntwo\nthree"
    pieces = [whole[:place] for place in range(len(whole) + 1)]
    now: list[str] = []
    client = object.__new__(Dashboard)

    def ask(what: str, *words: Any) -> Any:
        if what == "get_job_logs":
            return now[0]
        now[:] = [pieces.pop(0)]
        return [details("RUNNING" if pieces else "SUCCEEDED", "")]

    monkeypatch.setattr(WAITS, "poll_job", 0.0)
    monkeypatch.setattr(client, "call", ask)
    assert "".join(client.logs("digits", True, lambda line: None)) == "one\ntwo\nthree"


def ended(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> tuple[int, list[str], dict[str, Any] | None]:
    """The exit code of a job that ends so, its lines for people, and its record."""

    def ends(*words: Any) -> Answer:
        if error is not None:
            raise error
        return Answer({}, "done")

    monkeypatch.setitem(verbs.VERBS, "env", verbs.Verb(ends))
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        code = main.command(["env"])
    return code, without_records(out.getvalue()).splitlines(), record_in(out.getvalue())


@pytest.mark.parametrize(
    ("error", "code", "saved", "codes"),
    [
        (None, 0, None, []),
        (Stopped(Problem("stopped", "a", "stopped at step 2 of 4 and saved")), STOPPED, True, ["stopped"]),
        (NotStarted(), STOPPED, False, ["stopped"]),
        (TroupeError(Problem("lost", reason="worker 0 died while it was stopped"), STOPPED), STOPPED, False, ["lost"]),
        (TroupeError(Problem("not-finite", "step 3", "the loss is not finite")), FAILED, None, ["not-finite"]),
        (KeyboardInterrupt(), STOPPED, False, ["interrupted"]),
        (ValueError("made up"), FAILED, None, ["internal"]),
    ],
)
def test_a_job_ends_with_a_record_of_how_it_went(
    monkeypatch: pytest.MonkeyPatch, error: BaseException | None, code: int, saved: bool | None, codes: list[str]
) -> None:
    monkeypatch.setenv(JOB, "1")
    told, lines, record = ended(monkeypatch, error)
    assert record is not None
    assert (told, record["exit_code"], record["saved"]) == (code, code, saved)
    assert [error["code"] for error in record["errors"]] == codes
    assert lines == ([f"troupe: {error['text']}" for error in record["errors"]] or ["done"])


def test_a_command_that_is_no_job_prints_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB, raising=False)
    assert ended(monkeypatch, NotStarted())[2] is None


def test_a_record_is_one_line_of_json_whatever_it_tells() -> None:
    problem = Problem("bad-value", "name", "two\nlines", value=[float("nan"), "caf\u00e9\x1e"])
    line = as_record(Answer(None, None, FAILED, [problem]))
    assert line.count("\n") == 0
    assert line.count(MARK) == 1
    assert json.loads(line[1:])["errors"][0]["value"] == [None, "caf\u00e9\x1e"]
