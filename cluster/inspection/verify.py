"""`troupe verify`: compare a few steps with one process and with several, tensor by tensor. Never uses Ray."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cluster.requests.models import VerifyRequest
from trainers.base import old_names
from trainers.base.errors import CONFLICT, USAGE, TroupeError
from trainers.base.problems import Problem, sentence
from trainers.data import sources
from trainers.engine.control import Control
from trainers.families import registry
from trainers.run import Plan, run
from trainers.settings.config import Config

STEPS = 3
TOLERANCE = 1e-9  # of ddp in float64, relative to the largest number of each tensor; exact allows no difference
PROOFS = (("exact", "float32", 0.0), ("ddp", "float64", TOLERANCE))


class Difference(NamedTuple):
    tensor: str
    largest: float  # absolute
    relative: float  # to the largest number of the tensor, or 1; 0 only for equal bits


def prepare_verify(command: VerifyRequest) -> list[tuple[str, Config]]:
    """A small config for each variant of the family's networks, with the settings of the command."""
    kind = registry.config_class(command.family, command.families)
    problems: list[Problem] = []
    configs = []
    for name, tiny in variants(kind.tiny, command.settings).items():
        tiny = old_names.current(tiny, kind.model_fields)  # of a custom family
        config, wrong = kind.from_words(
            {
                "workers": 4,
                **tiny,
                "steps": STEPS,
                "device": "cpu",
                "evaluate_every": STEPS if kind.metrics else 0,
                **command.settings,
            },
            command.family,
        )
        problems = problems or wrong  # the same problem reads differently in each variant
        if config is not None:
            configs.append((name, config))
    if str(command.settings.get("workers")) == "1":
        reason = "one process has nothing to be compared with"
        problems.append(Problem("bad-value", "workers", reason, "set workers=2 or more", 1))
    sources_named = (
        [str(command.settings["data"])] if "data" in command.settings else [config.data for _, config in configs]
    )
    for data in dict.fromkeys(sources_named):
        if problem := sources.check_source_name(data, command.families, kind.input_kind):
            problems.append(problem)
    if problems:
        raise TroupeError(problems, USAGE)
    return configs


def variants(tiny: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """A family's small variants. Those named after a setting that the command sets are merged into one, named after
    the value."""
    chosen: dict[str, Mapping[str, Any]] = {}
    for name, settings in tiny.items():
        key = next((key for key, value in settings.items() if value == name and key in given), None)
        label = str(given[key]) if key else name
        if label not in chosen or label == name:
            chosen[label] = settings
    return chosen


def dry_run_of_verify(command: VerifyRequest) -> dict[str, Any]:
    """Every resolved setting of the first variant."""
    name, config = prepare_verify(command)[0]
    return {"family": command.family, "variant": name, "settings": config.model_dump()}


def verify(command: VerifyRequest, notify: Callable[[str], None] = print) -> dict[str, Any]:
    """Train each variant with 1 and with `workers` processes, with each `grad_sync`, and compare."""
    configs = prepare_verify(command)
    refuse_in_pool()
    from cluster.backend.process_pool import LocalGroup  # imports torch: only after the arguments are checked

    workers = configs[0][1].workers
    rows: list[dict[str, Any]] = []
    notify(f"verify {command.family}: {configs[0][1].steps} steps with 1 process and with {workers}")
    with tempfile.TemporaryDirectory() as scratch, LocalGroup(workers, command.setup) as group:
        for variant, config in configs:
            for grad_sync, precision, allowed in PROOFS:
                rows.append(_prove(group, command, config, variant, grad_sync, precision, allowed, Path(scratch)))
                row = rows[-1]
                notify(
                    f"  {variant}, {grad_sync} in {precision}: {'equal' if row['passed'] else 'DIFFERENT'}{row['why']}"
                )
    return {"family": command.family, "workers": workers, "passed": all(row["passed"] for row in rows), "checks": rows}


def refuse_in_pool() -> None:
    """Raise TroupeError (exit code 4) in a process that must not start others, e.g. of multiprocessing.Pool."""
    if multiprocessing.current_process().daemon:
        reason = "starts processes, which a daemonic process, such as a worker of a Pool, must not do"
        hint = "call it from the process that made the pool, or use concurrent.futures"
        raise TroupeError(Problem("not-here", "verify", reason, hint), CONFLICT)


def text_of_verify(result: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    if result["passed"]:
        return f"passed: {result['workers']} processes give the same run as 1"
    return f"FAILED: {result['workers']} processes give a different run than 1"


def _prove(
    group: Any,
    command: VerifyRequest,
    config: Config,
    variant: str,
    grad_sync: str,
    precision: str,
    allowed: float,
    scratch: Path,
) -> dict[str, Any]:
    """Compare the final states of 1 process and of several, for one variant and one `grad_sync`."""
    row = {"variant": variant, "grad_sync": grad_sync, "precision": precision, "tolerance": allowed}
    states = []
    try:
        for workers in (1, config.workers):
            settings = {**config.model_dump(), "grad_sync": grad_sync, "precision": precision, "workers": workers}
            folder = scratch / f"{variant}-{grad_sync}-{workers}"
            plan = Plan(command.family, settings, folder, command.data_dir, command.families)
            group.run(train_quietly, plan, workers=workers)
            states.append(last_state(folder))
    except TroupeError as error:
        from trainers.engine.state import DISAGREE

        (problem, *_) = error.problems
        if problem.code != DISAGREE:
            raise
        # the comparison of replicas before a checkpoint found it first
        return {**row, "passed": False, "largest": [], "why": f" ({sentence(problem)})"}
    differences = compare(*(with_results(state) for state in states))
    worst = [difference for difference in differences if difference.relative > 0][:3]
    passed = all(d.relative <= allowed for d in differences) and len(differences) > 0
    listing = "; ".join(f"{d.tensor} by {d.largest:.2g}" for d in worst)
    why = f", {len(differences)} tensors" + (f"; largest differences: {listing}" if listing else ", bit-identical")
    return {**row, "passed": passed, "largest": [d._asdict() for d in worst], "why": why}


def with_results(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state with its newest evaluation as tensors, so that this is compared too."""
    import torch

    results = {name: torch.tensor(value, dtype=torch.float64) for name, value in state["results"].items()}
    return {**state, "results": results}


def train_quietly(world: Any, plan: Plan) -> None:
    """Train a plan in a process of the pool."""
    from trainers.run_folders.run_folder import RunFolder

    folder = RunFolder(plan.folder)
    if world.rank == 0:
        for part in (folder.checkpoints, folder.grids, folder.logs):
            part.mkdir(parents=True, exist_ok=True)
    world.all_gather(None)
    run(plan, world, Control(plots=False))


def last_state(folder: Path) -> dict[str, Any]:
    """The contents of a run's last checkpoint. Read here and not sent by the process that made it: sending tensors
    needs a socket, whose path a long TMPDIR makes too long, and a file that stays open as long as they are kept."""
    from trainers.storage import checkpoint

    return checkpoint.load(checkpoint.all_in(folder / "checkpoints")[-1])


def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    """The difference of every tensor in two states, largest first. Raises TroupeError if they hold others."""
    import torch

    from trainers.storage.tensors import bits_of, named_tensors

    first, second = dict(named_tensors(one)), dict(named_tensors(other))
    if first.keys() != second.keys():
        reason = f"the states hold different tensors: {sorted(first.keys() ^ second.keys())[:3]}"
        raise TroupeError(Problem("states-differ", reason=reason))
    differences = []
    for name, tensor in first.items():
        if tensor.shape != second[name].shape:
            reason = f"of shape {tuple(tensor.shape)} and {tuple(second[name].shape)}"
            raise TroupeError(Problem("states-differ", name, reason))
        if tensor.numel() == 0:
            continue
        if tensor.dtype == second[name].dtype and torch.equal(bits_of(tensor), bits_of(second[name])):
            differences.append(Difference(name, 0.0, 0.0))
            continue
        distance = (tensor.double() - second[name].double()).abs().max().item()
        scale = max(tensor.double().abs().max().item(), 1.0)
        relative = distance / scale if distance == distance else float("inf")
        differences.append(
            Difference(name, distance, max(relative, 5e-324))
        )  # bits differ, if only in the sign of a zero
    return sorted(differences, key=lambda difference: -difference.relative)
