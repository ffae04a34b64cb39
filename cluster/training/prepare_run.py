"""Check every argument of a `train` command before anything is created or started."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.host import requirements
from cluster.requests.models import TrainRequest
from cluster.training import initial_weights
from cluster.training.given_settings import GivenSettings, naming_recipe, read_given, updated
from trainers.base import old_names
from trainers.base.errors import CONFLICT, ENVIRONMENT, USAGE, TroupeError
from trainers.base.problems import Problem, attributed, show_value
from trainers.contract import schedules
from trainers.data import sources
from trainers.families import registry
from trainers.run import open_for
from trainers.run_folders import creation, run_folder
from trainers.run_folders.run_folder import RunFolder
from trainers.settings.config import Config
from trainers.settings.fields import plain, show_size
from trainers.storage import checkpoint


@dataclass(frozen=True)
class PreparedRun:
    """A run that can start: all its arguments have been checked."""

    family: str
    config: Config
    folder: RunFolder | None  # None: a new run, whose folder does not exist yet
    stored: Mapping[str, Any]  # the settings.json of a resumed run
    notes: tuple[str, ...] = ()  # for the user, about the arguments and that folder
    damaged: bool = False  # its settings.json is damaged and must be rewritten
    weights: Path | None = None  # initial weights of a new run
    finished: Mapping[str, Any] | None = None  # its result, if it has made all its steps
    origins: Mapping[str, str] = field(default_factory=dict)  # of the given settings
    recipe: Mapping[str, Any] | None = None  # its name, and the settings that were changed


@dataclass
class _Findings:
    """What the steps of `prepare` find."""

    problems: list[Problem] = field(default_factory=list)  # wrong arguments: all of them are reported at once
    notes: list[str] = field(default_factory=list)
    conflict: TroupeError | None = None  # raised when all arguments are right
    origins: dict[str, str] = field(default_factory=dict)  # by setting: where its value was given
    recipe: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Request:
    """The requested run, new or resumed, with the settings that the command gives."""

    family: str | None  # None: a problem says why
    given: GivenSettings
    folder: RunFolder | None = None
    stored: Mapping[str, Any] = field(default_factory=dict)
    damaged: bool = False


def prepare_run(command: TrainRequest) -> PreparedRun:
    """Check every argument. Raises TroupeError: exit code 2 with all that is wrong first, then 3, then 4."""
    findings = _Findings()
    request = _read_request(command, findings)
    if command.resume is not None:
        request = _open_run(command, command.resume, request, findings)
    if command.name is not None and (problem := run_folder.check_run_name(command.name)):
        findings.problems.append(problem)
    weights, source_run = _find_weights(command, findings)
    given = _build_config(command, request, source_run, findings)
    _check_name_of_family(command, findings)
    if findings.problems:
        raise TroupeError(findings.problems, USAGE)
    if findings.conflict is not None:
        raise findings.conflict
    assert given is not None
    assert request.family is not None
    config = given.model_copy(update=requirements.resolve(given, own_machine=not command.address))
    findings.notes += [] if command.address else requirements.remarks(given, config)
    folder = request.folder
    finished = _finished(folder, config, findings.notes) if folder is not None else None
    if missing := _missing_locally(command, config, folder, finished is not None):
        raise TroupeError(missing, ENVIRONMENT)
    _refuse_conflicts(command, config, request)
    return PreparedRun(
        request.family,
        config,
        folder,
        request.stored,
        tuple(findings.notes),
        request.damaged,
        weights,
        finished,
        findings.origins,
        findings.recipe,
    )


def _read_request(command: TrainRequest, findings: _Findings) -> _Request:
    """The family and the settings of a command. Raises TroupeError if they are for two families."""
    family, given = read_given(command, findings.problems, findings.notes)
    unread = bool(findings.problems) and not given.in_file  # what cannot be read may name a family
    if family is None and command.resume is None and not unread:
        reason = "needs a family, as in `troupe train dcgan data=digits`, or --resume NAME"
        findings.problems.append(Problem("missing", "train", reason))
    return _Request(family, given)


def _open_run(command: TrainRequest, name: str, request: _Request, findings: _Findings) -> _Request:
    """A request for the run of `--resume`, with what its folder stores."""
    options = {"--name": command.name, "--init-from": command.init_from, "--recipe": command.recipe}
    for option, value in options.items():
        if value is not None:
            reason = "--resume continues a run as it is"
            findings.problems.append(Problem("settings-conflict", option, reason, f"leave {option} out", value))
    try:
        folder = run_folder.find_run(command.runs, name)
    except TroupeError as error:
        findings.problems += attributed(error.problems, "--resume")
        return request
    damage: list[str] = []
    try:
        stored = folder.read_settings(damage.append)
    except TroupeError as error:
        findings.conflict = error
        return request
    findings.notes += damage
    if request.family is not None and request.family != stored["family"]:
        reason = f"{folder.name} is a run of {stored['family']}"
        findings.problems.append(Problem("settings-conflict", request.family, reason))
    return replace(request, family=stored["family"], folder=folder, stored=stored, damaged=bool(damage))


def _find_weights(command: TrainRequest, findings: _Findings) -> tuple[Path | None, Mapping[str, Any]]:
    """The weights of `--init-from`, and the data, settings and facts of the run that they are of."""
    if command.init_from is None:
        return None, {}
    try:
        weights = initial_weights.weights_path(command.init_from, command.runs)
    except TroupeError as error:
        findings.problems += error.problems
        return None, {}
    return weights, initial_weights.source_run_of(weights)


def _build_config(
    command: TrainRequest, request: _Request, source_run: Mapping[str, Any], findings: _Findings
) -> Config | None:
    """The settings of the run. Given settings override those of the weights, which override stored ones."""
    kind = _class_of_config(command, request, findings)
    if kind is None:
        return None
    settings, notes = request.given.with_current_names(kind)
    findings.notes += notes
    family, given, stored = str(request.family), settings.values, request.stored
    old = kind.stored(stored.get("settings", {}))
    if "steps" in given and given.get("epochs", "none") not in (None, "none"):
        hint = "each follows from the other and the size of the data"
        findings.problems.append(Problem("settings-conflict", "steps and epochs", "pass only one of them", hint))
    for setting, implied in (("steps", "epochs"), ("workers", "min_workers")):
        if setting in given:
            old.pop(implied, None)
    inherited, unfit = initial_weights.network_settings(kind, family, source_run, given, str(command.init_from))
    if unfit:
        inherited, findings.conflict = {}, TroupeError(unfit, CONFLICT)
    if inherited:
        listing = " ".join(f"{name}={show_value(value)}" for name, value in inherited.items())
        comes = "comes" if len(inherited) == 1 else "come"
        findings.notes.append(f"--init-from {command.init_from}: {listing} {comes} with its weights")
    findings.origins |= dict.fromkeys(old, "the run") | dict.fromkeys(inherited, "the weights of --init-from")
    findings.origins |= settings.origins
    config, wrong = kind.from_words({**old, **inherited, **given}, family)
    findings.problems += map(settings.sourced, wrong)
    data = str(given.get("data", old.get("data", kind.model_fields["data"].get_default())))
    try:
        unfit_data = sources.check_source_name(data, command.families, kind.input_kind, not command.runs_remotely)
        findings.problems += [settings.sourced(unfit_data)] if unfit_data is not None else []
    except TroupeError as error:
        findings.problems += error.problems
    if config is not None:
        findings.recipe = _recipe_record(settings, stored, config, command.families)
    if config is not None and old and "size" in stored.get("facts", {}):
        return config.finalize(stored["facts"])
    return config


def _recipe_record(
    given: GivenSettings, stored: Mapping[str, Any], config: Config, families: Sequence[Path]
) -> Mapping[str, Any] | None:
    """What the run stores of its recipe; None if it has none."""
    if isinstance(stored.get("recipe"), dict):
        return updated(stored["recipe"], given, stored["settings"], config, families)
    return given.record(config)


def _class_of_config(command: TrainRequest, request: _Request, findings: _Findings) -> type[Config] | None:
    """The settings class of the family, if the family is known."""
    if request.family is None or (command.resume and not request.stored):
        return None
    try:
        if request.stored:
            return registry.class_of_run(request.stored, str(command.resume), command.families)
        return registry.config_class(request.family, command.families)
    except TroupeError as error:
        findings.problems += error.problems
        return None


def _check_name_of_family(command: TrainRequest, findings: _Findings) -> None:
    """Reject a run name that is the name of a family: a command could not tell them apart."""
    with contextlib.suppress(TroupeError):  # reported with the settings
        if command.name in registry.families(command.families):
            hint = f"use another, e.g. {command.name}-first"
            findings.problems.append(Problem("name-in-use", "--name", "is the name of a family", hint, command.name))


def _missing_locally(command: TrainRequest, config: Config, folder: RunFolder | None, finished: bool) -> list[Problem]:
    """What this machine lacks for the run: CPUs, GPUs, or a writable folder."""
    missing = [] if command.address else requirements.room(config, command.oversubscribe)
    if command.dry_run or finished:
        return missing
    if problem := requirements.writable(command.runs if folder is None else folder.path):
        missing += attributed([problem], "--runs-dir") if folder is None else [problem]
    return missing


def _refuse_conflicts(command: TrainRequest, config: Config, request: _Request) -> None:
    """Raise TroupeError (exit code 4) if the name is in use, or the run cannot be resumed as it is."""
    if command.name is not None and creation.is_taken(command.runs / command.name):
        raise run_folder.in_use(command.runs, command.name)
    if (folder := request.folder) is None:
        return
    _compare_settings(folder, request.stored, config, command.allow_changes)
    if command.allow_changes or checkpoint.all_in(folder.checkpoints):
        return
    if made := max((int(row["step"]) for row in folder.read_metrics()[0]), default=0):
        reason = f"made {made} steps, but has no checkpoint left"
        hint = "restore one, or pass --allow-changes to restart at step 0"
        raise TroupeError(Problem("no-checkpoint", folder.name, reason, hint), CONFLICT)


def _finished(folder: RunFolder, config: Config, notes: list[str]) -> dict[str, Any] | None:
    """The result of a run that has made all its steps; None if its last checkpoint must be made again."""
    result = folder.read_result()
    if result is None:
        return None
    reached = result.get("target") is not None and result["target"] == old_names.target(config.target)
    if not reached and result["steps"] < config.steps:
        return None
    saved = checkpoint.all_in(folder.checkpoints)
    if not saved:
        return result
    if (damage := checkpoint.damage_of(saved[-1])) is not None:
        lost = f"damaged ({damage})"
    elif checkpoint.position_of(saved[-1].name)[0] < result["steps"]:
        lost = "gone"
    else:
        return result
    notes.append(
        f"{folder.name}: finished at step {result['steps']}, but its last checkpoint is {lost}; resuming from "
        "the previous one to make it again"
    )
    return None


def _compare_settings(folder: RunFolder, stored: Mapping[str, Any], config: Config, allow_changes: bool) -> None:
    """Reject a resume if the settings that define the run differ; name each difference."""
    old = type(config).stored(stored["settings"])
    newest = checkpoint.newest_intact(folder.checkpoints)
    reached = checkpoint.position_of(newest.name)[0] if newest else 0
    differences, problems = list[Problem](), list[Problem]()
    for key, value in plain(config.defining_settings()).items():
        if key == "steps":
            if value < reached:
                reason = f"{folder.name} has already made {reached} steps"
                problems.append(Problem("bad-value", "steps", reason, value=value))
            elif value != old[key] and config.depends_on_total_steps:
                reason = f"{folder.name} has {old[key]}, you passed {value}; its schedule depends on it"
                differences.append(Problem("settings-differ", "steps", reason))
        elif key == "epochs":
            continue  # steps follow from it
        elif key == "data" and _same_kind_of_folder(str(old.get(key)), str(value)):
            continue  # its fingerprint tells whether it holds the same
        elif key in old and old[key] != value:
            reason = f"{folder.name} has {show_value(old[key])}, you passed {show_value(value)}"
            differences.append(Problem("settings-differ", key, reason))
    if differences and not allow_changes:
        reason, hint = f"settings differ from run {folder.name}", "pass --allow-changes to resume anyway"
        problems += [*differences, Problem("settings-differ", reason=reason, hint=hint)]
    if problems:
        raise TroupeError(problems, CONFLICT)


def _same_kind_of_folder(one: str, other: str) -> bool:
    """Whether both name a data folder of the same kind, which may have been moved."""
    (kind, colon, _), (other_kind, _, path) = one.partition(":"), other.partition(":")
    return kind == other_kind and bool(colon) and bool(path)


def _memory(config: Config, family: str, data: Any, command: TrainRequest) -> dict[str, Any]:
    """How much memory each worker needs and how much is free: `bytes`, if known, and a `message` for the user.
    Raises TroupeError (exit code 3) if that is not enough."""
    unknown = ""
    if command.address is not None:
        unknown = f"by each worker at its start, as the cluster at {command.address} is not known here"
    elif data is None:
        unknown = "when the run starts, as it depends on the data, which were not opened"
    if unknown:
        return {"message": f"checked {unknown}", "bytes": None}
    from trainers.engine import memory

    need = memory.estimate_memory(registry.family_class(family, command.families)(config, data.facts), data)
    if need is None:
        return {"message": "unknown, as the networks cannot be made without their weights", "bytes": None}
    free, count = memory.free_memory(config.device), config.workers
    sharing = 1 if config.device == "cuda" else count
    message = need.summary() + (" each" if count > 1 else "")
    if free is not None:
        near = memory.is_near(config, need, sharing, free)
        message += f"; {show_size(free)} are free" + (", which may not be enough" if near else "")
    return {"message": message, "bytes": {**need._asdict(), "free": free}}


def _origins(prepared: PreparedRun, config: Config) -> dict[str, str]:
    """Where the values of a run's settings come from, except those at their defaults."""
    kind, origins = type(config), {}
    for name, value in config.model_dump().items():
        default = (Config.model_fields.get(name) or kind.model_fields[name]).get_default()
        if name in prepared.origins and (value != default or prepared.origins[name] != "the run"):
            origins[name] = prepared.origins[name]
        elif value != getattr(prepared.config, name):
            origins[name] = "data"
        elif value != default:
            origins[name] = "this machine" if default == "auto" else "family"
    return origins


def dry_run_of_train(command: TrainRequest) -> dict[str, Any]:
    """All resolved settings of a command, and the folder that it would use."""
    prepared = prepare_run(command.replaced(dry_run=True))
    if prepared.folder is not None:
        folder = prepared.folder.path
    else:
        folder = command.runs / (command.name or run_folder.next_name(command.runs, prepared.family))
    config, data = prepared.config, None
    follows = config.epochs is not None or (config.evaluate_every == "auto" and config.metrics)  # from the data
    at_hand = ":" not in config.data and sources.missing(config.data, command.data_dir, command.families) is None
    if follows or (at_hand and command.address is None):
        with naming_recipe(prepared.origins):
            data = open_for(config, command.data_dir, command.families)
            if problems := config.data_problems(data.facts):
                raise TroupeError(problems, USAGE)
        config = config.finalize(data.facts)
        initial_weights.refuse_unfit(
            prepared.weights, command.init_from, prepared.family, command.families, config, data.facts
        )
    resolved: dict[str, Any] = {"family": prepared.family, "folder": str(folder)}
    resolved["memory"] = _memory(config, prepared.family, data, command)
    resolved["settings"] = plain(config.model_dump())
    resolved["origins"] = _origins(prepared, config)
    if prepared.recipe is not None:
        resolved["recipe"] = prepared.recipe
    if config.schedule != "constant" or config.warmup > 0:
        course = schedules.of(config, 1.0)
        rows = [course(round(config.steps * index / 60), ()) for index in range(60)]
        resolved["schedule"] = [row["lr"] for row in rows]
        if len({row.get("momentum") for row in rows}) > 1:
            resolved["momentum"] = [row["momentum"] for row in rows]
    if remarks := [*prepared.notes, *config.warnings()]:
        resolved["warnings"] = remarks
    return resolved
