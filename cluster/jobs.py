"""Jobs on a Ray cluster: `troupe train` and `troupe search` carried out there, through the dashboard's address.

What is sent are the three packages and what the words name (families, a config), never runs or data. Everything else is
asked of the cluster: which jobs there are, what they print, how they ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cluster
import searchspaces
import trainers
from cluster.check import WRONG, CheckCommand, Finding
from cluster.connect import token
from cluster.show import duration, size
from trainers.engine.errors import CONFLICT, SURROUNDINGS, WORDS, TroupeError, did_you_mean
from trainers.engine.runfolder import check_name
from trainers.version import __version__

PACKAGES = (cluster, trainers, searchspaces)
LEFT_OUT = ("__pycache__", "*.pyc")
PATIENCE = 2.0  # seconds for the dashboard to answer
LOOK = 1.0  # seconds between looks at a job
AT_START = 30.0  # seconds for a cluster that has just begun
TO_LOOK = 90.0  # seconds for a check, with what the cluster may have to install for it
SAVING = 1800  # seconds that a job has to save after a stop; Ray alone gives 3
LARGE = 512 << 20  # bytes that Ray takes of one folder
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
ADDRESS = "RAY_API_SERVER_ADDRESS"  # Ray's own variable for the dashboard's address
NO_ADDRESS = f"--address: say where the cluster's dashboard is, --address http://HEAD:8265 (or {ADDRESS})"


@dataclass(frozen=True)
class SubmitCommand:
    """A `submit` command as it was given: `words` are those of the verb inside, without its name and address."""

    address: str
    verb: str
    family: str | None
    words: tuple[str, ...]
    name: str | None
    resume: str | None
    families: tuple[Path, ...]
    config: Path | None
    runs_dir: str | None
    to_check: tuple[str, ...] = ()  # family, settings and folder of data, as `troupe check` takes them
    install: bool = False
    unchecked: bool = False


def submit(command: SubmitCommand, say: Callable[[str], None]) -> dict[str, Any]:
    """Send a job, and return its name. Raises TroupeError: exit code 2 for wrong words, 3 where the cluster cannot be
    reached or takes no job, 4 where the name is in use."""
    mistakes = []
    if command.runs_dir is None:
        mistakes.append("--runs-dir: say where the runs lie, a folder that all nodes of the cluster see")
    elif not os.path.isabs(command.runs_dir):
        mistakes.append(f"--runs-dir {command.runs_dir}: must be a whole path, as the cluster sees it")
    name = command.resume or command.name or f"{command.family}-{time.strftime('%Y%m%d-%H%M%S')}"
    if mistake := check_name(name):
        mistakes.append(mistake)
    if mistakes:
        raise TroupeError(mistakes, WORDS)
    client = reach(command.address)
    before = [job for job in all_jobs(client) if job["name"] == name]
    if command.resume is None and before:
        raise TroupeError(f"--name {name}: a job has this name; go on with `submit {command.verb} --resume {name}`, or "
                          "take another name", CONFLICT)  # fmt: skip
    if running := [job for job in before if job["state"] not in ENDED]:
        raise TroupeError(f"{name}: job {running[0]['job']} works on it; wait for it, or stop it first", CONFLICT)
    with tempfile.TemporaryDirectory() as folder:
        sent, inside = _gathered(command, Path(folder))
        say(f"sending {size(sent)} to {command.address}")
        known = [] if command.resume else ["--name", name]
        line = ["python", "-m", "cluster.cli", command.verb, *command.words, *known, *inside, "--address", "auto"]
        environment = _environment(Path(folder))
        if command.install:
            environment["pip"] = requirements()
        if not command.unchecked:
            say("looking whether the cluster has what it needs")
            words = [*command.to_check, "--runs-dir", str(command.runs_dir), *_families(inside)]
            if wrong := [one for one in look(client, environment, words) if one["state"] == WRONG]:
                lines = [f"{one['what']}: {one['told']}" for one in wrong]
                raise TroupeError([*lines, "nothing was submitted (--unchecked does not look)"], SURROUNDINGS)
        job = _sent(client, {
            "entrypoint": shlex.join(line), "submission_id": name if not before else f"{name}.{len(before) + 1}",
            "runtime_env": environment, "metadata": {"troupe": __version__, "run": name, "verb": command.verb},
        })  # fmt: skip
    return {"name": name, "job": job, "address": command.address, "bytes": sent}


def look(client: Any, environment: Mapping[str, Any], words: Sequence[str]) -> list[dict[str, Any]]:
    """What `troupe check` finds on the cluster, as a job that is forgotten afterwards."""
    line = ["python", "-m", "cluster.cli", "check", *words, "--address", "auto", "--json"]
    job = _sent(client, {"entrypoint": shlex.join(line), "submission_id": f"check-{uuid.uuid4().hex[:12]}",
                         "runtime_env": dict(environment)})  # fmt: skip
    until = time.monotonic() + TO_LOOK
    while (state := client.get_job_status(job).value) not in ENDED and time.monotonic() < until:
        time.sleep(LOOK / 4)
    printed = str(client.get_job_logs(job))
    details = client.get_job_info(job)
    with contextlib.suppress(Exception):
        client.stop_job(job) if state not in ENDED else client.delete_job(job)
    start = re.search(r"^\[$", printed, re.MULTILINE)
    if start is not None:
        with contextlib.suppress(ValueError):
            found: list[dict[str, Any]] = json.JSONDecoder().raw_decode(printed[start.start() :])[0]
            return found
    lines = [line for line in (printed.strip() or details.message or "").splitlines() if line.strip()]
    told = lines[-1] if lines else f"still {state.lower()} after {TO_LOOK:.0f} s"
    if "ModuleNotFoundError" in told:
        told += "; --install adds what is missing there"
    return [{"what": "cluster", "state": WRONG, "told": f"cannot carry out troupe ({told})"}]


def check(address: str, command: CheckCommand, words: Sequence[str]) -> list[Finding]:
    """`troupe check` through a dashboard: of the cluster behind it, with these packages."""
    try:
        client = reach(address)
    except TroupeError as error:
        if error.code == WORDS:
            raise
        return [Finding("cluster", WRONG, line) for line in error.mistakes]
    with tempfile.TemporaryDirectory() as folder:
        sending = SubmitCommand(address, "check", None, (), None, None, command.families, None, None)
        _, inside = _gathered(sending, Path(folder))
        return [Finding(**one) for one in look(client, _environment(Path(folder)), [*words, *inside])]


def _environment(folder: Path) -> dict[str, Any]:
    """What a job runs with, from what was gathered in a folder."""
    return {
        "py_modules": [str(folder / package.__name__) for package in PACKAGES], "working_dir": str(folder / "with"),
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(SAVING)},
    }  # fmt: skip


def _families(inside: Sequence[str]) -> list[str]:
    """Of the words that name what was sent, those that name families."""
    pairs = zip(inside[::2], inside[1::2], strict=True)
    return [word for name, value in pairs if name == "--families" for word in (name, value)]


def _sent(client: Any, job: Mapping[str, Any]) -> str:
    """Send it; a cluster that has just begun takes a moment until it can take jobs."""
    until = time.monotonic() + AT_START
    while True:
        try:
            return str(client.submit_job(**job))
        except Exception as error:
            if "try again later" not in str(error) or time.monotonic() > until:
                raise TroupeError(
                    f"{job['submission_id']}: the cluster takes no such job ({_first_line(error)})", SURROUNDINGS
                ) from error
        time.sleep(LOOK)


def text(sent: Mapping[str, Any]) -> str:
    """A job that was sent, and how it is followed."""
    at = f"--address {sent['address']}"
    return "\n".join([
        f"{sent['name']}: submitted; it goes on when this machine is switched off",
        f"  follow   troupe logs {sent['name']} --follow {at}",
        f"  state    troupe jobs {at}",
        f"  stop     troupe stop {sent['name']} {at}",
    ])  # fmt: skip


def reach(address: str) -> Any:
    """A client of the jobs behind a dashboard. Raises TroupeError (exit code 3), soon, where it lets us not in."""
    if not address.startswith(("http://", "https://")):
        advice = f"say http://{address}" if "://" not in address and ":" in address else "say http://HEAD:8265"
        raise TroupeError(f"--address {address}: jobs go through the dashboard; {advice}", WORDS)
    mine = token()
    headers = {"Authorization": f"Bearer {mine}"} if mine else {}
    mistake = ""
    try:
        asked = urllib.request.Request(f"{address.rstrip('/')}/api/version", headers=headers)
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            there = str(json.load(answer)["ray_version"])
    except urllib.error.HTTPError as error:
        holder = "RAY_AUTH_TOKEN or ~/.ray/auth_token"
        mistake = {
            401: f"wants a token; put the one that it began with into {holder}",
            403: f"wants another token than {holder} holds; give it the one it began with",
        }.get(error.code, f"is no dashboard of Ray (it answers {error.code})")
    except (OSError, ValueError):
        mistake = "no dashboard of Ray answers there; `ray start --head` prints its address"
    except (KeyError, TypeError):
        mistake = "is no dashboard of Ray"
    if mistake:
        raise TroupeError(f"--address {address}: {mistake}", SURROUNDINGS)
    import ray
    from ray.job_submission import JobSubmissionClient

    if there != ray.__version__:
        raise TroupeError(
            f"--address {address}: runs Ray {there}, this machine has {ray.__version__}; install the same", SURROUNDINGS
        )
    for talker in ("dashboard_sdk", "job.sdk"):  # they tell of each upload, and set their levels themselves
        logging.getLogger(f"ray.dashboard.modules.{talker}").setLevel(logging.ERROR)
    return JobSubmissionClient(address, headers=headers)


def all_jobs(client: Any) -> list[dict[str, Any]]:
    """Every job that troupe has sent, oldest first."""
    jobs = []
    for details in client.list_jobs():
        told = details.metadata or {}
        if "run" not in told or "troupe" not in told:
            continue
        began, ended = (stamp / 1000 if stamp else None for stamp in (details.start_time, details.end_time))
        jobs.append({
            "name": told["run"], "job": details.submission_id, "verb": told.get("verb", "train"),
            "state": details.status.value, "began": began, "ended": ended, "message": (details.message or "").strip(),
            "code": details.driver_exit_code, "error": details.error_type and str(details.error_type),
        })  # fmt: skip
    return sorted(jobs, key=lambda job: job["began"] or 0.0)


def rows(jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Jobs for people: the newest last."""
    shown = []
    for job in jobs:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job["began"])) if job["began"] else "-"
        took = duration((job["ended"] or time.time()) - job["began"]) if job["began"] else "-"
        why = job["message"].splitlines()[0] if job["message"] and job["state"] in ("PENDING", "FAILED") else ""
        code = "" if job["code"] is None else str(job["code"])
        shown.append({"name": job["name"], "job": job["job"], "verb": job["verb"], "state": job["state"].lower(),
                      "since": began, "time": took, "exit code": code, "": why})  # fmt: skip
    return shown


def newest(client: Any, name: str) -> dict[str, Any]:
    """The newest job of this name. Raises TroupeError (exit code 2) where there is none."""
    jobs = all_jobs(client)
    found = [job for job in jobs if name in (job["name"], job["job"])]
    if not found:
        known = [job["name"] for job in jobs]
        raise TroupeError(f"{name}: no such job{did_you_mean(name, known)}; `troupe jobs` lists them", WORDS)
    return found[-1]


def stop(client: Any, name: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Let a job save and end, and wait until it has. Raises TroupeError (exit code 4) where it has ended."""
    job = newest(client, name)
    if job["state"] in ENDED:
        raise TroupeError(f"{name}: has ended before ({job['state'].lower()}); `troupe jobs` shows all", CONFLICT)
    client.stop_job(job["job"])
    begun = told = time.monotonic()
    while (now := newest(client, job["job"]))["state"] not in ENDED:
        if time.monotonic() > told:
            told = time.monotonic() + 5
            say(f"{name}: saving, since {duration(time.monotonic() - begun)}")
        time.sleep(LOOK / 4)
    return {**now, "resume": f"troupe submit {job['verb']} --resume {job['name']}"}


def logs(client: Any, name: str, follow: bool) -> Iterator[str]:
    """What a job prints, piece by piece; with `follow`, until it has ended."""
    job, seen = newest(client, name), 0
    while True:
        ended = newest(client, job["job"])["state"] in ENDED
        printed = client.get_job_logs(job["job"])
        yield printed[seen:]
        seen = len(printed)
        if ended or not follow:
            return
        time.sleep(LOOK)


def code_of(job: Mapping[str, Any]) -> int:
    """The exit code of a job that has ended: its process's own, where it had one."""
    if job["code"] is not None and job["code"] >= 0:
        return int(job["code"])
    return {"SUCCEEDED": 0, "STOPPED": 130}.get(job["state"], 1)


def why(job: Mapping[str, Any]) -> str:
    """How a job ended, in a line."""
    told = f": {job['message'].splitlines()[-1]}" if job["message"] and job["state"] == "FAILED" else ""
    return f"{job['name']}: {job['state'].lower()}{told}"


def requirements() -> list[str]:
    """What the packages need, in the versions that are here, for a cluster whose nodes lack some of it."""
    from importlib import metadata

    needed = [
        re.split(r"[^A-Za-z0-9._-]", line)[0] for line in metadata.requires("troupe") or () if "extra" not in line
    ]
    return [f"{name}=={metadata.version(name)}" for name in needed if name != "ray"]  # Ray itself is the cluster's


def _gathered(command: SubmitCommand, folder: Path) -> tuple[int, list[str]]:
    """Copies of what is sent, in `folder`: its bytes, and the words that name it on the other side."""
    inside: list[str] = []
    beside = folder / "with"
    beside.mkdir()
    for package in PACKAGES:
        _copy(Path(str(package.__file__)).parent, folder / package.__name__)
    for number, path in enumerate(command.families):
        _copy(path, beside / f"families_{number}")
        inside += ["--families", f"families_{number}"]
    if command.config is not None:
        try:
            shutil.copyfile(command.config, beside / "config.yaml")
        except OSError as error:
            raise TroupeError(f"--config {command.config}: cannot be read ({error.strerror})", WORDS) from error
        inside += ["--config", "config.yaml"]
    parts = {path: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in folder.iterdir()}
    for path, count in parts.items():
        if count > LARGE:
            files = sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: -file.stat().st_size)
            largest = ", ".join(f"{file.relative_to(path)} ({size(file.stat().st_size)})" for file in files[:3])
            raise TroupeError(
                f"{path.name}: {size(count)} are too much to send, {size(LARGE)} are the most; largest are {largest}",
                WORDS,
            )
    return sum(parts.values()), inside


def _copy(source: Path, target: Path) -> None:
    with contextlib.suppress(FileExistsError):
        try:
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
        except (OSError, shutil.Error) as error:
            raise TroupeError(f"{source}: cannot be read ({_first_line(error)})", WORDS) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
