"""The verbs that use a cluster's dashboard: submit and jobs, and stop and logs of jobs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.requests.models import JobsRequest, SubmitRequest
from cluster.terminal.answers import Answer
from cluster.terminal.progress import Progress
from cluster.terminal.tables import table
from trainers.base.errors import FAILED, STOPPED, USAGE, TroupeError
from trainers.base.problems import Problem, sentence


def followed(address: str, name: str, to_the_end: bool, keep: bool, notify: Callable[[str], None]) -> Answer:
    """Print the output of a job; if followed to its end, the answer has its exit code. `keep`: also in the result."""
    from cluster.inspection import follow
    from cluster.ray_jobs import dashboard

    client = dashboard.reach(address)
    number = client.job(name)["job"]
    texts = follow.print_pieces(((None, text) for text in client.logs(number, to_the_end, notify)), to_the_end, keep)
    job = client.job(number)
    result = {"name": job["name"], "job": job, "logs": texts}
    return Answer(result, None) if not to_the_end else Answer(result, *_end_of(job))


def _end_of(job: Mapping[str, Any]) -> tuple[str, int, list[Problem]]:
    """How a followed job ended: one line, its exit code, and its problem if it has one."""
    from cluster.ray_jobs import dashboard

    if job["state"] not in dashboard.ENDED:
        raise TroupeError(Problem("interrupted", job["name"], "detached; the job is still running"), STOPPED)
    kind, code = "stopped" if job["state"] == "STOPPED" else "job-failed", dashboard.code_of(job)
    problem = Problem(kind, job["name"], dashboard.reason_of_end(job))
    return sentence(problem), code, [problem] if code else []


def stop(address: str, name: str, notify: Callable[[str], None]) -> Answer:
    """Stop a job after saving; exit code 1 if it ended without saving."""
    from cluster.ray_jobs import dashboard

    stopped = dashboard.reach(address).stop(name, notify)
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
    problem = Problem("not-saved", job["name"], dashboard.reason_of_end(stopped))
    if saved:
        return Answer(result, f"{sentence(problem)}; resume with `{stopped['resume']}`")
    return Answer(result, sentence(problem), *(() if finished else (FAILED, [problem])))


def submit(request: SubmitRequest, progress: Progress) -> Answer:
    from cluster.ray_jobs import submission

    sent = submission.submit_job(request, check_submit(request), progress.notify)
    if not request.follow:
        return Answer({**sent, "ended": None}, submission.text_of_job(sent))
    progress.line(submission.text_of_job(sent))
    followed_job = followed(sent["address"], sent["job"], True, False, progress.notify)
    assert followed_job.result is not None
    return followed_job._replace(result={**sent, "ended": followed_job.result["job"]})


def check_submit(request: SubmitRequest) -> str:
    """The family of the submitted command; empty for a resumed run. Raises TroupeError with all problems."""
    from cluster.ray_jobs import dashboard, prepare_job

    inner, family = request.inner, ""
    problems = [] if dashboard.dashboard_address(request.address) else [dashboard.NO_ADDRESS]
    if inner is not None and inner.resume is not None:
        if inner.name is not None:
            reason = "a resumed job has the name of its run"
            problems.append(Problem("settings-conflict", "--name", reason, "leave it out"))
    elif inner is not None:
        with tempfile.TemporaryDirectory() as nowhere:
            try:
                family = prepare_job.prepare_job(inner, Path(nowhere))
            except TroupeError as error:
                problems += error.problems
    if problems:
        raise TroupeError(problems, USAGE)
    return family


def jobs(request: JobsRequest, progress: Progress) -> Answer:
    from cluster.ray_jobs import dashboard

    if not (address := dashboard.dashboard_address(request.address)):
        raise TroupeError(dashboard.NO_ADDRESS, USAGE)
    submitted = dashboard.reach(address).jobs()
    nothing = "no jobs; `troupe submit train dcgan data=digits --address ...` submits one"
    return Answer({"jobs": submitted}, table(dashboard.rows(submitted), nothing))
