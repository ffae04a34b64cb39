"""A connection to Ray: a local Ray on this machine, or the cluster at an address."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.backend import auth
from cluster.backend.local_ray import LocalRay
from cluster.backend.nodes import ClusterHealth, at, last_line, worker_capacity
from cluster.backend.ray_internals import disconnect, reject_forked, without_sigterm_handler
from cluster.host import hardware, ray_environment, requirements
from cluster.host.environment import environment, worker_environment
from cluster.host.signals import deferred, restored_handlers
from cluster.terminal.streams import real_streams
from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS
from trainers.settings.config import Config
from trainers.storage import checkpoint

IMPORTED = ("PYTHONBREAKPOINT", "RAY_CLIENT_MODE")  # variables that Ray sets in our caller's environment on import
OTHER_VERSION = "versions-differ"  # error code: versions differ from those of this machine
SENT = "working_dir_files"  # the folder in which Ray keeps the files of a job


class Connected:
    """A Ray that troupe did not start, while we use it."""

    def __init__(self, address: str | None = None) -> None:
        self.runtime_env: dict[str, Any] = {"env_vars": worker_environment()}  # its processes were not started by us
        self.pulse = ClusterHealth(address) if address is not None else None

    def died(self) -> str:
        """Which part of it died, if it can be restarted: always empty, since troupe does not own it.

        Raises TroupeError (exit code 3) if it has died.
        """
        if self.pulse is not None:
            self.pulse.check()
        return ""

    def missing(self) -> str:
        """Empty: its files are not ours to check."""
        return ""

    unusable = died

    def restart(self) -> None:
        """Does nothing: troupe does not own this Ray."""


@contextlib.contextmanager
def ray_for(
    config: Config,
    address: str | None,
    oversubscribe: bool,
    folders: Sequence[Path],
    log: Path | None,
    job_wide: bool = False,
) -> Iterator[Connected | LocalRay]:
    """Connect to Ray, and yield it. Its output goes to `log`, if given. `job_wide`: actors that other code starts need
    its `runtime_env` too.

    Ray prints to both streams, as a paragraph when a worker dies; callers must get the stream for progress before.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(environment({name: os.environ.get(name) for name in IMPORTED}))
        stack.enter_context(real_streams())
        stack.enter_context(ray_environment.no_error_on_warnings())
        if log is not None:
            with checkpoint.writing_checkpoint(log):
                file = stack.enter_context(open(log, "a", encoding="utf-8", errors="backslashreplace"))
            stack.enter_context(contextlib.redirect_stdout(file))
            stack.enter_context(contextlib.redirect_stderr(file))
        yield stack.enter_context(
            _cluster(config, address, folders, job_wide) if address else _own(config, oversubscribe)
        )


@contextlib.contextmanager
def _own(config: Config, oversubscribe: bool) -> Iterator[Connected | LocalRay]:
    """Start a local Ray, or use our caller's."""
    caller_has_ray = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    variables = {} if caller_has_ray else ray_environment.variables()
    with contextlib.ExitStack() as stack:
        stack.callback(auth.reload_token_settings)  # after the environment of our caller is restored
        stack.enter_context(environment({**variables, **worker_environment(), "GLOO_SOCKET_IFNAME": "lo"}))
        with deferred():  # a partial import would break every later use
            import ray

        reject_forked()
        if ray.is_initialized():
            _check_room(config, "the Ray of this process")
            yield Connected()
            return
        cpus = hardware.cores()
        own = LocalRay(max(cpus, config.workers * config.threads_per_worker) if oversubscribe else cpus)
        stack.callback(own.end)
        own.start()
        _check_room(config, "this machine")
        yield own


@contextlib.contextmanager
def _cluster(config: Config, address: str, folders: Sequence[Path], job_wide: bool) -> Iterator[Connected]:
    """Join the cluster at an address, if its nodes have the same versions and see the same folders."""
    with joined(address, job_wide):
        problems = _compare(_check_room(config, "the cluster"), folders)
        if problems:
            raise TroupeError(problems, ENVIRONMENT)
        yield Connected(address)


@contextlib.contextmanager
def joined(address: str, job_wide: bool = False) -> Iterator[None]:
    """Join the cluster at an address. Raises TroupeError (exit code 3) if that fails."""
    import ray

    reject_forked()
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            mode = {"RAY_AUTH_MODE": "token"} if _knock(address) else {}
            stack.callback(auth.reload_token_settings)  # after the environment of our caller is restored
            with environment({"RAY_USAGE_STATS_ENABLED": "0", **mode}), restored_handlers(), without_sigterm_handler():
                auth.reload_token_settings()
                logging.getLogger("ray").setLevel(logging.ERROR)
                try:
                    ray.init(
                        address=address,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        configure_logging=False,
                        runtime_env={"env_vars": worker_environment()} if job_wide else None,
                        job_config=ray_environment.job(),
                    )
                except Exception as error:
                    raise TroupeError(
                        unreachable(address, f"cannot be joined ({last_line(error)})"), ENVIRONMENT
                    ) from error
                stack.callback(disconnect)
        yield


def _check_room(config: Config, where: str) -> list[dict[str, Any]]:
    """The nodes, if they have room for all workers at once. Raises TroupeError (exit code 3) if not."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if problem := missing_resources(
        requirements.needs(config.model_dump()), config.least_workers, [node["Resources"] for node in nodes], where
    ):
        raise TroupeError(problem, ENVIRONMENT)
    return nodes


def missing_resources(
    each: Mapping[str, float], workers: int, nodes: Sequence[Mapping[str, float]], where: str
) -> Problem | None:
    """What `nodes` lack for this many workers, each of which must fit on a single node; or None."""
    for kind, count in each.items():
        total = sum(node.get(kind, 0) for node in nodes)
        if total < workers * count:
            reason = f"needs {workers * count:.0f} {kind}s, {where} has {total:.0f}"
            return Problem("no-room", "workers", reason, value=workers)
    room = worker_capacity(each, nodes)
    if room < workers:
        share = " and ".join(f"{count:.0f} {kind}s" for kind, count in each.items())
        reason = f"each needs {share} on one node, {where} has room for {room}"
        return Problem("no-room", "workers", reason, "use fewer workers or threads_per_worker", workers)
    return None


def _knock(address: str) -> bool:
    """Contact an address once, with Ray's own protocol: whether it requires a token, and accepts ours.

    Ray itself tries for a minute and gives no reason. Raises TroupeError (exit code 3) if no Ray accepts us:
    immediately if there is an answer, after 3 s if there is none.
    """
    if os.environ.get("RAY_USE_TLS") == "1" or not _is_host_and_port(address):
        return False  # Ray handles other addresses, like `auto`, and TLS itself
    import ray

    try:
        import grpc  # type: ignore[import-untyped]
        from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
    except ImportError:
        return False
    services: Any = gcs_service_pb2_grpc
    messages: Any = gcs_service_pb2

    def version(metadata: Sequence[tuple[str, str]]) -> str:
        with grpc.insecure_channel(address, options=ray_environment.channel()) as channel:
            check_alive = services.NodeInfoGcsServiceStub(channel).CheckAlive
            answer: str = check_alive(messages.CheckAliveRequest(), timeout=WAITS.knock, metadata=metadata).ray_version
            return answer

    own_token, required = auth.token(), False
    with _refusals(address, bool(own_token)):
        try:
            version_there = version([])
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAUTHENTICATED:
                raise
            required = True
            version_there = version([("authorization", f"Bearer {own_token}")] if own_token else [])
    if version_there and version_there != ray.__version__:
        raise TroupeError(other_ray(address, version_there, ray.__version__), ENVIRONMENT)
    return required


def _is_host_and_port(address: str) -> bool:
    """Whether an address is HOST:PORT. Raises TroupeError (exit code 3) if the port is out of range."""
    port = address.rpartition(":")[2]
    if not port.isdigit() or "://" in address:
        return False
    if not port.isdecimal() or not 0 < float(port) < 2**16:  # `²` is a digit, but not a number
        hint = "a head node usually has 6379"
        raise TroupeError(Problem("bad-value", "--address", "ports are from 1 to 65535", hint, address), ENVIRONMENT)
    return True


@contextlib.contextmanager
def _refusals(address: str, has_token: bool) -> Iterator[None]:
    """Convert errors while contacting an address to TroupeError (exit code 3). `has_token`: we have a token."""
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        problem = token_refused(address, has_token)
        if error.code() != grpc.StatusCode.UNAUTHENTICATED:
            problem = unreachable(address, "no Ray answers there", "`ray status` on its head node shows the address")
        raise TroupeError(problem, ENVIRONMENT) from None
    except Exception as error:
        raise TroupeError(unreachable(address, (str(error).splitlines() or [""])[0]), ENVIRONMENT) from error


def unreachable(address: str, reason: str, hint: str = "") -> Problem:
    """The problem if no cluster answers at an address."""
    return Problem("cluster-unreachable", "--address", reason, hint, address)


def token_refused(address: str, has_token: bool) -> Problem:
    """The problem if a cluster requires a token, or rejects ours (`has_token`)."""
    holder = "RAY_AUTH_TOKEN or ~/.ray/auth_token"
    reason, hint = "requires a token", f"put the cluster's token into {holder}"
    if has_token:
        reason, hint = f"rejected the token in {holder}", "put the cluster's token there"
    return Problem("token-refused", "--address", reason, hint, address)


def other_ray(address: str, theirs: str, ours: str) -> Problem:
    """The problem if a cluster has another version of Ray than this machine."""
    reason = f"runs Ray {theirs}, this machine has {ours}"
    return Problem(OTHER_VERSION, "--address", reason, "install the same", address)


def _compare(nodes: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> list[Problem]:
    """Differences of the nodes: versions, and folders that they do not see."""
    import ray

    always_visible = [folder for folder in folders if SENT in folder.parts]  # Ray unpacks a job's files on every node
    marks = {folder: folder / f".seen-{uuid.uuid4().hex}" for folder in folders if folder not in always_visible}
    own_facts = facts_of_node([])
    try:
        for mark in marks.values():
            mark.touch(exist_ok=False)
        remote_facts = ray.remote(num_cpus=0)(facts_of_node)
        answers = {
            node["NodeID"]: remote_facts.options(scheduling_strategy=at(node)).remote(
                [str(mark) for mark in marks.values()]
            )
            for node in nodes
        }
        problems = []
        for node in nodes:
            name, answer = node["NodeManagerAddress"], answers[node["NodeID"]]
            try:
                node_facts = ray.get(answer, timeout=WAITS.facts_of_node)
            except Exception as error:
                if node["NodeID"] not in [other["NodeID"] for other in ray.nodes() if other["Alive"]]:  # type: ignore[no-untyped-call]
                    continue  # it has left meanwhile
                reason = f"does not answer ({last_line(error)})"
                problems.append(Problem("node-unreachable", f"node {name}", reason))
                continue
            wrong = other_versions(own_facts, node_facts)
            wrong += [unseen(folder) for folder, mark in marks.items() if str(mark) in node_facts["missing"]]
            problems += [replace(one, about=f"node {name}") for one in wrong]
        return problems
    finally:
        for mark in marks.values():
            mark.unlink(missing_ok=True)


def other_versions(own_facts: Mapping[str, Any], node_facts: Mapping[str, Any]) -> list[Problem]:
    """Version differences between a node and this machine, from the facts of both. The caller adds the node."""
    return [
        Problem(
            OTHER_VERSION,
            reason=f"has {what} {node_facts.get(what) or 'nothing'}, this machine has {version}",
            hint="install the same",
        )
        for what, version in own_facts.items()
        if what != "missing" and node_facts.get(what) != version
    ]


def unseen(folder: Path) -> Problem:
    """The problem if a node does not see a folder. The caller adds the node."""
    return Problem("not-shared", reason=f"does not see {folder}", hint="put it on a disk that all nodes share")


def facts_of_node(marks: Sequence[str]) -> dict[str, Any]:
    """Versions on the node that executes this, and the `marks` that it does not see."""
    import platform
    from importlib import metadata

    from trainers.base.version import __version__

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return ""

    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        **{package: version(package) for package in ("ray", "torch")},
        "troupe": __version__,  # of the code that runs there: it may have been sent, next to an installed version
        "missing": [mark for mark in marks if not os.path.exists(mark)],
    }
