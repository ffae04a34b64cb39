"""What Ray makes of its surroundings by itself, and what of that a Ray of ours is spared.

By variables, by `uv run` and by the folder of now Ray changes what its workers are: it sends working folders, joins
other stores, loads hooks, gives other resources, waits for debuggers, and lets workers find modules in the folder of a
script and in that of now. Whoever sets such up has some other Ray in mind. A cluster at an address is that other Ray:
only its workers' modules are ours.
"""

from __future__ import annotations

import contextlib
import os
import re
import site
import sys
from collections.abc import Iterator
from typing import Any

from cluster.host.import_path import ROOT, without_folder

# Variables with names in capitals are for Ray's parts in Python and switch something on; others (`RAY_worker_...`) are
# figures of its core. These are where it may put files, and how much it writes.
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
    """The environment of a Ray of ours, as far as it differs; None for what is not set there."""
    switches = {name: None for name in os.environ if SWITCH.fullmatch(name) and name not in KEPT}
    return {**switches, **OFF, **without_proxies(), **search_path()}


def channel() -> list[tuple[str, int]]:
    """How Ray speaks to a cluster: through no proxy, whatever others do, unless its own variable asks for one."""
    said = os.environ.get(PROXIES, "")
    return [("grpc.enable_http_proxy", int(said.lower() in ("1", "true")))]


def proxies(address: str) -> dict[str, str]:
    """The proxies for a dashboard, as the library says through which Ray speaks to it: it knows ALL_PROXY and ranges of
    addresses in no_proxy, unlike Python's own."""
    from requests.utils import get_environ_proxies, select_proxy

    scheme = address.partition("://")[0]
    found = select_proxy(address, get_environ_proxies(address))
    return {scheme: str(found)} if found else {}


def without_proxies() -> dict[str, str]:
    """What lets nothing on this machine be reached through a proxy; others still are."""
    said = next((value for name in ("no_proxy", "NO_PROXY") if (value := os.environ.get(name))), "")
    names = ",".join(dict.fromkeys([*(part.strip() for part in said.split(",") if part.strip()), *LOOPBACK]))
    return {"no_proxy": names, "NO_PROXY": names}


def search_path() -> dict[str, str]:
    """What lets a process that is started find our modules, and none in the folder of now."""
    said = [part for part in without_folder(os.environ.get("PYTHONPATH", "")).split(os.pathsep) if part]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(dict.fromkeys([*folders(), *said]))}


def folders() -> list[str]:
    """Where Python must be told to look for our modules: nowhere, where they are installed among others."""
    return [] if ROOT in (*site.getsitepackages(), site.getusersitepackages()) else [ROOT]


def job() -> Any:
    """Ray's description of what we do on it: workers find our modules, and none in the folder of now or of a script."""
    from ray.job_config import JobConfig

    class Job(JobConfig):
        def _serialize(self) -> str:
            self._py_driver_sys_path = folders()  # Ray has put both there
            return super()._serialize()

    return Job()


@contextlib.contextmanager
def uv_unseen() -> Iterator[None]:
    """Inside, Ray does not look whether `uv run` has started this process: it has read whether to when it was
    imported, perhaps by our caller."""
    constants, name = sys.modules["ray._private.ray_constants"], "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
    before = getattr(constants, name, False)
    setattr(constants, name, False)
    try:
        yield
    finally:
        setattr(constants, name, before)
