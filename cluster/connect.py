"""A Ray to work on: one of our own on this machine, or the cluster at an address."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.environment import environment, worker_environment
from trainers.engine import checkpoint
from trainers.engine.errors import SURROUNDINGS, Stopped, TroupeError
from trainers.engine.settings import Config

OBJECT_STORE = 100 << 20  # bytes; nothing large goes through it


@contextlib.contextmanager
def ray_for(
    config: Config, address: str | None, oversubscribe: bool, folders: Sequence[Path], log: Path
) -> Iterator[dict[str, Any]]:
    """Connect to Ray, and yield the runtime environment that its actors need. What Ray prints goes to `log`.

    It prints to both streams, a paragraph where a worker dies; whoever shows progress has taken its stream before.
    """
    before = os.environ.get("RAY_AUTH_MODE")
    with checkpoint.writing(log):
        file = open(log, "a")  # noqa: SIM115
    try:
        with file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            if address:
                with _cluster(config, address, folders) as runtime_env:
                    yield runtime_env
            else:
                with _own(config, oversubscribe) as runtime_env:
                    yield runtime_env
    finally:
        if before is None:  # Ray sets it in our caller's environment
            os.environ.pop("RAY_AUTH_MODE", None)


@contextlib.contextmanager
def _own(config: Config, oversubscribe: bool) -> Iterator[dict[str, Any]]:
    """Start a Ray of our own: on loopback only, with a token, without its dashboard; or use that of our caller."""
    variables = {
        **worker_environment(),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on loopback only
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers without GPUs keep the variables of this process
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if "ray" not in sys.modules:  # it reads this when it is imported; later, it decides for tokens by itself
        variables["RAY_AUTH_MODE"] = os.environ.get("RAY_AUTH_MODE", "token")
    _make_token()
    with environment(variables):
        import ray

        if ray.is_initialized():
            _check_room(config, "the Ray of this process")
            yield {"env_vars": worker_environment()}  # its processes were not started by us
            return
        logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of a small /dev/shm, which is all right here
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        needed = config.workers * config.threads_per_worker
        try:
            ray.init(
                address="local", num_cpus=max(cpus, needed) if oversubscribe else cpus, include_dashboard=False,
                log_to_driver=False, logging_level=logging.ERROR, configure_logging=False,
                object_store_memory=OBJECT_STORE,
            )  # fmt: skip
        except SystemExit:  # SIGTERM meanwhile, in the words of Ray's handler
            raise Stopped("stopped before it began") from None
        except Exception as error:
            raise TroupeError(f"Ray did not start: {str(error).strip().splitlines()[-1]}", SURROUNDINGS) from error
    try:
        _check_room(config, "this machine")
        yield {}
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _cluster(config: Config, address: str, folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Join the cluster at an address, when its nodes are like this one and see the same folders."""
    import ray

    with environment({"RAY_USAGE_STATS_ENABLED": "0"}):
        ours = not ray.is_initialized()
        if ours:
            _knock(address)
            logging.getLogger("ray").setLevel(logging.ERROR)
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
            except Exception as error:
                reason = str(error).strip().splitlines()[0]
                raise TroupeError(f"--address {address}: cannot be joined ({reason})", SURROUNDINGS) from error
    try:
        mistakes = _compare(_check_room(config, "the cluster"), folders)
        if mistakes:
            raise TroupeError(mistakes, SURROUNDINGS)
        yield {"env_vars": worker_environment()}
    finally:
        if ours:
            ray.shutdown()


def _check_room(config: Config, where: str) -> list[dict[str, Any]]:
    """The nodes, where all workers have room on them at once. Raises TroupeError (exit code 3) where they have not."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if mistake := lack(needs(config.model_dump()), config.workers, [node["Resources"] for node in nodes], where):
        raise TroupeError(mistake, SURROUNDINGS)
    return nodes


def needs(settings: Mapping[str, Any]) -> dict[str, float]:
    """What each worker takes of a node."""
    return {"CPU": float(settings["threads_per_worker"]), **({"GPU": 1.0} if settings["device"] == "cuda" else {})}


def lack(each: Mapping[str, float], workers: int, nodes: Sequence[Mapping[str, float]], where: str) -> str | None:
    """What `nodes` lack for so many workers, each of which must fit on one of them as a whole; or None."""
    for kind, count in each.items():
        there = sum(node.get(kind, 0) for node in nodes)
        if there < workers * count:
            return f"workers={workers}: needs {workers * count:.0f} {kind}s, {where} has {there:.0f}"
    room = sum(int(min(node.get(kind, 0) // count for kind, count in each.items())) for node in nodes)
    if room < workers:
        whole = " and ".join(f"{count:.0f} {kind}s" for kind, count in each.items())
        return (
            f"workers={workers}: each needs {whole} on one node, {where} has room for {room} such; take fewer workers "
            "or threads_per_worker"
        )
    return None


def _knock(address: str) -> None:
    """Ray asks an address for a minute and tells no reason: ask once first, in its own words, for 5 s."""
    if not address.rpartition(":")[2].isdigit() or "://" in address or os.environ.get("RAY_USE_TLS") == "1":
        return  # Ray knows addresses of other kinds, like `auto`, and how to speak behind certificates
    import ray

    try:
        import grpc  # type: ignore[import-untyped]
        from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

        stub: Any = gcs_service_pb2_grpc
        words: Any = gcs_service_pb2
        with grpc.insecure_channel(address) as channel:
            ask = stub.NodeInfoGcsServiceStub(channel).CheckAlive
            token = [("authorization", f"Bearer {_token()}")] if _token() else []
            version = ask(words.CheckAliveRequest(), timeout=5, metadata=token).ray_version
    except ImportError:
        return
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            mistake = "wants another token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the one that it began with"
        else:
            mistake = "no Ray answers there; `ray status` on its head node shows the address"
        raise TroupeError(f"--address {address}: {mistake}", SURROUNDINGS) from None
    except Exception as error:
        raise TroupeError(f"--address {address}: {(str(error).splitlines() or [''])[0]}", SURROUNDINGS) from error
    if version and version != ray.__version__:
        raise TroupeError(
            f"--address {address}: runs Ray {version}, this machine has {ray.__version__}; install the same",
            SURROUNDINGS,
        )


def _compare(nodes: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> list[str]:
    """What is different on some node: versions, or folders that it does not see."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    marks = {folder: folder / f".seen-{uuid.uuid4().hex}" for folder in folders}
    here = facts_of_node([])
    try:
        for mark in marks.values():
            mark.write_text("")
        look = ray.remote(num_cpus=0)(facts_of_node)
        answers = {
            node["NodeID"]: look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote([str(mark) for mark in marks.values()])
            for node in nodes
        }
        mistakes = []
        for node in nodes:
            name, answer = node["NodeManagerAddress"], answers[node["NodeID"]]
            try:
                there = ray.get(answer, timeout=60)
            except Exception as error:
                if node["NodeID"] not in [other["NodeID"] for other in ray.nodes() if other["Alive"]]:  # type: ignore[no-untyped-call]
                    continue  # it has left meanwhile
                mistakes.append(f"node {name}: does not answer ({str(error).splitlines()[0]})")
                continue
            mistakes += [
                f"node {name}: has {what} {there.get(what) or 'nothing'}, this machine has {version}; install the same"
                for what, version in here.items()
                if what != "missing" and there.get(what) != version
            ]
            mistakes += [
                f"node {name}: does not see {folder}; put it on a disk that all nodes share"
                for folder, mark in marks.items()
                if str(mark) in there["missing"]
            ]
        return mistakes
    finally:
        for mark in marks.values():
            mark.unlink(missing_ok=True)


def facts_of_node(marks: Sequence[str]) -> dict[str, Any]:
    """Versions on the node that runs this, and those of the marked folders that it does not see."""
    import platform
    from importlib import metadata

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return ""

    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        **{package: version(package) for package in ("ray", "torch", "troupe")},
        "missing": [mark for mark in marks if not os.path.exists(mark)],
    }


def _token() -> str:
    """The token that Ray would send, where there is one."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    with contextlib.suppress(OSError):
        return os.environ.get("RAY_AUTH_TOKEN") or path.read_text().strip()
    return ""


def _make_token() -> None:
    """Ray would write its token for everybody to read: make it first, for this user alone."""
    path = Path.home() / ".ray" / "auth_token"
    if any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or path.exists():
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
