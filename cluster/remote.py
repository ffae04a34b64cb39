"""The verbs that speak to a cluster's dashboard: submit and jobs, and stop and logs of jobs."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from cluster import typed
from cluster.columns import table
from cluster.show import Progress, tell
from cluster.typed import Answer
from cluster.words import Words
from trainers.engine.errors import STOPPED, TroupeError


def followed(address: str, name: str, to_the_end: bool, json_too: bool = False) -> Answer | None:
    """What a job prints; where it is followed to its end, its exit code is the command's."""
    from cluster import dashboard, follow

    client = dashboard.reach(address)
    number = client.job(name)["job"]
    follow.show(client.logs(number, to_the_end, Progress(sys.stderr).say), sys.stderr if json_too else sys.stdout)
    if not to_the_end:
        return None
    job = client.job(number)
    if job["state"] not in dashboard.ENDED:
        raise TroupeError(f"{name}: goes on; nobody looks at it now", STOPPED)
    return job, dashboard.why(job), dashboard.code_of(job)


def submit(said: Words) -> Answer | None:
    from cluster import dashboard
    from cluster import jobs as sending

    inner, family = said.inner, ""
    address = said.options.get("address") or os.environ.get(dashboard.ADDRESS, "")
    if not address:
        said.mistakes.append(dashboard.NO_ADDRESS)
    if inner is not None and inner.has("resume"):
        said.mistakes += (
            ["--name: a job that goes on with a run has its name; leave it out"] if inner.has("name") else []
        )
    elif inner is not None:  # what is wrong with it is told here
        with tempfile.TemporaryDirectory() as nowhere:
            family = typed.add_mistakes(said, lambda: typed.prepare_elsewhere(inner, Path(nowhere))) or ""
            said.mistakes += [line for line in inner.mistakes if line not in said.mistakes]
    if said.mistakes or inner is None:
        return None
    own_space = inner.options.get("space", "none") != "none"
    sent = sending.submit(
        sending.SubmitCommand(
            address, inner.verb, family, inner.again("name", "families", "config", *(["space"] if own_space else [])),
            inner.options.get("name"), inner.options.get("resume"), inner.families,
            inner.path("config", "") if inner.has("config") else None,
            inner.path("space", "") if own_space else None, inner.options.get("runs-dir"),
            typed.to_check(inner), said.has("install"), said.has("unchecked"),
        ), Progress(sys.stderr).say,
    )  # fmt: skip
    if said.has("follow"):
        tell(sending.text(sent), sys.stderr)
        return followed(sent["address"], sent["job"], True, said.has("json"))
    return sent, sending.text(sent), 0


def jobs(said: Words) -> Answer | None:
    from cluster import dashboard

    address = said.options.get("address") or os.environ.get(dashboard.ADDRESS, "")
    if not address:
        said.mistakes.append(dashboard.NO_ADDRESS)
    if said.mistakes:
        return None
    found = dashboard.reach(address).jobs()
    return (
        found,
        table(dashboard.rows(found), "no jobs; `troupe submit train dcgan data=digits --address ...` sends one"),
        0,
    )
