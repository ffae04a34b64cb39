"""A Ray to work on: one of our own on this machine, or the cluster at an address."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster import checks
from cluster.environment import environment, worker_environment
from trainers.engine import checkpoint
from trainers.engine.config import Config
from trainers.engine.errors import SURROUNDINGS, Stopped, TroupeError

IMPORTED = ("PYTHONBREAKPOINT", "RAY_CLIENT_MODE")  # what Ray sets in our caller's environment when it is imported
SENT = "working_dir_files"  # the folder in which Ray keeps what was sent with a job
OBJECT_STORE = 100 << 20  # bytes; nothing large goes through it


@contextlib.contextmanager
def ray_for(
    config: Config, address: str | None, oversubscribe: bool, folders: Sequence[Path], log: Path | None,
    job_wide: bool = False,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Connect to Ray, and yield the runtime environment that its actors need. What Ray prints goes to `log`, if given.
    `job_wide`: actors that somebody else starts need it too.

    It prints to both streams, a paragraph where a worker dies; whoever shows progress has taken its stream before.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(environment({name: os.environ.get(name) for name in IMPORTED}))
        if log is not None:
            with checkpoint.writing(log):
                file = held.enter_context(open(log, "a"))
            held.enter_context(contextlib.redirect_stdout(file))
            held.enter_context(contextlib.redirect_stderr(file))
        yield held.enter_context(
            _cluster(config, address, folders, job_wide) if address else _own(config, oversubscribe)
        )


@contextlib.contextmanager
def _own(config: Config, oversubscribe: bool) -> Iterator[dict[str, Any]]:
    """Start a Ray of our own: on loopback only, with a token of its own, without its dashboard; or use our caller's."""
    variables = {
        **worker_environment(),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on loopback only
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers without GPUs keep the variables of this process
        "GLOO_SOCKET_IFNAME": "lo",
    }
    with contextlib.ExitStack() as held:
        with environment(variables):
            import ray

            ours = not ray.is_initialized()
            if ours:
                logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of a small /dev/shm, which is all right
                held.callback(_read_tokens_anew)  # when the environment is our caller's again
                token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": None,
                         "RAY_AUTH_TOKEN_PATH": held.enter_context(_token_file())}  # fmt: skip
                cpus = checks.cores()
                needed = config.workers * config.threads_per_worker
                try:
                    with environment(token):
                        _read_tokens_anew()
                        ray.init(
                            address="local", num_cpus=max(cpus, needed) if oversubscribe else cpus,
                            include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
                            configure_logging=False, object_store_memory=OBJECT_STORE,
                        )  # fmt: skip
                except SystemExit:  # SIGTERM meanwhile, in the words of Ray's handler
                    raise Stopped("stopped before it began") from None
                except Exception as error:
                    reason = str(error).strip().splitlines()[-1]
                    raise TroupeError(f"Ray did not start: {reason}", SURROUNDINGS) from error
                held.callback(ray.shutdown)
        _check_room(config, "this machine" if ours else "the Ray of this process")
        yield {} if ours else {"env_vars": worker_environment()}  # whose processes were not started by us


@contextlib.contextmanager
def _cluster(config: Config, address: str, folders: Sequence[Path], job_wide: bool) -> Iterator[dict[str, Any]]:
    """Join the cluster at an address, when its nodes are like this one and see the same folders."""
    with joined(address, job_wide):
        mistakes = _compare(_check_room(config, "the cluster"), folders)
        if mistakes:
            raise TroupeError(mistakes, SURROUNDINGS)
        yield {"env_vars": worker_environment()}


@contextlib.contextmanager
def joined(address: str, job_wide: bool = False) -> Iterator[None]:
    """Join the cluster at an address. Raises TroupeError (exit code 3) where that cannot be."""
    import ray

    with contextlib.ExitStack() as held:
        if not ray.is_initialized():
            mode = {"RAY_AUTH_MODE": "token"} if _knock(address) else {}
            held.callback(_read_tokens_anew)  # when the environment is our caller's again
            with environment({"RAY_USAGE_STATS_ENABLED": "0", **mode}):
                _read_tokens_anew()
                logging.getLogger("ray").setLevel(logging.ERROR)
                try:
                    ray.init(
                        address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False,
                        runtime_env={"env_vars": worker_environment()} if job_wide else None,
                    )  # fmt: skip
                except Exception as error:
                    reason = str(error).strip().splitlines()[0]
                    raise TroupeError(f"--address {address}: cannot be joined ({reason})", SURROUNDINGS) from error
                held.callback(ray.shutdown)
        yield


def _check_room(config: Config, where: str) -> list[dict[str, Any]]:
    """The nodes, where all workers have room on them at once. Raises TroupeError (exit code 3) where they have not."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if mistake := lack(checks.needs(config.model_dump()), config.workers, [node["Resources"] for node in nodes], where):
        raise TroupeError(mistake, SURROUNDINGS)
    return nodes


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


def _knock(address: str) -> bool:
    """Ask an address once, in Ray's own words: whether it wants a token, and takes ours.

    Ray itself asks for a minute and tells no reason. Raises TroupeError (exit code 3) where there is no Ray that would
    let us in: at once where somebody answers, after 3 s where nobody does.
    """
    if not address.rpartition(":")[2].isdigit() or "://" in address or os.environ.get("RAY_USE_TLS") == "1":
        return False  # Ray knows addresses of other kinds, like `auto`, and how to speak behind certificates
    import ray

    try:
        import grpc  # type: ignore[import-untyped]
        from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
    except ImportError:
        return False
    stub: Any = gcs_service_pb2_grpc
    words: Any = gcs_service_pb2
    mine = token()

    def version(metadata: Sequence[tuple[str, str]]) -> str:
        with grpc.insecure_channel(address) as channel:
            ask = stub.NodeInfoGcsServiceStub(channel).CheckAlive
            answer: str = ask(words.CheckAliveRequest(), timeout=3, metadata=metadata).ray_version
            return answer

    wanted = False
    try:
        try:
            there = version([])
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAUTHENTICATED:
                raise
            wanted = True
            there = version([("authorization", f"Bearer {mine}")] if mine else [])
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.UNAUTHENTICATED:
            mistake = "no Ray answers there; `ray status` on its head node shows the address"
        elif mine:
            mistake = (
                "wants another token than RAY_AUTH_TOKEN or ~/.ray/auth_token holds; give it the one it began with"
            )
        else:
            mistake = "wants a token; put the one that it began with into RAY_AUTH_TOKEN or ~/.ray/auth_token"
        raise TroupeError(f"--address {address}: {mistake}", SURROUNDINGS) from None
    except Exception as error:
        raise TroupeError(f"--address {address}: {(str(error).splitlines() or [''])[0]}", SURROUNDINGS) from error
    if there and there != ray.__version__:
        raise TroupeError(
            f"--address {address}: runs Ray {there}, this machine has {ray.__version__}; install the same",
            SURROUNDINGS,
        )
    return wanted


def _compare(nodes: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> list[str]:
    """What is different on some node: versions, or folders that it does not see."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there_anyway = [folder for folder in folders if SENT in folder.parts]  # Ray unpacks on every node what a job brings
    marks = {folder: folder / f".seen-{uuid.uuid4().hex}" for folder in folders if folder not in there_anyway}
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
            mistakes += [f"node {name}: {line}" for line in other_versions(here, there)]
            mistakes += [
                f"node {name}: {unseen(folder)}" for folder, mark in marks.items() if str(mark) in there["missing"]
            ]
        return mistakes
    finally:
        for mark in marks.values():
            mark.unlink(missing_ok=True)


def other_versions(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """What a node has in another version than this machine, a line each, from the facts of both."""
    return [
        f"has {what} {there.get(what) or 'nothing'}, this machine has {version}; install the same"
        for what, version in here.items()
        if what != "missing" and there.get(what) != version
    ]


def unseen(folder: Path) -> str:
    """What is said of a folder that a node does not see."""
    return f"does not see {folder}; put it on a disk that all nodes share"


def facts_of_node(marks: Sequence[str]) -> dict[str, Any]:
    """Versions on the node that runs this, and those of the marked folders that it does not see."""
    import platform
    from importlib import metadata

    from trainers.version import __version__

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:  # troupe itself may have been sent there
            return __version__ if package == "troupe" else ""

    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        **{package: version(package) for package in ("ray", "torch", "troupe")},
        "missing": [mark for mark in marks if not os.path.exists(mark)],
    }


def token() -> str:
    """The token that Ray would send, where there is one."""
    if mine := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return mine
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return ""


@contextlib.contextmanager
def _token_file() -> Iterator[str]:
    """The path of a new token that only this user can read; it goes when the Ray that it is for has ended."""
    folder = tempfile.mkdtemp(prefix="troupe-")
    try:
        path = os.path.join(folder, "token")
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_tokens_anew() -> None:
    """Let Ray look at the environment of now for whether there is a token, and which: it keeps what it saw first."""
    from ray import _raylet

    with contextlib.suppress(AttributeError):  # no public name does it; another Ray may have others
        _raylet.Config.initialize("")  # type: ignore[attr-defined]
        _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]
