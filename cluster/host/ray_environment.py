"""How Ray reacts to its environment, and which of these effects a local Ray does not get.

Environment variables, `uv run` and the current folder change Ray's workers: it sends working folders, joins other
stores, loads hooks, sets other resources, waits for debuggers, and lets workers import modules from the folder of a
script and from the current folder. Such variables are meant for another Ray. A cluster at an address is that other Ray:
there we only control the modules of our workers.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from cluster.host.import_path import folders, without_folder

# Variables in capitals switch on features of Ray's Python code; others (`RAY_worker_...`) are parameters of its core.
# KEPT are those for the location of its files, and for its log level.
SWITCH = re.compile(r"RAY_[A-Z0-9_]+|RAYLET_[A-Z0-9_]+")
KEPT = ("RAY_TMPDIR", "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE", "RAY_BACKEND_LOG_LEVEL")
PROXIES = "RAY_grpc_enable_http_proxy"
OFF = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on loopback only
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers without GPUs keep the variables of this process
    PROXIES: "0",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")  # no proxy leads there


def variables() -> dict[str, str | None]:
    """Changes to the environment for a local Ray; None for variables that are unset there."""
    switches = {name: None for name in os.environ if SWITCH.fullmatch(name) and name not in KEPT}
    return {**switches, **OFF, **without_proxies(), **search_path()}


def channel() -> list[tuple[str, int]]:
    """gRPC options as Ray sets them for a cluster: no proxy, unless Ray's own variable enables it."""
    proxied = os.environ.get(PROXIES, "")
    return [("grpc.enable_http_proxy", int(proxied.lower() in ("1", "true")))]


def proxies(address: str) -> dict[str, str]:
    """The proxies for a dashboard, from `requests`, which Ray uses: it supports ALL_PROXY and ranges of addresses in
    no_proxy, unlike Python's standard library."""
    from requests.utils import get_environ_proxies, select_proxy

    scheme = address.partition("://")[0]
    chosen = select_proxy(address, get_environ_proxies(address))
    return {scheme: str(chosen)} if chosen else {}


def without_proxies() -> dict[str, str]:
    """Variables that exclude addresses of this machine from proxies; other addresses still use them."""
    excluded = next((value for name in ("no_proxy", "NO_PROXY") if (value := os.environ.get(name))), "")
    names = ",".join(dict.fromkeys([*(part.strip() for part in excluded.split(",") if part.strip()), *LOOPBACK]))
    return {"no_proxy": names, "NO_PROXY": names}


def search_path() -> dict[str, str]:
    """Variables with which child processes find our modules, and none in the current folder; and with which no warning
    ends them."""
    parts = [part for part in without_folder(os.environ.get("PYTHONPATH", "")).split(os.pathsep) if part]
    return {
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([*folders(), *parts])),
        "PYTHONWARNINGS": ",".join(_without_errors(os.environ.get("PYTHONWARNINGS", "").split(","))),
    }


def _without_errors(options: Iterable[str]) -> list[str]:
    """Those of Python's options for warnings that do not turn them into errors."""
    actions = [(option, option.partition(":")[0].strip().lower()) for option in options]
    return [option for option, action in actions if not (action and "error".startswith(action))]


@contextlib.contextmanager
def no_error_on_warnings() -> Iterator[None]:
    """Inside, no warning is an error, here and in processes that get this one's options: libraries warn each other's
    users."""
    before = sys.warnoptions[:]
    with warnings.catch_warnings():
        warnings.filters[:] = [one for one in warnings.filters if one[0] != "error"]  # type: ignore[index]
        sys.warnoptions[:] = _without_errors(before)
        try:
            yield
        finally:
            sys.warnoptions[:] = before


def job() -> Any:
    """Ray's job config: workers find our modules, and none in the current folder or that of a script."""
    from ray.job_config import JobConfig

    class Job(JobConfig):
        def _serialize(self) -> str:
            self._py_driver_sys_path = folders()  # Ray adds the current folder and that of the script
            return super()._serialize()

    return Job()


@contextlib.contextmanager
def uv_unseen() -> Iterator[None]:
    """Inside, Ray does not check whether `uv run` started this process: it reads the variable for that on import, which
    our caller may have done."""
    constants, name = sys.modules["ray._private.ray_constants"], "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
    before = getattr(constants, name, False)
    setattr(constants, name, False)
    try:
        yield
    finally:
        setattr(constants, name, before)
