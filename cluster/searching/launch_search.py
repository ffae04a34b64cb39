"""A search from command to result."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.host import hardware
from cluster.host.ray_environment import search_path
from cluster.host.signals import deferred
from cluster.ranking import confirmation
from cluster.ranking.leaderboard import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    NO_METRIC,
    OPEN,
    WAITING,
    Search,
    StopReason,
    TrialRecord,
)
from cluster.requests.models import SearchRequest, TrainRequest
from cluster.searching import samplers
from cluster.searching.prepare_search import PreparedSearch, compare_by, prepare_search
from cluster.terminal.progress import Progress, about_trials, duration, from_here
from cluster.terminal.tables import table
from cluster.training.given_settings import name_of_recipe, naming_recipe
from trainers.base.errors import ENVIRONMENT, USAGE, Stopped, TroupeError, with_run_name
from trainers.base.errors import FAILED as RUN_FAILED
from trainers.base.paths import TRIALS
from trainers.base.problems import Problem, show_value
from trainers.run import open_for
from trainers.run_folders import bucket, creation, mirror, removal, run_folder
from trainers.run_folders.run_folder import RunFolder


def launch_search(command: SearchRequest, progress: Progress) -> dict[str, Any]:
    """Carry out a `search` command. Returns its result, with paths that can be opened from here.

    Raises TroupeError: exit code 1 if every trial failed, Stopped (130) if it was stopped.
    """
    from cluster.searching import driver
    from cluster.training.launch_run import alone

    prepared = prepare_search(command)
    command = command.replaced(
        families=tuple(map(Path, prepared.terms["families"]))
    )  # need not be repeated on a resume
    for note in prepared.notes:
        progress.notify(note)
    with alone(), _locked_folder(command, prepared) as search:
        if command.retry_failed:
            _retry_failed(search)
        sending = mirror.Mirror(search.path, progress.notify)
        try:
            sending.flush()  # from now on it can be resumed elsewhere
            ended = driver.drive(search, prepared, command, progress)
            sending.flush()
        finally:
            sending.end()
    _check_outcome(search, ended.stops)
    if over := ended.stops.get(StopReason.TIME_BUDGET):
        progress.notify(f"{search.name}: {over}; {_resume(search)}")
    if command.retrain_best and search.ranked():
        _final(search, prepared, command, progress)
    return result_of(search)


@contextlib.contextmanager
def _locked_folder(command: SearchRequest, prepared: PreparedSearch) -> Iterator[Search]:
    """Lock the folder of a search; a new one is removed after an error before its first trial."""
    search = prepared.search
    with contextlib.ExitStack() as stack:
        try:
            if search is None:
                with deferred():
                    search = _new_folder(command, prepared)
            stack.enter_context(search.lock())
            yield search
        except BaseException as error:
            if search is not None and prepared.search is None and not any((search.path / TRIALS).iterdir()):
                with contextlib.suppress(TroupeError):  # frees the name
                    removal.discard(search.path, bucket.bucket_of_run(search.path))
            if search is not None and isinstance(error, TroupeError):
                with_run_name(error, search.name, search.path.exists())
            raise


def _retry_failed(search: Search) -> None:
    for trial in search.trials:
        if trial.state == FAILED:
            trial.state, trial.reason, trial.code = WAITING, "", ""
            trial.value = trial.best = None


def _resume(search: Search) -> str:
    return f"resume with `troupe search --resume {search.name}`"


def _check_outcome(search: Search, stops: Mapping[StopReason, str]) -> None:
    """Raise TroupeError if a search has not finished, or all of its trials failed."""
    match min(stops, default=None):
        case StopReason.DISK_FULL as stop:
            problem = Problem("no-space", search.name, stops[stop], f"free some space, then {_resume(search)}")
            raise TroupeError(problem, ENVIRONMENT)
        case StopReason.NO_METRIC as stop:
            raise TroupeError(Problem(NO_METRIC, search.name, stops[stop]), RUN_FAILED)
        case StopReason.REQUESTED as stop:
            raise Stopped(Problem("stopped", search.name, stops[stop], _resume(search)))
    failed = [trial for trial in search.trials if trial.state == FAILED]
    if search.trials and len(failed) == len(search.trials):
        reason = f"all {len(failed)} trials failed; the first: {failed[0].reason}"
        raise TroupeError(Problem("trials-failed", search.name, reason), RUN_FAILED)
    if lost := [trial for trial in search.trials if trial.state == INTERRUPTED and trial.reason]:
        more = f"; {len(lost) - 1} more" if len(lost) > 1 else ""
        reason = f"{lost[0].name} was interrupted: {lost[0].reason}{more}"
        raise TroupeError(Problem(lost[0].code or "lost", search.name, reason, _resume(search)), ENVIRONMENT)


def result_of(search: Search) -> dict[str, Any]:
    """The result of a search: its points, the best first, and the trials of each."""
    found, points = confirmation.standing(search), []
    for point in search.points():
        trials = [
            {
                "name": f"{search.name}/{trial.name}",
                "state": trial.state,
                "value": trial.value,
                "step": trial.step,
                "steps": trial.steps,
                "best": trial.best,
                "seconds": round(trial.seconds, 1),
                "settings": trial.settings,
                "fresh": trial.fresh,
                "reason": trial.reason,
                "code": trial.code,
                "clones": trial.clones,
            }
            for trial in [*point.trials, *point.fresh]
        ]
        points.append(
            {
                "settings": point.settings,
                "mean": point.mean,
                "spread": point.spread,
                "values": len(point.values),
                "first": point.first,
                "vs_best": found.of(point),
                "trials": trials,
            }
        )
    return {
        "name": search.name,
        "family": search.terms["family"],
        "folder": str(search.path),
        "metric": search.terms["metric"],
        "mode": search.terms["mode"],
        "seconds": search.terms["seconds"],
        "points": points,
        "comparison": confirmation.comparison_of(search, found),
        "failed": sum(trial.state == FAILED for trial in search.trials),
        "final": search.terms.get("final"),
    }


def text_of_search(result: Mapping[str, Any], most: int = 10) -> str:
    """The best points of a result, as text."""
    points = result["points"]
    count = "1 point" if len(points) == 1 else f"{len(points)} points"
    lines = [f"{result['name']}: {count} in {duration(result['seconds'])}, the best first", ""]
    lines.append(table([_row(point, result) for point in points[:most]]))
    if len(points) > most:
        lines.append(f"{len(points) - most} more in leaderboard.csv")
    lines += ["", *confirmation.in_words(result["name"], result["comparison"])]
    if result["failed"]:
        reasons = {
            trial["reason"]: trial["name"] for point in points for trial in point["trials"] if trial["state"] == FAILED
        }
        lines += ["", f"{result['failed']} failed:", *(f"  {name}: {reason}" for reason, name in reasons.items())]
    if result["final"]:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in result["final"]["metrics"].items())
        lines += ["", f"{result['final']['run']}, {result['final']['of']} retrained: on the test part {metrics}"]
    lines += ["", *_best(result), f"  folder          {from_here(result['folder'])}"]
    return "\n".join(lines)


def _row(point: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """A point as a row of the table: its mean and spread, and for a confirmed one the value that it was chosen for."""
    first, several = point["trials"][0], any(other["spread"] is not None for other in result["points"])
    row = {"trial": first["name"] + (f" +{len(point['trials']) - 1}" if len(point["trials"]) > 1 else "")}
    row[result["metric"]] = "-" if point["mean"] is None else f"{point['mean']:.4g}"
    if several:
        row["+-"] = "" if point["spread"] is None else f"{point['spread']:.2g}"
        row["seeds"] = str(point["values"])
        row["vs best"] = point["vs_best"] or ""
    if result["comparison"]["confirmed"]:
        row["first"] = "" if point["first"] is None else f"{point['first']:.4g}"
    row["step"] = f"{first['step']}/{first['steps']}"
    row |= {name: show_value(value) for name, value in point["settings"].items()}
    return {**row, "": "" if first["state"] == FINISHED else first["state"]}


def _best(result: Mapping[str, Any]) -> list[str]:
    """The best point in one line, at the end, where it is easily seen."""
    best = next((point for point in result["points"] if point["mean"] is not None), None)
    if best is None:
        return []
    settings = " ".join(f"{name}={show_value(value)}" for name, value in best["settings"].items())
    return [f"  best            {best['trials'][0]['name']}, {result['metric']} {best['mean']:.4g}: {settings}"]


def text_of_dry_run(expected: Mapping[str, Any]) -> list[str]:
    """What a search would do, as text."""
    trials = expected["trials"]
    texts = [" ".join(f"{name}={show_value(value)}" for name, value in trial.items()) for trial in trials]
    lines = [*expected["lines"], ""]
    lines += [f"{number:04d}  {line}" for number, line in enumerate(texts, 1)]
    fixed = " ".join(f"{name}={show_value(value)}" for name, value in expected["fixed"].items())
    return [*lines, *([] if texts else ["optuna chooses each trial after earlier ones have ended"]), f"all: {fixed}"]


def _new_folder(command: SearchRequest, prepared: PreparedSearch) -> Search:
    """Create the folder of a new search, with all trials that are known before it starts."""
    terms, runs = prepared.terms, command.runs
    remote = bucket.bucket_for(runs)
    taken = remote.names() if remote is not None else ()

    search = Search(runs, terms)
    samplers.fill(search, prepared.space)

    def make(path: Path) -> None:
        (path / TRIALS).mkdir()
        search.path = path
        search.write(lasting=True)

    path = creation.create_atomically(runs, f"{terms['family']}-search", command.name, taken, make)
    if path is None:
        raise run_folder.in_use(runs, str(command.name))
    search.path = path.resolve()
    return search


def _final(search: Search, prepared: PreparedSearch, command: SearchRequest, progress: Progress) -> None:
    """Retrain the best point on the complete training part, and evaluate it once on the test part."""
    from cluster.training.launch_run import launch

    best = next(point for point in search.points() if point.mean is not None).trials[0]
    settings = {**search.terms["fixed"], **best.settings, "evaluate_on": "test"}
    name = _name_of_final(search, best, command.runs)
    progress.notify(
        f"{name}: retraining {search.name}/{best.name} on the complete training part, evaluated on the test part"
    )
    resumes = (command.runs / name / "settings.json").exists()
    result = launch(
        TrainRequest(
            family=None if resumes else search.terms["family"],
            settings={} if resumes else settings,
            name=None if resumes else name,
            resume=name if resumes else None,
            recipe=None if resumes else name_of_recipe(search.terms.get("recipe"), command.families),
            address=command.address,
            runs=command.runs,
            data_dir=command.data_dir,
            families=command.families,
        ),
        progress,
    )
    metrics = {key: value for key, value in result["metrics"].items() if key.startswith("eval_")}
    search.terms["final"] = {"run": name, "of": f"{search.name}/{best.name}", "metrics": metrics}
    search.write(lasting=True)
    if remote := bucket.bucket_of_run(search.path):
        mirror.retry(lambda: remote.send(search.path))


def _name_of_final(search: Search, best: TrialRecord, runs: Path) -> str:
    """The run that retrains this trial, or a free name: an earlier one may have retrained another."""
    count, name = 1, f"{search.name}-final"
    while True:
        bucket.fetch_runs(runs, [name], checkpoints=True)
        folder = RunFolder(runs / name)
        stored = folder.read_settings()["settings"] if folder.settings.exists() else best.settings
        if all(show_value(stored.get(key)) == show_value(value) for key, value in best.settings.items()):
            return name
        count += 1
        name = f"{search.name}-final-{count}"


def dry_run_of_search(command: SearchRequest) -> dict[str, Any]:
    """The trials of a search, how many run at once and why, and the expected time of one; nothing is kept."""
    from cluster.searching import driver

    prepared = prepare_search(command)
    command = command.replaced(families=tuple(map(Path, prepared.terms["families"])))
    terms, search = prepared.terms, prepared.search
    if search is None:
        name = command.name or run_folder.next_name(command.runs, f"{terms['family']}-search")
        search = Search(command.runs / name, terms)
        samplers.fill(search, prepared.space)
    config = prepared.config
    each = driver.takes(search, config)
    with naming_recipe(prepared.origins):
        facts = open_for(config, command.data_dir, command.families).facts
    lines = [*prepared.notes, *filter(None, [compare_by(terms, command, config, facts)])]
    remaining = [trial for trial in search.trials if trial.state in OPEN]
    count = len(remaining) if prepared.search is not None else search.requested
    if command.address is None:
        room = driver.rooms(each, config.workers, [{"CPU": hardware.cores(), "GPU": hardware.gpus()}])
        at_once = max(1, min(room, count, terms["max_concurrent"] or room))
        lines.append(about_trials(terms, at_once, each, config.workers, room))
    else:
        at_once = 1
        lines.append(f"how many trials run at once depends on the cluster at {command.address}; each takes {each}")
    first = remaining[0].settings if remaining else {}
    seconds, steps, measured = _expected(prepared, {**terms["fixed"], **first}, command)
    lines.append(
        f"a trial has {steps} steps; measured over {measured} steps: about {duration(seconds)} each without "
        f"evaluations, {duration(seconds * count / at_once)} for all of them"
        + (" at most" if terms["scheduler"] == "asha" else "")
    )
    if confirmed := terms.get("confirmation"):
        most = confirmed["points"] * confirmed["most_seeds"]
        lines.append(
            f"then the best {confirmed['points']} points again, each with at most {confirmed['most_seeds']} fresh "
            f"seeds: {most} more trials, {duration(seconds * most / at_once)}, at most"
        )
    values = config.model_dump()
    return {
        **terms,
        "fixed": {name: values[name] for name in terms["fixed"]},
        "name": search.name,
        "concurrent_trials": at_once,
        "trials": [trial.settings for trial in remaining],
        "lines": lines,
        "seconds_of_a_trial": round(seconds, 1),
        "steps_of_a_trial": steps,
    }


def _expected(prepared: PreparedSearch, settings: Mapping[str, Any], command: SearchRequest) -> tuple[float, int, int]:
    """Expected seconds of a trial, its steps, and how many were measured: of the first trial, in a subprocess."""
    import subprocess
    import sys
    import tempfile

    from cluster.host.environment import worker_environment

    config, problems = prepared.kind.from_words(settings, prepared.terms["family"])
    if config is None:
        raise TroupeError(problems, USAGE)
    facts = open_for(config, command.data_dir, command.families).facts
    if problems := config.data_problems(facts):
        raise TroupeError(problems, USAGE)
    steps = config.finalize(facts).steps
    few = max(1, min(4, steps))
    with tempfile.TemporaryDirectory() as folder:
        probe = {**settings, "steps": few, "evaluate_every": 0, "log_every": 1, "sample_every": 10**6, "target": "none"}
        probe.pop("epochs", None)
        if probe.get("schedule") == "plateau":
            probe["schedule"] = "constant"
        call = ["train", prepared.terms["family"], *(f"{name}={show_value(value)}" for name, value in probe.items())]
        call += ["--runs-dir", folder, "--data-dir", str(command.data_dir), "--name", "probe", "--json"]
        for path in command.families:
            call += ["--families", str(path)]
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *call],
            capture_output=True,
            text=True,
            env={**os.environ, **worker_environment(), **search_path()},
        )
        if done.returncode:
            code, why = _why(done.stdout, done.stderr)
            raise TroupeError(Problem(code, reason=f"the first trial cannot be trained: {why}"), RUN_FAILED)
        rows = RunFolder(Path(folder) / "probe").read_metrics()[0]
    metric, available = prepared.terms["metric"], sorted({name for row in rows for name in row} - {"step", "seconds"})
    if metric not in [*available, *(f"eval_{name}" for name in config.metrics)]:
        reason, hint = "no row of training has it", f"available: {', '.join(available)}"
        raise TroupeError(Problem("unknown-metric", "--metric", reason, hint, metric), USAGE)
    times = [0.0, *(float(row["seconds"]) for row in rows if "samples_per_second" in row)]
    later = [after - before for before, after in itertools.pairwise(times[1:])] or [times[-1]]
    return sum(later) / len(later) * steps, steps, few


def _why(answered: str, printed: str) -> tuple[str, str]:
    """Why a command with `--json` failed: a code and a sentence; if it crashed, the last line that it printed."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        last = json.loads(answered)["errors"][-1]
        return str(last["code"]), str(last["text"])
    return "lost", (printed.strip().splitlines() or ["no reason was reported"])[-1]
