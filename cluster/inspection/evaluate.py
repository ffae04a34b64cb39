"""Evaluate a run or given weights: the family's own evaluation over all held-out samples, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cluster.host import requirements
from cluster.requests.models import EvaluateRequest
from cluster.terminal.progress import verdict_lines
from cluster.training.initial_weights import source_run_of
from cluster.training.launch_run import alone
from trainers.base.errors import CONFLICT, ENDS, ENVIRONMENT, USAGE, TroupeError
from trainers.base.problems import Problem
from trainers.data import sources
from trainers.families import registry
from trainers.run import open_for
from trainers.run_folders import run_folder
from trainers.runtime.global_state import with_default_globals
from trainers.settings.config import MISFIT, NOTHING, NOTHING_HELD_OUT, Config
from trainers.storage import checkpoint

TRAINED_ON = "learned-from"  # problem code: the run learned from these samples
ALL = "all"  # evaluate_on=all: every sample of the data; for evaluations only


class PreparedEvaluation(NamedTuple):
    """An evaluation that can start."""

    family: str
    config: Config
    weights: Path
    source_run: Mapping[str, Any]  # data, settings and facts of the run of the weights; empty if unknown
    notes: tuple[str, ...] = ()  # for the user, about the run's folder
    part: str = "test"  # of the data: test, validation, or all of it
    newest: bool = False  # evaluate the newest checkpoint of a run


class _Weights(NamedTuple):
    """The weights to evaluate, and what is known of their run."""

    family: str
    weights: Path | None  # None: a problem says why
    source_run: Mapping[str, Any] = {}
    settings: Mapping[str, Any] = {}  # taken over from the run
    newest: bool = False


def prepare_evaluate(command: EvaluateRequest) -> PreparedEvaluation:
    """Family, settings and path of the weights. Raises TroupeError with all problems of the command."""
    problems: list[Problem] = []
    notes: list[str] = []
    if command.name in registry.families(command.families):
        source = _find_weights(command, problems)
    else:
        source = _find_run(command, problems, notes)
    kind = registry.class_of_run({**source.source_run, "family": source.family}, command.name, command.families)
    old = kind.stored(source.settings)
    given = {**command.settings, **({"evaluate_on": "test"} if command.settings.get("evaluate_on") == ALL else {})}
    config, wrong = kind.from_words({**old, "device": "cpu", "target": "none", **given}, source.family)
    problems += wrong
    if not kind.metrics:
        problems.append(Problem(NOTHING, source.family, "evaluates nothing", "`troupe sample` draws samples"))
    if config is not None and (problem := sources.check_source_name(config.data, command.families, kind.input_kind)):
        problems.append(problem)
    if problems:
        raise TroupeError(problems, USAGE)
    assert config is not None
    assert source.weights is not None
    settled = config.model_copy(update=requirements.resolve(config, own_machine=True))
    notes += requirements.no_gpu(config, settled)
    part = str(command.settings.get("evaluate_on", config.evaluate_on))
    return PreparedEvaluation(
        source.family, settled, source.weights, source.source_run, tuple(notes), part, source.newest
    )


def _find_run(command: EvaluateRequest, problems: list[Problem], notes: list[str]) -> _Weights:
    """The newest checkpoint of the run that the command names. Raises TroupeError if there is none."""
    if command.weights is not None and not (command.runs / command.name).exists():
        registry.config_class(command.name, command.families)  # raises if there is no such family
    folder = run_folder.find_run(command.runs, command.name)
    if command.weights is not None:
        hint = f"{command.name} is a run and has its own weights"
        problems.append(Problem("settings-conflict", "--weights", "is for a family", hint, str(command.weights)))
    stored = folder.read_settings(notes.append)
    weights = _newest(folder.checkpoints, folder.name)
    return _Weights(stored["family"], weights, stored, stored["settings"], newest=True)


def _find_weights(command: EvaluateRequest, problems: list[Problem]) -> _Weights:
    """The weights that `--weights` gives for a family: a file, or the folder of a run or of a checkpoint."""
    family, weights = command.name, command.weights
    if weights is None:
        problems.append(Problem("missing", family, "requires --weights PATH, or name a run instead of a family"))
        return _Weights(family, None)
    if not weights.exists():
        problems.append(Problem("missing-file", "--weights", "no such file", value=str(weights)))
        return _Weights(family, None)
    is_run = (weights / "checkpoints").is_dir()
    if is_run:
        weights = _newest(weights / "checkpoints", "--weights", str(weights))
    return _Weights(family, weights, source_run_of(weights), newest=is_run)


def _newest(checkpoints: Path, about: str, given: str | None = None) -> Path:
    """A run's newest checkpoint. Raises TroupeError (exit code 4) if none is complete."""
    newest = checkpoint.newest_intact(checkpoints)
    if newest is None:
        raise TroupeError(Problem("no-checkpoint", about, "it has no complete checkpoint", value=given), CONFLICT)
    return newest


def compared(
    source_run: Mapping[str, Any], config: Config, data: Any, part: str
) -> tuple[bool, list[Problem], list[str]]:
    """Whether the weights certainly never saw the samples to evaluate on; problems that forbid it; and other notes.

    Samples are the same if source, size and fingerprint are; a part is held out if the run did not learn from it.
    """
    if not source_run:
        return False, [], ["the training data of these weights is unknown: they may have seen the samples"]
    settings, name = source_run["settings"], config.data
    problems = list[Problem]()
    their_classes, our_classes = (list(facts.get("class_names", ())) for facts in (source_run["facts"], data.facts))
    if their_classes != our_classes:
        listing = " and ".join(
            ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") for names in (their_classes, our_classes)
        )
        reason = f"classes differ from those the run learned ({listing}): their numbers would be mixed up"
        problems.append(Problem(MISFIT, "data", reason, value=name))
    same = source_run["data"] == data.fingerprint
    if same or name == settings.get("data"):
        if part == ALL:
            reason, hint = "the run learned from some of these samples", "omit it, or name other samples with data="
            problems.append(Problem(TRAINED_ON, "evaluate_on", reason, hint, ALL))
        elif (part, settings.get("evaluate_on")) == ("validation", "test") and not data.facts.get("own_validation"):
            reason = "the run learned from these samples, as it held out the test part"
            problems.append(Problem(TRAINED_ON, "evaluate_on", reason, "leave it out", part))
    notes = _doubts(source_run, name, data, part)
    return same and not notes, problems, notes


def _doubts(source_run: Mapping[str, Any], name: str, data: Any, part: str) -> list[str]:
    """Reasons why the run may have seen some of these samples."""
    before, size, notes = source_run["settings"].get("data"), source_run["facts"].get("image_size"), list[str]()
    if source_run.get("from"):
        notes.append(f"the run started from the weights of {source_run['from']}, which may have seen these samples")
    if source_run.get("learned_before"):
        notes.append("the run learned from other samples earlier and may have seen these")
    if part != ALL and (count := data.facts.get("learned_too")):
        notes.append(f"{count} images to evaluate on are also training images")
    if source_run["data"] == data.fingerprint:
        return notes
    if name != before:
        notes.append(f"the run learned from data={before}; it is unknown whether it saw some of these")
    elif data.facts.get("image_size") != size:
        notes.append(f"the run learned at image_size={size}; its images are not compared with these")
    else:
        notes.append(f"data={name} has changed since the run learned from it; it may have seen some of these")
    return notes


def evaluate(command: EvaluateRequest, shows: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """Metrics over the held-out samples; figures of them are written into `out`, if given.

    `shows` receives short progress texts.
    """
    return _evaluated(command, prepare_evaluate(command), shows)


@with_default_globals
def _evaluated(command: EvaluateRequest, prepared: PreparedEvaluation, shows: Callable[[str], None]) -> dict[str, Any]:
    config = prepared.config
    data = _open_samples(command, config, prepared.part)
    held_out, problems, notes = compared(prepared.source_run, config, data, prepared.part)
    if problems:
        raise TroupeError(problems, CONFLICT)

    from trainers.distributed.process_group import World
    from trainers.engine import inference
    from trainers.engine.control import Control
    from trainers.engine.loop import torch_runtime
    from trainers.engine.trainer import Trainer
    from trainers.storage.tensors import load_weights, read_weights

    config = config.finalize(data.facts).model_copy(update={"grad_sync": "exact", "ema": 0.0})
    with (
        alone(),
        torch_runtime(prepared.config),
    ):  # with the run's own `grad_sync`: what was trained can be evaluated
        family = registry.family_class(prepared.family, command.families)(config, data.facts)
        trainer = Trainer(family, data, config, World(), Control(on_activity=shows))
        trainer.setup()
        about, value = ("--weights", str(prepared.weights)) if command.weights else (command.name, None)
        names, weights_path = tuple(trainer.networks), prepared.weights
        newer = None
        if prepared.newest:  # a running run may have written a newer one since
            newer = checkpoint.read_newest(weights_path.parent, lambda path: read_weights(path, names, ema=True))
        weights_path, weights = newer or (weights_path, read_weights(weights_path, names, ema=True))
        load_weights(trainer.networks, weights, about, value)
        if "kept" in weights:
            trainer.set_buffers(weights["kept"])
        inference.evaluate_held_out(trainer)
        trainer.close()
    result: dict[str, Any] = {
        "name": command.name,
        "weights": str(weights_path),
        "data": config.data,
        "split": prepared.part,
        "samples": config.num_held_out(data.facts),
        "held_out": held_out,
        "notes": [*prepared.notes, *notes],
        "metrics": dict(trainer.evaluation.results),
        "pictures": [],
        "verdict": {**report, "ema": prepared.config.ema} if (report := family.details()) else None,
    }
    if command.out is not None:
        result["pictures"] = _drawn(command.out, lambda: family.pictures(trainer.evaluation, data))
    return result


def _open_samples(command: EvaluateRequest, config: Config, part: str) -> Any:
    """The data with the samples to evaluate on. Raises TroupeError (exit code 2) if there are none or they do not fit
    the settings."""
    data = open_for(config, command.data_dir, command.families)
    if part == ALL:
        if not hasattr(data, "whole"):
            reason = f"data={config.data} provides only its test part"
            raise TroupeError(Problem("settings-conflict", "evaluate_on", reason, "leave it out", ALL), USAGE)
        data = data.whole()
    for_evaluation = {"evaluate_every": "auto", "schedule": "constant"}  # otherwise the advice would be for training
    problems = config.model_copy(update=for_evaluation).data_problems(data.facts)
    if not problems and not config.num_held_out(data.facts):
        more = "" if part == ALL else ", or set evaluate_on=all, for data that the run did not learn from"
        reason, hint = config.no_held_out_reason(data.facts), f"use more samples{more}"
        problems = [Problem(NOTHING_HELD_OUT, reason=reason, hint=hint)]
    if problems:
        raise TroupeError(problems, USAGE)
    return data


def _drawn(out: Path, draw: Callable[[], Mapping[str, Any]]) -> list[str]:
    """Draw figures into a folder. Raises TroupeError (exit code 3) if they cannot be made there, for any reason."""
    from trainers.drawing.decoration import matplotlib_of_ours, not_made
    from trainers.drawing.pictures import write_named

    try:
        out.mkdir(parents=True, exist_ok=True)
        with matplotlib_of_ours():
            return [str(path) for path in write_named(out, draw())]
    except (TroupeError, *ENDS):
        raise
    except BaseException as error:
        problem = not_made("--out", error)
        if isinstance(error, OSError) and error.strerror:
            problem = Problem("not-written", "--out", f"cannot be written ({error.strerror})")
        raise TroupeError(replace(problem, value=str(out)), ENVIRONMENT) from error


def text_of_evaluation(result: Mapping[str, Any]) -> str:
    """The metrics, one line each."""
    part = "samples, all of them" if result["split"] == ALL else f"samples of its {result['split']} part"
    what = "held-out samples" if result["held_out"] else part
    lines = [f"{result['name']}: {result['samples']} {what}, data={result['data']}"]
    if result["verdict"]:
        lines += verdict_lines(result["verdict"])
    else:
        lines += [f"  {key:<14} {value:.4f}" for key, value in result["metrics"].items()]
    lines += [f"  {picture}" for picture in result["pictures"]]
    return "\n".join([*lines, *(f"  note: {note}" for note in result["notes"])])
