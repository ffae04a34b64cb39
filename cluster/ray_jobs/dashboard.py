"""The dashboard of a Ray cluster: authentication, and the jobs that troupe has submitted."""

from __future__ import annotations

import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from cluster.backend.auth import token
from cluster.backend.connection import other_ray, token_refused, unreachable
from cluster.host.environment import environment
from cluster.host.ray_environment import proxies
from cluster.terminal.answers import record_in, without_records
from cluster.terminal.progress import duration
from trainers.base.errors import CONFLICT, ENVIRONMENT, STOPPED, USAGE, TroupeError, did_you_mean
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS

ADDRESS = "RAY_API_SERVER_ADDRESS"  # Ray's own variable for the dashboard's address
NO_ADDRESS = Problem(
    "missing", "--address", f"specify the cluster's dashboard, --address http://HEAD:8265 (or {ADDRESS})"
)
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def dashboard_address(given: str | None) -> str:
    """The address of the dashboard: as given, else from Ray's variable; empty if neither is."""
    return given or os.environ.get(ADDRESS, "")


class Dashboard:
    """Ray's client for jobs, with a timeout for each request."""

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        from ray.job_submission import JobSubmissionClient

        self.address = address
        for talker in ("dashboard_sdk", "job.sdk"):  # they log each upload, and set their own levels
            logging.getLogger(f"ray.dashboard.modules.{talker}").setLevel(logging.ERROR)
        logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.ERROR)
        with environment({ADDRESS: None, "RAY_ADDRESS": None}):  # which would override the address
            client: Any = JobSubmissionClient(address, headers=dict(headers))
        self.client = client
        patient: Any = partial(self.client._do_request, timeout=WAITS.dashboard)
        self.client._do_request = patient  # Ray itself waits forever

    def call(self, question: str, *arguments: Any, **more: Any) -> Any:
        """Call a method of the client. Raises TroupeError (exit code 3) without an answer within a minute."""
        until = time.monotonic() + WAITS.dashboard_retries
        while True:
            try:
                return getattr(self.client, question)(*arguments, **more)
            except Exception as error:
                transient = isinstance(error, OSError) or "status code 5" in str(error)
                if not transient or time.monotonic() > until:
                    reason = f"the dashboard no longer answers ({first_line(error)})"
                    raise TroupeError(unreachable(self.address, reason, "jobs continue"), ENVIRONMENT) from error
            time.sleep(WAITS.poll_job)

    # Jobs

    def jobs(self) -> list[dict[str, Any]]:
        """Every job that troupe has submitted, oldest first."""
        jobs = []
        for details in self.call("list_jobs"):
            metadata = details.metadata or {}
            if "run" not in metadata or "troupe" not in metadata:
                continue
            started, ended = (stamp / 1000 if stamp else None for stamp in (details.start_time, details.end_time))
            jobs.append(
                {
                    "name": metadata["run"],
                    "job": details.submission_id,
                    "verb": metadata.get("verb", "train"),
                    "state": details.status.value,
                    "began": started,
                    "ended": ended,
                    "message": (details.message or "").strip(),
                    "exit_code": details.driver_exit_code,
                }
            )
        return sorted(jobs, key=lambda job: job["began"] or 0.0)

    def job(self, name: str) -> dict[str, Any]:
        """The newest job of this name, or the one with this number. Raises TroupeError (exit code 2) if none exists."""
        jobs = self.jobs()
        found = [job for job in jobs if job["name"] == name] or [job for job in jobs if job["job"] == name]
        if not found:
            hint = "; ".join(
                filter(None, [did_you_mean(name, [job["name"] for job in jobs]), "`troupe jobs` lists them"])
            )
            raise TroupeError(Problem("unknown-job", name, "no such job", hint), USAGE)
        return found[-1]

    def stop(self, name: str, notify: Callable[[str], None]) -> dict[str, Any]:
        """Stop a job after saving, and wait for its end. Raises TroupeError: exit code 4 if it has already ended, 130
        if Ctrl-C ends the wait."""
        job = self.job(name)
        if job["state"] in ENDED:
            reason = f"has already ended ({job['state'].lower()})"
            raise TroupeError(Problem("not-working", name, reason, "`troupe jobs` lists all"), CONFLICT)
        doing = "saving" if job["state"] == "RUNNING" else "not started"
        self.call("stop_job", job["job"])
        started = notify_at = time.monotonic()
        try:
            while (now := self.job(job["job"]))["state"] not in ENDED:
                if time.monotonic() > notify_at:
                    notify_at = time.monotonic() + 5
                    notify(f"{name}: {doing}, for {duration(time.monotonic() - started)}")
                time.sleep(WAITS.poll_job / 4)
        except KeyboardInterrupt:
            raise TroupeError(
                Problem("interrupted", name, "detached; the job will still save and stop"), STOPPED
            ) from None
        record = record_in(str(self.call("get_job_logs", job["job"])))
        saved = record is not None and record.get("saved") is True
        return {**now, "saved": saved, "resume": f"troupe submit {job['verb']} --resume {job['name']}"}

    def logs(self, job: str, follow: bool, notify: Callable[[str], None]) -> Iterator[str]:
        """The output of a job, in pieces; with `follow`, until it has ended. For a pending job, calls `notify` with the
        reason and the waiting time."""
        seen, notify_at = 0, 0.0
        while True:
            now = self.job(job)
            ended = now["state"] in ENDED
            if now["state"] == "PENDING" and time.monotonic() > notify_at:
                notify_at = time.monotonic() + 10
                since = f" for {duration(time.time() - now['began'])}" if now["began"] else ""
                notify(f"{now['name']}: pending{since}: {now['message'] or 'Ray gives no reason'}")
            printed = without_records(str(self.call("get_job_logs", job)))
            yield printed[seen:]
            seen = len(printed)
            if ended or not follow:
                return
            time.sleep(WAITS.poll_job)


def reach(address: str) -> Dashboard:
    """Connect to a dashboard. Raises TroupeError: exit code 2 for an address of another kind, 3, soon, if it fails. The
    token is only sent to a dashboard that requires one."""
    if not address.startswith(("http://", "https://")):
        advice = f"use http://{address}" if "://" not in address and ":" in address else "use http://HEAD:8265"
        raise TroupeError(Problem("bad-value", "--address", "must be a dashboard's address", advice, address), USAGE)
    own_token, headers = token(), dict[str, str]()
    code = _version(address, {})
    if code == 401 and own_token:
        headers = {"Authorization": f"Bearer {own_token}"}
        code = _version(address, headers)
    if code in (401, 403):
        raise TroupeError(token_refused(address, bool(own_token)), ENVIRONMENT)
    if isinstance(code, int):
        raise TroupeError(unreachable(address, f"is not a Ray dashboard (it answers {code})"), ENVIRONMENT)
    import ray

    if code != ray.__version__:
        raise TroupeError(other_ray(address, code, ray.__version__), ENVIRONMENT)
    return Dashboard(address, headers)


def _version(address: str, headers: Mapping[str, str]) -> str | int:
    """The version of Ray at a dashboard, or the HTTP status of a rejection. Raises TroupeError without an answer."""
    try:
        request = urllib.request.Request(f"{address.rstrip('/')}/api/version")
        for name, value in headers.items():
            request.add_unredirected_header(name, value)
        way = urllib.request.build_opener(urllib.request.ProxyHandler(proxies(address)))
        with way.open(request, timeout=WAITS.dashboard_first_answer) as answer:
            return str(json.load(answer)["ray_version"])
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError, http.client.HTTPException):
        hint = "`ray start --head` prints its address"
        problem = unreachable(address, "no Ray dashboard answers there", hint)
    except (KeyError, TypeError):
        problem = unreachable(address, "is not a Ray dashboard")
    raise TroupeError(problem, ENVIRONMENT)


def rows(jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Jobs as rows of a table, newest last."""
    table_rows = []
    for job in jobs:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job["began"])) if job["began"] else "-"
        took = duration((job["ended"] or time.time()) - job["began"]) if job["began"] else "-"
        why = job["message"].splitlines()[0] if job["message"] and job["state"] in ("PENDING", "FAILED") else ""
        code = "" if job["exit_code"] is None else str(job["exit_code"])
        table_rows.append(
            {
                "name": job["name"],
                "job": job["job"],
                "verb": job["verb"],
                "state": job["state"].lower(),
                "since": started,
                "time": took,
                "exit code": code,
                "": why,
            }
        )
    return table_rows


def code_of(job: Mapping[str, Any]) -> int:
    """The exit code of an ended job: that of its process, if it had one."""
    if job["exit_code"] is not None and job["exit_code"] >= 0:
        return int(job["exit_code"])
    return {"SUCCEEDED": 0, "STOPPED": STOPPED}.get(job["state"], 1)


def reason_of_end(job: Mapping[str, Any]) -> str:
    """How a job ended, in a few words."""
    message = f": {job['message'].splitlines()[-1]}" if job["message"] and job["state"] == "FAILED" else ""
    saved = {True: " and saved", False: " without saving", None: ""}[job.get("saved")]
    return f"{job['state'].lower()}{saved if job['state'] == 'STOPPED' else ''}{message}"


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
