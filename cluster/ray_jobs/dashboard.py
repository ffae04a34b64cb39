"""The dashboard of a Ray cluster: let in by it, and what it tells of the jobs that troupe has sent."""

from __future__ import annotations

import http.client
import json
import logging
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
from trainers.base.errors import CONFLICT, STOPPED, SURROUNDINGS, WORDS, TroupeError, meant
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS

ADDRESS = "RAY_API_SERVER_ADDRESS"  # Ray's own variable for the dashboard's address
NO_ADDRESS = Problem(
    "missing", "--address", f"say where the cluster's dashboard is, --address http://HEAD:8265 (or {ADDRESS})"
)
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Dashboard:
    """Ray's own client of jobs, of which each question has an end."""

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        from ray.job_submission import JobSubmissionClient

        self.address = address
        for talker in ("dashboard_sdk", "job.sdk"):  # they tell of each upload, and set their levels themselves
            logging.getLogger(f"ray.dashboard.modules.{talker}").setLevel(logging.ERROR)
        logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.ERROR)
        with environment({ADDRESS: None, "RAY_ADDRESS": None}):  # which would be taken instead of the address
            client: Any = JobSubmissionClient(address, headers=dict(headers))
        self.client = client
        patient: Any = partial(self.client._do_request, timeout=WAITS.dashboard)
        self.client._do_request = patient  # Ray itself waits for ever

    def ask(self, question: str, *words: Any, **more: Any) -> Any:
        """One of the client's methods. Raises TroupeError (exit code 3) where no answer comes within a minute."""
        until = time.monotonic() + WAITS.dashboard_asked_again
        while True:
            try:
                return getattr(self.client, question)(*words, **more)
            except Exception as error:
                passing = isinstance(error, OSError) or "status code 5" in str(error)
                if not passing or time.monotonic() > until:
                    reason = f"the dashboard no longer answers ({first_line(error)})"
                    raise TroupeError(unreachable(self.address, reason, "jobs go on"), SURROUNDINGS) from error
            time.sleep(WAITS.look_at_job)

    # Jobs

    def jobs(self) -> list[dict[str, Any]]:
        """Every job that troupe has sent, oldest first."""
        jobs = []
        for details in self.ask("list_jobs"):
            told = details.metadata or {}
            if "run" not in told or "troupe" not in told:
                continue
            began, ended = (stamp / 1000 if stamp else None for stamp in (details.start_time, details.end_time))
            jobs.append(
                {
                    "name": told["run"],
                    "job": details.submission_id,
                    "verb": told.get("verb", "train"),
                    "state": details.status.value,
                    "began": began,
                    "ended": ended,
                    "message": (details.message or "").strip(),
                    "exit_code": details.driver_exit_code,
                }
            )
        return sorted(jobs, key=lambda job: job["began"] or 0.0)

    def job(self, name: str) -> dict[str, Any]:
        """The newest job of this name, or the one with this number. Raises TroupeError (exit code 2) for none."""
        jobs = self.jobs()
        found = [job for job in jobs if job["name"] == name] or [job for job in jobs if job["job"] == name]
        if not found:
            hint = "; ".join(filter(None, [meant(name, [job["name"] for job in jobs]), "`troupe jobs` lists them"]))
            raise TroupeError(Problem("unknown-job", name, "no such job", hint), WORDS)
        return found[-1]

    def stop(self, name: str, say: Callable[[str], None]) -> dict[str, Any]:
        """Let a job save and end, and wait until it has. Raises TroupeError: exit code 4 where it has ended before, 130
        where Ctrl-C ends the waiting."""
        job = self.job(name)
        if job["state"] in ENDED:
            reason = f"has ended before ({job['state'].lower()})"
            raise TroupeError(Problem("not-working", name, reason, "`troupe jobs` shows all"), CONFLICT)
        doing = "saving" if job["state"] == "RUNNING" else "it has not begun"
        self.ask("stop_job", job["job"])
        begun = told = time.monotonic()
        try:
            while (now := self.job(job["job"]))["state"] not in ENDED:
                if time.monotonic() > told:
                    told = time.monotonic() + 5
                    say(f"{name}: {doing}, since {duration(time.monotonic() - begun)}")
                time.sleep(WAITS.look_at_job / 4)
        except KeyboardInterrupt:
            raise TroupeError(
                Problem("interrupted", name, "will still save and stop; nobody waits for it now"), STOPPED
            ) from None
        record = record_in(str(self.ask("get_job_logs", job["job"])))
        saved = record is not None and record.get("saved") is True
        return {**now, "saved": saved, "resume": f"troupe submit {job['verb']} --resume {job['name']}"}

    def logs(self, job: str, follow: bool, say: Callable[[str], None]) -> Iterator[str]:
        """What a job prints, piece by piece; with `follow`, until it has ended. Of one that has not begun `say` is told
        why, and since when."""
        seen, told = 0, 0.0
        while True:
            now = self.job(job)
            ended = now["state"] in ENDED
            if now["state"] == "PENDING" and time.monotonic() > told:
                told = time.monotonic() + 10
                since = f" since {duration(time.time() - now['began'])}" if now["began"] else ""
                say(f"{now['name']}: pending{since}: {now['message'] or 'Ray does not say why'}")
            printed = without_records(str(self.ask("get_job_logs", job)))
            yield printed[seen:]
            seen = len(printed)
            if ended or not follow:
                return
            time.sleep(WAITS.look_at_job)


def reach(address: str) -> Dashboard:
    """Ask a dashboard to let us in. Raises TroupeError: exit code 2 for an address of another kind, 3, soon, where it
    does not. The token goes only to who asks for one."""
    if not address.startswith(("http://", "https://")):
        advice = f"say http://{address}" if "://" not in address and ":" in address else "say http://HEAD:8265"
        raise TroupeError(Problem("bad-value", "--address", "jobs go through the dashboard", advice, address), WORDS)
    mine, headers = token(), dict[str, str]()
    code = _version(address, {})
    if code == 401 and mine:
        headers = {"Authorization": f"Bearer {mine}"}
        code = _version(address, headers)
    if code in (401, 403):
        raise TroupeError(token_refused(address, bool(mine)), SURROUNDINGS)
    if isinstance(code, int):
        raise TroupeError(unreachable(address, f"is no dashboard of Ray (it answers {code})"), SURROUNDINGS)
    import ray

    if code != ray.__version__:
        raise TroupeError(other_ray(address, code, ray.__version__), SURROUNDINGS)
    return Dashboard(address, headers)


def _version(address: str, headers: Mapping[str, str]) -> str | int:
    """The version of Ray that answers, or the code with which it refuses. Raises TroupeError where nobody does."""
    try:
        asked = urllib.request.Request(f"{address.rstrip('/')}/api/version")
        for name, value in headers.items():
            asked.add_unredirected_header(name, value)
        way = urllib.request.build_opener(urllib.request.ProxyHandler(proxies(address)))
        with way.open(asked, timeout=WAITS.dashboard_found) as answer:
            return str(json.load(answer)["ray_version"])
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError, http.client.HTTPException):
        hint = "`ray start --head` prints its address"
        problem = unreachable(address, "no dashboard of Ray answers there", hint)
    except (KeyError, TypeError):
        problem = unreachable(address, "is no dashboard of Ray")
    raise TroupeError(problem, SURROUNDINGS)


def rows(jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Jobs for people: the newest last."""
    shown = []
    for job in jobs:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job["began"])) if job["began"] else "-"
        took = duration((job["ended"] or time.time()) - job["began"]) if job["began"] else "-"
        why = job["message"].splitlines()[0] if job["message"] and job["state"] in ("PENDING", "FAILED") else ""
        code = "" if job["exit_code"] is None else str(job["exit_code"])
        shown.append(
            {
                "name": job["name"],
                "job": job["job"],
                "verb": job["verb"],
                "state": job["state"].lower(),
                "since": began,
                "time": took,
                "exit code": code,
                "": why,
            }
        )
    return shown


def code_of(job: Mapping[str, Any]) -> int:
    """The exit code of a job that has ended: its process's own, where it had one."""
    if job["exit_code"] is not None and job["exit_code"] >= 0:
        return int(job["exit_code"])
    return {"SUCCEEDED": 0, "STOPPED": STOPPED}.get(job["state"], 1)


def why(job: Mapping[str, Any]) -> str:
    """How a job ended, in a few words."""
    told = f": {job['message'].splitlines()[-1]}" if job["message"] and job["state"] == "FAILED" else ""
    saved = {True: " and saved", False: " without saving", None: ""}[job.get("saved")]
    return f"{job['state'].lower()}{saved if job['state'] == 'STOPPED' else ''}{told}"


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
