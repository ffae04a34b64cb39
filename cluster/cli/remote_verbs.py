"""The verbs that use a cluster's dashboard: submit and jobs, and stop and logs of jobs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.cli import commands
from cluster.cli.parser import Words
from cluster.terminal.answers import Answer
from cluster.terminal.progress import Progress
from cluster.terminal.tables import table
from trainers.base.errors import FAILED, STOPPED, TroupeError
from trainers.base.problems import Problem, sentence


def followed(address: str, name: str, to_the_end: bool, keep: bool, say: Callable[[str], None]) -> Answer:
    """Print the output of a job; if followed to its end, the answer has its exit code. `keep`: also in the result."""
    from cluster.inspection import follow
    from cluster.ray_jobs import dashboard

    client = dashboard.reach(address)
    number = client.job(name)["job"]
    texts = follow.shown(((None, text) for text in client.logs(number, to_the_end, say)), to_the_end, keep)
    job = client.job(number)
    result = {"name": job["name"], "job": job, "logs": texts}
    return Answer(result, None) if not to_the_end else Answer(result, *_end_of(job))


def _end_of(job: Mapping[str, Any]) -> tuple[str, int, list[Problem]]:
    """How a followed job ended: one line, its exit code, and its problem if it has one."""
    from cluster.ray_jobs import dashboard

    if job["state"] not in dashboard.ENDED:
        raise TroupeError(Problem("interrupted", job["name"], "detached; the job is still running"), STOPPED)
    kind, code = "stopped" if job["state"] == "STOPPED" else "job-failed", dashboard.code_of(job)
    problem = Problem(kind, job["name"], dashboard.why(job))
    return sentence(problem), code, [problem] if code else []


def stop(address: str, name: str, say: Callable[[str], None]) -> Answer:
    """Stop a job after saving; exit code 1 if it ended without saving."""
    from cluster.ray_jobs import dashboard

    stopped = dashboard.reach(address).stop(name, say)
    job = {key: value for key, value in stopped.items() if key not in ("saved", "resume")}
    finished, saved = stopped["state"] == "SUCCEEDED", stopped["saved"]
    result = {
        "name": job["name"],
        "job": job,
        "finished": finished,
        "saved": saved,
        "step": None,
        "resume": stopped["resume"],
    }
    problem = Problem("not-saved", job["name"], dashboard.why(stopped))
    if saved:
        return Answer(result, f"{sentence(problem)}; resume with `{stopped['resume']}`")
    return Answer(result, sentence(problem), *(() if finished else (FAILED, [problem])))


def submit(said: Words, progress: Progress) -> Answer | None:
    from cluster.ray_jobs import dashboard, submission

    inner, family = said.inner, ""
    address = said.options.get("address") or os.environ.get(dashboard.ADDRESS, "")
    if not address:
        said.problems.append(dashboard.NO_ADDRESS)
    if inner is not None and inner.has("resume"):
        if inner.has("name"):
            reason = "a resumed job has the name of its run"
            said.problems.append(Problem("settings-conflict", "--name", reason, "leave it out"))
    elif inner is not None:  # its problems are reported here
        with tempfile.TemporaryDirectory() as nowhere:
            family = commands.add_problems(said, lambda: commands.prepare_elsewhere(inner, Path(nowhere))) or ""
            said.problems += [one for one in inner.problems if one not in said.problems]
    if said.problems or inner is None:
        return None
    own_space = inner.options.get("space", "none") != "none"
    sent = submission.submit(
        submission.SubmitCommand(
            address,
            inner.verb,
            family,
            inner.again("name", "families", "config", *(["space"] if own_space else [])),
            inner.options.get("name"),
            inner.options.get("resume"),
            inner.families,
            inner.path("config", "") if inner.has("config") else None,
            inner.path("space", "") if own_space else None,
            inner.options.get("runs-dir"),
            commands.to_check(inner),
            said.has("install"),
            said.has("unchecked"),
        ),
        progress.say,
    )
    if not said.has("follow"):
        return Answer({**sent, "ended": None}, submission.text(sent))
    progress.line(submission.text(sent))
    shown = followed(sent["address"], sent["job"], True, False, progress.say)
    assert shown.result is not None
    return shown._replace(result={**sent, "ended": shown.result["job"]})


def jobs(said: Words) -> Answer | None:
    from cluster.ray_jobs import dashboard

    address = said.options.get("address") or os.environ.get(dashboard.ADDRESS, "")
    if not address:
        said.problems.append(dashboard.NO_ADDRESS)
    if said.problems:
        return None
    found = dashboard.reach(address).jobs()
    nothing = "no jobs; `troupe submit train dcgan data=digits --address ...` submits one"
    return Answer({"jobs": found}, table(dashboard.rows(found), nothing))
