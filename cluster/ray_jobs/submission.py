"""Jobs on a Ray cluster: submits `troupe train` and `troupe search` through the dashboard.

It sends the three packages and the files in the arguments (families, a config), never runs or data. All other state is
on the cluster: which jobs exist, their output, how they ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.host.import_path import ROOT
from cluster.inspection.preflight import WRONG, Finding, wrong
from cluster.ray_jobs.dashboard import ENDED, Dashboard, dashboard_address, first_line, reach
from cluster.ray_jobs.prepare_job import to_check
from cluster.requests.models import CheckRequest, SearchRequest, SubmitRequest, TrainRequest
from cluster.terminal.answers import JOB
from cluster.terminal.progress import duration, size
from trainers.base import old_names
from trainers.base.errors import CONFLICT, ENVIRONMENT, USAGE, TroupeError
from trainers.base.paths import expanded
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS
from trainers.base.version import __version__
from trainers.run_folders.bucket import is_address
from trainers.run_folders.run_folder import check_run_name

PACKAGES = ("cluster", "trainers", "searchspaces")
LEFT_OUT = ("__pycache__", "*.pyc", "*.egg-info")
SENT_AS = {"config": "config.yaml", "space": "space.py"}  # files of options
RUNS = ("settings.json", "search.json")  # files that identify a run, or a search
CHECK_PATIENCE, INSTALL_PATIENCE = 90.0, 1800.0  # seconds for a check, and if the cluster first installs packages
LARGE = 512 << 20  # the most bytes that Ray accepts for one folder


def submit_job(request: SubmitRequest, family: str, notify: Callable[[str], None]) -> dict[str, Any]:
    """Submit a job, and return its name. Raises TroupeError: exit code 2 for invalid arguments, 3 if the cluster cannot
    be reached or rejects the job, 4 if the name is in use."""
    inner, address = request.inner, dashboard_address(request.address)
    assert inner is not None
    name = _name_of_job(inner, family)
    client = reach(address)
    before = [job for job in client.jobs() if job["name"] == name]
    _refuse_conflicts(inner, name, before)
    with tempfile.TemporaryDirectory() as folder:
        space = inner.space if isinstance(inner, SearchRequest) and inner.space != "none" else None
        local = inner.with_local_paths()
        files = {"config": local.config, "space": None if space is None else expanded(space)}
        sent, inside = _gathered(local.families, files, Path(folder))
        notify(f"sending {size(sent)} to {address}")
        name_option = [] if inner.resume else ["--name", name]
        replaced = ("name", "families", "config", "address", *([] if space is None else ["space"]))
        arguments = inner.arguments(*replaced)
        line = ["python", "-m", "cluster.cli", inner.verb, *arguments, *name_option, *inside, "--address", "auto"]
        environment = _environment(Path(folder))
        if request.install:
            environment["pip"] = requirements()
        if not request.skip_checks:
            notify("checking that the cluster has what it needs")
            arguments = (*to_check(inner), "--runs-dir", inner.runs_dir, *_families(inside))
            if problems := [
                one.problem for one in check_on_cluster(client, environment, arguments, notify) if one.state == WRONG
            ]:
                reason = "nothing was submitted (--skip-checks skips the check)"
                raise TroupeError([*problems, Problem("not-submitted", reason=reason)], ENVIRONMENT)
        environment["env_vars"][JOB] = "1"
        job = _sent(
            client,
            {
                "entrypoint": shlex.join(line),
                "submission_id": _numbered(name, before),
                "runtime_env": environment,
                "metadata": {"troupe": __version__, "run": name, "verb": inner.verb},
            },
        )
    return {"name": name, "job": job, "address": address, "bytes": sent}


def _name_of_job(inner: TrainRequest | SearchRequest, family: str) -> str:
    """The name of the run, which is also that of the job. Raises TroupeError (exit code 2) if it or the folder of the
    runs is wrong."""
    problems = []
    if "runs_dir" not in inner.model_fields_set:
        reason = "specify the folder of the runs, shared by all nodes of the cluster, or a bucket"
        problems.append(Problem("missing", "--runs-dir", reason))
    elif not os.path.isabs(inner.runs_dir) and not is_address(inner.runs_dir):
        reason = "must be an absolute path on the cluster"
        problems.append(Problem("bad-value", "--runs-dir", reason, value=inner.runs_dir))
    name = inner.resume or inner.name or f"{family}-{time.strftime('%Y%m%d-%H%M%S')}"
    if problem := check_run_name(name):
        problems.append(problem)
    if problems:
        raise TroupeError(problems, USAGE)
    return name


def _refuse_conflicts(inner: TrainRequest | SearchRequest, name: str, before: Sequence[Mapping[str, Any]]) -> None:
    """Raise TroupeError (exit code 4) if another job has the name, or is running the run to resume."""
    if inner.resume is None and any(job["state"] != "FAILED" for job in before):
        hint = f"resume with `submit {inner.verb} --resume {name}`, or use another name"
        raise TroupeError(Problem("name-in-use", "--name", "a job has this name", hint, name), CONFLICT)
    if running := [job for job in before if job["state"] not in ENDED]:
        reason = f"job {running[0]['job']} is running it"
        raise TroupeError(Problem("held", name, reason, "wait for it, or stop it first"), CONFLICT)


def _numbered(name: str, before: Sequence[Mapping[str, Any]]) -> str:
    """The id of the next job of this name: `name`, `name~2`, ...; names of runs have no `~`."""
    used = [int(job["job"].rpartition("~")[2]) if "~" in job["job"] else 1 for job in before]
    return f"{name}~{max(used) + 1}" if used else name


def check_on_cluster(
    client: Dashboard, environment: Mapping[str, Any], arguments: Sequence[str], notify: Callable[[str], None]
) -> list[Finding]:
    """The findings of `troupe check` on the cluster, from a job that is deleted afterwards."""
    patience = INSTALL_PATIENCE if "pip" in environment else CHECK_PATIENCE
    line = ["python", "-m", "cluster.cli", "check", *arguments, "--address", "auto", "--json"]
    job = _sent(
        client,
        {
            "entrypoint": shlex.join(line),
            "submission_id": f"check-{uuid.uuid4().hex[:12]}",
            "runtime_env": dict(environment),
        },
    )
    started = notified_at = time.monotonic()
    state = "PENDING"
    try:
        while (
            state := client.call("get_job_status", job).value
        ) not in ENDED and time.monotonic() < started + patience:
            if time.monotonic() > notified_at + 10:
                notified_at = time.monotonic()
                notify(f"checking, for {duration(notified_at - started)}")
            time.sleep(WAITS.poll_job / 4)
        printed = str(client.call("get_job_logs", job))
        details = client.call("get_job_info", job)
    finally:
        with contextlib.suppress(TroupeError):
            client.call("delete_job" if state in ENDED else "stop_job", job)
    if (answer := _answer_in(printed)) is not None:
        if answer["result"]:
            return [
                Finding(**{old_names.FIELDS.get(name, name): value for name, value in one.items()})
                for one in answer["result"]["findings"]  # of the cluster's troupe, which can be older
            ]
        return [Finding("cluster", WRONG, one["text"], one["code"]) for one in answer["errors"]]
    lines = [line for line in (printed.strip() or details.message or "").splitlines() if line.strip()]
    message, code = lines[-1] if lines else f"still {state.lower()} after {patience:.0f} s", "job-failed"
    if "ModuleNotFoundError" in message:  # from Python
        message, code = f"{message}; --install adds missing packages", "not-installed"
    return [wrong("cluster", Problem(code, reason=f"cannot run troupe ({message})"))]


def _answer_in(printed: str) -> dict[str, Any] | None:
    """The object of `--json` in the output of a job."""
    for start in re.finditer(r"^\{$", printed, re.MULTILINE):
        with contextlib.suppress(ValueError):
            answer: dict[str, Any] = json.JSONDecoder().raw_decode(printed[start.start() :])[0]
            if answer.keys() >= {"result", "errors"}:
                return answer
    return None


def check_through_dashboard(request: CheckRequest, notify: Callable[[str], None]) -> list[Finding]:
    """`troupe check` of a cluster through its dashboard, with these packages."""
    try:
        client = reach(str(request.address))
    except TroupeError as error:
        if error.code == USAGE:
            raise
        return [wrong("cluster", problem) for problem in error.problems]
    with tempfile.TemporaryDirectory() as folder:
        _, inside = _gathered(request.families, {}, Path(folder))
        return check_on_cluster(
            client, _environment(Path(folder)), [*request.arguments("address", "families"), *inside], notify
        )


def _environment(folder: Path) -> dict[str, Any]:
    """The runtime environment of a job, from the files gathered in a folder."""
    return {
        "py_modules": [str(folder / package) for package in PACKAGES],
        "working_dir": str(folder / "with"),
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(WAITS.job_saves)},
    }


def _families(inside: Sequence[str]) -> list[str]:
    """The arguments for families, among those for the files that were sent."""
    pairs = zip(inside[::2], inside[1::2], strict=True)
    return [word for name, value in pairs if name == "--families" for word in (name, value)]


def _sent(client: Dashboard, job: Mapping[str, Any]) -> str:
    """Submit a job, with retries: a cluster that has just started does not accept jobs yet."""
    until = time.monotonic() + WAITS.cluster_start
    while True:
        try:
            return str(client.client.submit_job(**job))
        except Exception as error:
            if "try again later" not in str(error) or time.monotonic() > until:
                reason = f"the cluster rejected the job ({first_line(error)})"
                raise TroupeError(Problem("job-refused", job["submission_id"], reason), ENVIRONMENT) from error
        time.sleep(WAITS.poll_job)


def text_of_job(sent: Mapping[str, Any]) -> str:
    """A submitted job, and the commands to follow it."""
    at = f"--address {sent['address']}"
    return "\n".join(
        [
            f"{sent['name']}: submitted; it continues when this machine is switched off",
            f"  follow   troupe logs {sent['name']} --follow {at}",
            f"  state    troupe jobs {at}",
            f"  stop     troupe stop {sent['name']} {at}",
        ]
    )


def requirements() -> list[str]:
    """Dependencies of the packages, in the versions of this machine, for a cluster whose nodes lack some."""
    from importlib import metadata

    needed = [
        re.split(r"[^A-Za-z0-9._-]", line)[0] for line in metadata.requires("troupe") or () if "extra" not in line
    ]
    # The cluster has its own Ray, and local builds of torch (+cpu) are not on the package index
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in needed if name != "ray"]


def _gathered(families: Sequence[Path], files: Mapping[str, Path | None], folder: Path) -> tuple[int, list[str]]:
    """Copy all that is sent to `folder`: its bytes, and the arguments that name it on the cluster. `files` are by
    option."""
    inside: list[str] = []
    beside = folder / "with"
    beside.mkdir()
    for package in PACKAGES:
        _copy(Path(ROOT) / package, folder / package)
    for number, path in enumerate(families):
        _copy(path, beside / f"families_{number}")
        inside += ["--families", f"families_{number}"]
    for option, file in files.items():
        if file is not None:
            name = SENT_AS[option]
            try:
                shutil.copyfile(file, beside / name)
            except OSError as error:
                reason = f"cannot be read ({error.strerror})"
                raise TroupeError(Problem("not-read", f"--{option}", reason, value=str(file)), USAGE) from error
            inside += [f"--{option}", name]
    parts = {path: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in folder.iterdir()}
    for path, count in parts.items():
        if count > LARGE:
            inside_it = sorted((one for one in path.rglob("*") if one.is_file()), key=lambda one: -one.stat().st_size)
            largest = ", ".join(f"{one.relative_to(path)} ({size(one.stat().st_size)})" for one in inside_it[:3])
            reason = f"{size(count)} are too much to send, the limit is {size(LARGE)}"
            raise TroupeError(Problem("too-large", path.name, reason, f"largest: {largest}"), USAGE)
    return sum(parts.values()), inside


def _copy(source: Path, target: Path) -> None:
    """Copy a folder without hidden and compiled files, and without runs. Raises TroupeError (exit code 2)."""

    def excluded(folder: str, names: list[str]) -> set[str]:
        runs = {name for name in names if any((Path(folder) / name / file).exists() for file in RUNS)}
        return runs | {name for name in names if name.startswith(".")} | set(compiled(folder, names))

    compiled = shutil.ignore_patterns(*LEFT_OUT)
    try:
        shutil.copytree(source, target, ignore=excluded)
    except shutil.Error as error:
        path, _, reason = error.args[0][0]
        raise TroupeError(Problem("not-read", str(path), f"cannot be read ({reason})"), USAGE) from error
    except OSError as error:
        raise TroupeError(Problem("not-read", str(source), f"cannot be read ({first_line(error)})"), USAGE) from error
