"""Check a command that runs on the machines of a cluster, before it is submitted."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.requests.models import SearchRequest, TrainRequest
from cluster.searching import prepare_search
from cluster.training import prepare_run
from cluster.training.given_settings import with_recipe
from trainers.base.errors import USAGE, TroupeError
from trainers.base.problems import Problem, show_value
from trainers.settings.config import parts_of

Inner = TrainRequest | SearchRequest


def prepare_job(inner: Inner, runs: Path) -> str:
    """The family of a command that runs on other machines. Raises TroupeError with the problems of the command."""
    problems = [
        Problem("bad-value", about, "must be an absolute path on the cluster", value=value)
        for about, value, path in _paths(inner)
        if not os.path.isabs(path)
    ]
    local = {name: value for name, value in inner.settings.items() if not _is_path(name, value)}
    changes = {"settings": local, "name": None, "address": "auto", "runs_remotely": True, "runs": runs}
    family = ""
    try:
        if isinstance(inner, TrainRequest):
            family = prepare_run.prepare_run(inner.with_local_paths().replaced(**changes, init_from=None)).family
        else:
            family = str(prepare_search.prepare_search(inner.with_local_paths().replaced(**changes)).terms["family"])
    except TroupeError as error:
        problems += [one for one in error.problems if one not in problems]
    if problems:
        raise TroupeError(problems, USAGE)
    return family


def _paths(inner: Inner) -> list[tuple[str, str, str]]:
    """Settings and options that name folders on the cluster, their values, and the paths in these."""
    _, settings = with_recipe(inner)
    parts = parts_of(str(settings.get("data", "digits")))
    paths = [("data", part, part.partition(":")[2]) for part in parts if ":" in part]
    for name, value in settings.items():
        if _is_path(name, value):
            paths.append((name, str(value), str(value).rpartition(":")[2]))
    if "data_dir" in inner.model_fields_set:
        paths.append(("--data-dir", str(inner.data_dir), str(inner.data_dir)))
    return paths


def _is_path(name: str, value: object) -> bool:
    """Whether a setting other than the data names a file, such as that of a judge: it is on the cluster."""
    return name != "data" and "/" in str(value)


def to_check(inner: Inner) -> tuple[str, ...]:
    """The arguments of `troupe check` for a command that runs on a cluster."""
    data = ("--data-dir", str(inner.data_dir)) if "data_dir" in inner.model_fields_set else ()
    family, settings = with_recipe(inner)
    if isinstance(inner, SearchRequest) or family is None or inner.config is not None:
        return data  # the arguments of a search are not settings
    return (family, *(f"{key}={show_value(value)}" for key, value in settings.items()), *data)
