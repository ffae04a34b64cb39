"""`troupe check`: check what a run needs of this machine, or of every node of a cluster, before anything starts.

Each finding says what is so and, if it is wrong, what to do. No check reserves CPUs or GPUs that others wait for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster.backend import connection
from cluster.backend.nodes import at, last_line
from cluster.host import hardware, requirements
from cluster.requests.models import CheckRequest
from cluster.terminal.progress import size
from cluster.terminal.tables import table
from trainers.base.errors import USAGE, TroupeError
from trainers.base.problems import Problem, sentence
from trainers.base.timeouts import WAITS
from trainers.data import sources
from trainers.data.images import FETCHED
from trainers.families import registry
from trainers.run_folders import bucket
from trainers.settings.config import Config

FINE, WRONG, UNSEEN, NOTE = "fine", "WRONG", "not looked at", "note"
CLOCKS = 2.0  # seconds by which clocks may differ
SHARED_MEMORY = 64 << 20  # bytes free in /dev/shm
SPARE = 1 << 30  # bytes free on the disk of the runs
NUMBERS, ROUNDS = 1 << 20, 5  # float32 values, and repetitions, of the all-reduce between nodes


class Finding(NamedTuple):
    what: str
    state: str  # FINE, WRONG, UNSEEN or NOTE
    message: str
    code: str | None = None  # of the problem, if something is wrong

    @property
    def problem(self) -> Problem:
        return Problem(str(self.code), self.what, self.message)


def wrong(what: str, problem: Problem) -> Finding:
    return Finding(what, WRONG, sentence(problem), problem.code)


def check_from_here(command: CheckRequest) -> list[Finding]:
    """Run all checks. Raises TroupeError (exit code 2) only for wrong arguments."""
    config = _config(command)
    if command.address is None:
        return [*_versions(), *_machine(config), *_folders(command, config)]
    try:
        with contextlib.ExitStack() as stack:
            # Ray prints paragraphs about nodes that leave
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
            stack.enter_context(connection.joined(command.address))
            return list(_cluster(command, config))
    except TroupeError as error:
        return [wrong("cluster", problem) for problem in error.problems]


def _config(command: CheckRequest) -> Config | None:
    """The settings of the run to check for, if a family is given."""
    if command.family is None:
        if command.settings:
            hint = "name it, as in `troupe check dcgan workers=4`"
            raise TroupeError(Problem("missing", reason="settings require a family", hint=hint), USAGE)
        return None
    kind = registry.config_class(command.family, command.families)
    config, problems = kind.from_words(dict(command.settings), command.family)
    if config is not None and (problem := sources.check_source_name(config.data, command.families, kind.input_kind)):
        problems.append(problem)
    if config is None or problems:
        raise TroupeError(problems, USAGE)
    return config


def _versions() -> Iterator[Finding]:
    facts = connection.facts_of_node([])
    missing = [name for name, version in facts.items() if name != "missing" and not version]
    versions = ", ".join(f"{name} {version}" for name, version in facts.items() if name != "missing" and version)
    if missing:
        reason = f"{', '.join(missing)} is not installed"
        yield wrong("versions", Problem("not-installed", reason=reason, hint="pip install it"))
    else:
        yield Finding("versions", FINE, versions)


def _machine(config: Config | None) -> Iterator[Finding]:
    if config is not None:
        resolved = config.model_copy(update=requirements.resolve(config, own_machine=True))
        for problem in requirements.room(resolved, oversubscribe=False):
            yield wrong("room", problem)
            return
    few = f" ({why})" if (why := hardware.why_few_cores()) else ""
    cpus, gpus = requirements.plural(hardware.cores(), "CPU"), requirements.plural(hardware.gpus(), "GPU")
    yield Finding("room", FINE, f"{cpus}{few}, {gpus}")
    if why := hardware.why_no_gpu():
        yield Finding("room", NOTE, f"torch cannot use the GPUs of this machine: {why}")
    yield shared_memory("this machine", _free("/dev/shm"))


def _folders(command: CheckRequest, config: Config | None) -> Iterator[Finding]:
    if problem := _unwritable(command.runs):
        yield wrong("runs", problem)
    else:
        yield space("this machine", command.runs, _free(str(command.runs)))
    if config is not None:
        yield data_finding(
            "this machine", config.data, sources.missing(config.data, command.data_dir, command.families)
        )


def _cluster(command: CheckRequest, config: Config | None) -> Iterator[Finding]:
    """Check every node, and the network between them."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    yield Finding("cluster", FINE, f"{command.address}: {len(nodes)} node{'s' if len(nodes) != 1 else ''}")
    have = {kind: sum(node["Resources"].get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    free: Mapping[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    now = ", ".join(f"{free.get(kind, 0):.0f} of {count:.0f} {kind}s free" for kind, count in have.items())
    lack = None
    if config is not None:
        resolved = config.model_copy(update=requirements.resolve(config, own_machine=False))
        each = requirements.needs(resolved.model_dump())
        lack = connection.missing_resources(
            each, resolved.least_workers, [node["Resources"] for node in nodes], "the cluster"
        )
    yield wrong("room", lack) if lack else Finding("room", FINE, now)

    answers, silent = _answers_of(command, config, nodes)
    yield from silent
    own_facts = connection.facts_of_node([])
    for name, offset, node_facts in answers:
        yield from _of_node(name, offset, node_facts, own_facts, command, config)
    if len(nodes) == 1:
        yield Finding("network", UNSEEN, "there is only one node")
    elif silent:
        yield Finding("network", UNSEEN, "some nodes do not answer")
    else:
        yield _network(nodes)
    if have["GPU"] and (config is None or config.device != "cpu"):
        yield _network(nodes, gpus=True)


def _answers_of(
    command: CheckRequest, config: Config | None, nodes: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[str, float, dict[str, Any]]], list[Finding]]:
    """The answer of each node, with its address and clock offset in seconds; and findings on silent nodes."""
    import ray

    answers: list[tuple[str, float, dict[str, Any]]] = []
    silent: list[Finding] = []
    if problem := _unwritable(command.runs):
        silent.append(Finding("runs", WRONG, f"this machine: {sentence(problem)}", problem.code))
    mark = command.runs.resolve() / f".seen-{uuid.uuid4().hex}"
    with contextlib.suppress(OSError):
        mark.touch(exist_ok=False)
    data = (config.data, str(command.data_dir), [str(path) for path in command.families]) if config else None
    try:
        remote_facts = ray.remote(num_cpus=0)(_facts_here)
        sent = time.time()
        pending = [
            remote_facts.options(scheduling_strategy=at(node)).remote(
                str(mark), bucket.display_name(command.runs.resolve()), data
            )
            for node in nodes
        ]
        done, _ = ray.wait(pending, num_returns=len(pending), timeout=WAITS.check_of_nodes)
        came = time.time()
        for node, ref in zip(nodes, pending, strict=True):
            name = str(node["NodeManagerAddress"])
            if ref not in done:
                reason = f"no answer within {WAITS.check_of_nodes:.0f} s"
                silent.append(wrong(name, Problem("node-unreachable", reason=reason, hint="check `ray status`")))
                continue
            try:
                facts = ray.get(ref)
            except Exception as error:
                reason = f"cannot run troupe ({last_line(error)})"
                hint = "install its requirements there, or use `troupe submit --install`"
                silent.append(wrong(name, Problem("not-installed", reason=reason, hint=hint)))
                continue
            answers.append((name, max(sent - facts["clock"], facts["clock"] - came, 0.0), facts))
    finally:
        with contextlib.suppress(OSError):
            mark.unlink(missing_ok=True)
    return answers, silent


def _facts_here(mark: str, runs: str, data: Any) -> dict[str, Any]:
    """Runs on a node: its facts."""
    missing = None
    if data is not None:
        try:
            missing = sources.missing(data[0], Path(data[1]), [Path(path) for path in data[2]])
        except TroupeError as error:
            missing = error.problems[0]
    facts: dict[str, Any] = {"writable": os.access(runs, os.W_OK), **connection.facts_of_node([mark])}
    if bucket.is_address(runs):  # each machine has its own folder for it
        facts |= {"missing": [], "writable": False}
        with contextlib.suppress(TroupeError):
            runs = str(bucket.folder_for(runs))
            facts["writable"] = _unwritable(Path(runs)) is None
    return {**facts, "clock": time.time(), "space": _free(runs), "shared memory": _free("/dev/shm"), "data": missing}


def _unwritable(runs: Path) -> Problem | None:
    """Why runs cannot be written here, to a folder or a bucket; None if they can."""
    try:
        remote = bucket.bucket_for(runs)
        if remote is not None:
            remote.check_writable()
    except TroupeError as error:
        return error.problems[0]
    return requirements.writable(runs)


def _of_node(
    name: str,
    offset: float,
    node_facts: Mapping[str, Any],
    own_facts: Mapping[str, Any],
    command: CheckRequest,
    config: Config | None,
) -> Iterator[Finding]:
    for problem in connection.other_versions(own_facts, node_facts):
        yield wrong(name, problem)
    if node_facts["missing"]:
        yield wrong(name, connection.unseen(command.runs.resolve()))
    elif not node_facts["writable"]:
        reason = f"cannot write to {bucket.display_name(command.runs.resolve())}"
        yield wrong(name, Problem("not-written", reason=reason, hint="grant access to its user"))
    else:
        yield space(name, command.runs.resolve(), node_facts["space"])
    yield shared_memory(name, node_facts["shared memory"])
    if offset > CLOCKS:
        reason = f"its clock differs by {offset:.0f} s from this machine's"
        yield wrong(name, Problem("clocks-differ", reason=reason, hint="synchronize both with NTP"))
    if config is not None:
        yield data_finding(name, config.data, node_facts["data"])


def _speak(rank: int, count: int, address: str, port: int, gpu: int | None) -> float:
    """Runs on a node: its part of an all-reduce between all nodes; returns the seconds that it took. On a GPU: 0 if it
    has not enough free memory."""
    if gpu is not None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray hides GPUs that were not requested
    import torch
    import torch.distributed as dist

    from cluster.backend.worker import use_ray_interface
    from trainers.distributed.process_group import join

    use_ray_interface()
    if gpu is not None:
        torch.cuda.set_device(gpu)
    busy = gpu is not None and torch.cuda.mem_get_info()[0] < SPARE
    world = join(address, port, rank, count, "cpu" if gpu is None else "cuda")
    if any(world.all_gather(busy)):
        return 0.0
    numbers = torch.ones(NUMBERS, device="cpu" if gpu is None else "cuda")
    started = 0.0
    for round in range(ROUNDS + 1):
        dist.all_reduce(numbers, group=world.group)
        if gpu is not None:
            torch.cuda.synchronize()
        started = started if round else time.perf_counter()  # the first one also makes connections
    return time.perf_counter() - started


def _network(nodes: Sequence[Mapping[str, Any]], gpus: bool = False) -> Finding:
    """A real all-reduce, as a run's workers do it, between one process of each node or two GPUs of each node."""
    import ray

    class Speaker:
        def where(self) -> tuple[str, int]:
            from trainers.distributed.process_group import free_port

            return ray.util.get_node_ip_address(), free_port()  # type: ignore[no-untyped-call]

        def speak(self, *arguments: Any) -> float:
            return _speak(*arguments)

    what = "NCCL" if gpus else "network"
    locations: list[tuple[Any, int | None]] = [(node, None) for node in nodes]
    if gpus:
        locations = [(node, gpu) for node in nodes for gpu in range(min(2, int(node["Resources"].get("GPU", 0))))]
    if len(locations) < 2:
        return Finding(what, UNSEEN, "there is only one GPU")
    speaker: Any = ray.remote(num_cpus=0)(Speaker)
    speakers = [speaker.options(scheduling_strategy=at(node)).remote() for node, _ in locations]
    try:
        address, port = ray.get(speakers[0].where.remote(), timeout=WAITS.check_of_nodes)
        pending = [
            one.speak.remote(rank, len(locations), address, port, gpu)
            for rank, (one, (_, gpu)) in enumerate(zip(speakers, locations, strict=True))
        ]
        seconds = ray.get(pending, timeout=WAITS.check_of_nodes)
    except Exception as error:
        reason = f"the {'GPUs' if gpus else 'nodes'} cannot reach each other ({last_line(error)})"
        return wrong(what, Problem("no-network", reason=reason, hint="open all ports between the nodes"))
    finally:
        for one in speakers:
            ray.kill(one)
    if min(seconds) == 0:
        return Finding(what, UNSEEN, "a GPU has not enough free memory")
    rate = ROUNDS * 4 * NUMBERS / max(seconds)
    who = f"{len(locations)} GPUs" if gpus else f"{len(nodes)} nodes"
    return Finding(what, FINE, f"{who}: all-reduce of {size(4 * NUMBERS)} at {size(int(rate))}/s")


def space(where: str, folder: Path, free: int) -> Finding:
    if free < SPARE:
        hint = "free some space, or use another folder"
        return wrong(where, Problem("no-space", str(folder), f"only {size(free)} free", hint))
    return Finding(where, FINE, f"{folder}: writable, {size(free)} free")


def shared_memory(where: str, free: int) -> Finding:
    if free < SHARED_MEMORY:
        slower = f"/dev/shm: {size(free)} free, so workers on one machine are slower"
        return Finding(where, NOTE, f"{slower}; increase it (docker run --shm-size=1g)")
    return Finding(where, FINE, f"/dev/shm: {size(free)} free")


def data_finding(where: str, data: str, missing: Problem | None) -> Finding:
    if missing is None:
        return Finding(where, FINE, f"data={data}: found")
    if missing.code == FETCHED:
        return Finding(where, NOTE, f"data={data}: {sentence(missing)}")
    return Finding(where, WRONG, f"data={data}: {sentence(missing)}", missing.code)


def _free(path: str) -> int:
    """Free bytes on the disk of a path; 0 if it does not exist."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


def text_of_findings(findings: Sequence[Finding], again: str) -> str:
    """One line for each, and how to check again."""
    rows = [{"": f"  {one.state}", " ": one.what, "  ": one.message} for one in findings]
    count = sum(one.state == WRONG for one in findings)
    verdict = "nothing is wrong" if not count else f"{count} of {len(findings)} wrong; check again with `{again}`"
    return f"{table(rows, heads=False)}\n\n{verdict}"
