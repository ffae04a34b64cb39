"""Check every argument of a `search` command before anything is created or started."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.host import requirements
from cluster.ranking import confirmation, leaderboard
from cluster.ranking.confirmation import MOST_SEEDS
from cluster.ranking.leaderboard import OPEN, POPULATION, Search, Terms
from cluster.requests.models import SearchRequest
from cluster.searching import space
from cluster.searching.space import Range, Space, SpaceFile
from cluster.training.given_settings import GivenSettings, read_given
from trainers.base import old_names
from trainers.base.errors import CONFLICT, ENVIRONMENT, USAGE, TroupeError, did_you_mean
from trainers.base.problems import Problem, attributed, show_value
from trainers.data import sources
from trainers.families import registry
from trainers.run_folders import creation, run_folder
from trainers.settings.config import NOTHING, NOTHING_HELD_OUT, Config

TRIES = 100  # draws before the space counts as having no possible point
TRIALS_AT_MOST = 20  # points by default
BUDGET_OPTIONS = ("trials", "scheduler")  # in the budget of a space; all others are settings
SCHEDULERS = ("fifo", "asha", "pbt", "pb2")
ALGORITHMS = ("random", "grid", "optuna")
TRIALS_LIMIT = 100_000  # of a space

UNEQUAL = (
    "asha can stop a point with one seed and not with another; its mean is then over unequal numbers of steps "
    "(--scheduler fifo completes all trials)"
)


@dataclass
class PreparedSearch:
    """A search that can start."""

    kind: type[Config]
    space: Space
    terms: Terms  # stored in search.json
    config: Config  # of its first point, for what is the same in all
    search: Search | None  # the one to resume
    notes: list[str]
    origins: Mapping[str, str] = field(default_factory=dict)  # of the given settings


@dataclass(frozen=True)
class SearchInputs:
    """A command with the contents of the files that it names."""

    command: SearchRequest
    family: str
    kind: type[Config]
    given_settings: GivenSettings
    file: SpaceFile

    @property
    def given(self) -> dict[str, Any]:
        """The settings of the command, of its settings file and of its recipe, whose place a file of a space takes."""
        given = self.given_settings
        return {
            name: value
            for name, value in given.values.items()
            if name in given.overriding or name not in self.file.settings
        }

    @property
    def settings(self) -> dict[str, Any]:
        """The given settings and, for others, the defaults of a search."""
        lengths = {"steps", "epochs"} if self.given.keys() & {"steps", "epochs"} else set()
        of_file = {name: value for name, value in self.file.budget.items() if name not in (*BUDGET_OPTIONS, *lengths)}
        return {"evaluate_on": "validation", "keep_checkpoints": "1", **of_file, **self.given}


@dataclass(frozen=True)
class Strategy:
    """How the points of a space are chosen, and which of their trials are stopped early."""

    scheduler: str
    algorithm: str
    trials: int  # points at most

    def points(self, where: Space) -> int:
        """How many points are tried: all of a grid; otherwise `trials`, but no more than there are."""
        if where.points is None or self.algorithm == "optuna" or self.scheduler in POPULATION:
            return self.trials
        return where.points if self.algorithm == "grid" else min(self.trials, where.points)


def prepare_search(command: SearchRequest) -> PreparedSearch:
    """Check every argument. Raises TroupeError: exit code 2 with all that is wrong first, then 3, then 4."""
    if command.resume is not None:
        return _prepare_resumed(command)
    problems: list[Problem] = []
    notes: list[str] = []
    request = _read_request(command, problems, notes)
    where = _read_space(request, problems)
    if where is not None and request.given_settings.recipe is not None:
        where = _as_recipe(request, where)
    problems += _wrong_data(request)
    metric = _read_metric(request, problems)
    strategy = _choose_strategy(request, where, problems)
    if problems or where is None or strategy is None:
        raise TroupeError(problems, USAGE)
    first, wrong = _possible(request.kind, request.family, where, random.Random(command.search_seed))
    if first is None:
        none = Problem("settings-conflict", reason="no point of the space is valid:")
        raise TroupeError([none, *wrong], USAGE)
    config, remarks = _fit_machine(first, command)
    terms = _terms(request, where, metric, strategy)
    if command.confirm is not None:
        most = command.confirm_seeds or MOST_SEEDS
        terms["confirmation"] = {"points": command.confirm, "most_seeds": most, "chosen": []}
    if command.name is not None and creation.is_taken(command.runs / command.name):
        raise run_folder.in_use(command.runs, command.name)
    notes += [*remarks, *_notes(request, where, terms)]
    if (record := request.given_settings.record(first, where.fixed)) is not None:
        searched = [*where.domains, *(["seed"] if where.seeds else [])]
        own = {name: value for name, value in record["changed"].items() if name not in searched}
        terms["recipe"] = {**record, "changed": own}
    return PreparedSearch(request.kind, where, terms, config, None, notes, request.given_settings.origins)


def _read_request(command: SearchRequest, problems: list[Problem], notes: list[str]) -> SearchInputs:
    """Read the files that a command names. Raises TroupeError (exit code 2) with all problems so far if its family is
    unknown."""
    family, given = read_given(command, problems, notes)
    if family is None:
        if not problems:  # else the unreadable file may name it
            reason = "needs a family, as in `troupe search wgan_gp n_critic=1,2,5`, or --resume NAME"
            problems.append(Problem("missing", "search", reason))
        raise TroupeError(problems, USAGE)
    problems += _wrong_options(command)
    try:
        kind = registry.config_class(family, command.families)
    except TroupeError as error:
        raise TroupeError([*problems, *error.problems], USAGE) from None
    try:
        chosen = "none" if command.space is None and given.recipe is not None else command.space
        file = space.module_of(family, chosen, command.families)
    except TroupeError as error:
        file = space.NO_FILE
        problems += error.problems
    given, renamed = given.with_current_names(kind)
    space_settings, renamed_in_space = old_names.of_file(file.settings, kind.model_fields, file.source)
    budget, renamed_in_budget = old_names.of_file(file.budget, kind.model_fields, file.source)
    notes += [*renamed, *renamed_in_space, *renamed_in_budget]
    file = file._replace(settings=space_settings, budget=budget)
    return SearchInputs(command, family, kind, given, file)


def _wrong_options(command: SearchRequest) -> list[Problem]:
    problems = []
    for option, value, known in (
        ("--scheduler", command.scheduler, SCHEDULERS),
        ("--algorithm", command.algorithm, ALGORITHMS),
        ("--mode", command.mode, ("max", "min")),
    ):
        if value is not None and value not in known:
            reason = f"is not one of {', '.join(known)}"
            problems.append(Problem("bad-value", option, reason, did_you_mean(value, known), value))
    if command.name is not None and (problem := run_folder.check_run_name(command.name)):
        problems.append(problem)
    return problems


def _read_space(request: SearchInputs, problems: list[Problem]) -> Space | None:
    unread = bool(problems)  # the unreadable file may hold what to search
    file = request.file
    where, wrong = space.read_space(request.kind, request.family, request.settings, file.settings, file.source)
    found = [one for one in wrong if not (unread and one.code == space.NOTHING)]
    problems += map(request.given_settings.sourced, found)
    return where


def _as_recipe(request: SearchInputs, where: Space) -> Space:
    """The space with the recipe's own split to evaluate on if only seeds differ: trials repeat what `train` does."""
    if where.domains or "evaluate_on" in request.given:
        return where
    return replace(where, fixed={name: value for name, value in where.fixed.items() if name != "evaluate_on"})


def _wrong_data(request: SearchInputs) -> list[Problem]:
    command, kind = request.command, request.kind
    data = str(request.given.get("data", kind.model_fields["data"].get_default()))
    try:
        problem = sources.check_source_name(data, command.families, kind.input_kind, not command.runs_remotely)
    except TroupeError as error:
        return error.problems
    return [request.given_settings.sourced(problem)] if problem else []


def _choose_strategy(request: SearchInputs, where: Space | None, problems: list[Problem]) -> Strategy | None:
    """From the options of the command, else from the file of the space; None if there is no space."""
    command, budget, source = request.command, request.file.budget, request.file.source
    scheduler = command.scheduler or str(budget.get("scheduler", "fifo"))
    if scheduler not in SCHEDULERS and command.scheduler is None:
        reason = f"{scheduler} in {source}; is not one of {', '.join(SCHEDULERS)}"
        problems.append(Problem("bad-value", "scheduler", reason, did_you_mean(scheduler, SCHEDULERS)))
    most = budget.get("trials", TRIALS_AT_MOST)
    if type(most) is not int:
        reason = f"{most!r:.60} in {source}; must be a whole number"
        problems.append(Problem("bad-value", "trials", reason))
        most = TRIALS_AT_MOST
    trials = command.trials or most
    if not 1 <= trials <= TRIALS_LIMIT:
        reason = f"{trials} in {source}; must be at least 1, at most {TRIALS_LIMIT}"
        problems.append(Problem("bad-value", "trials", reason))
    if where is None:
        return None
    few = where.points is not None and where.points <= trials and scheduler not in POPULATION
    default = "grid" if few else "random"
    strategy = Strategy(scheduler, default if command.algorithm is None else command.algorithm, trials)
    problems += _conflicts(where, strategy, command)
    if command.confirm is not None:
        problems += _cannot_confirm(command.confirm, scheduler, strategy.points(where))
    return strategy


def _terms(request: SearchInputs, where: Space, metric: str, strategy: Strategy) -> Terms:
    command = request.command
    mode = request.kind.metrics.get(metric.removeprefix("eval_"), "max" if "accuracy" in metric else "min")
    return {
        "family": request.family,
        "metric": metric,
        "mode": command.mode or mode,
        "scheduler": strategy.scheduler,
        "algorithm": strategy.algorithm,
        "seed": command.search_seed,
        "points": strategy.points(where),
        "seeds": list(where.seeds),
        "space": {name: str(domain) for name, domain in where.domains.items()},
        "source": where.source,
        "fixed": {name: show_value(value) for name, value in where.fixed.items()},
        "families": [str(path) for path in command.families],
        "seconds": 0.0,
        "max_concurrent": command.max_concurrent,
        "trials_per_gpu": command.trials_per_gpu,
        "keep_best": command.keep_best,
    }


def _prepare_resumed(command: SearchRequest) -> PreparedSearch:
    """A resumed search, with the settings that it was started with."""
    search = _find_resumed(command)
    terms = search.terms
    families = command.families or tuple(map(Path, terms["families"]))
    kind = registry.config_class(terms["family"], families)
    _with_own_names(search, kind)
    seeds = {"seed": ",".join(map(str, terms["seeds"]))} if terms["seeds"] else {}
    where, wrong = space.read_space(kind, terms["family"], {**terms["fixed"], **terms["space"], **seeds}, {}, "")
    if where is None:
        raise TroupeError(wrong, CONFLICT)
    first, wrong = _possible(kind, terms["family"], where, random.Random(terms["seed"]))
    if first is None:
        raise TroupeError(wrong, CONFLICT)
    config, remarks = _fit_machine(first, command)
    if command.max_concurrent is not None:
        terms["max_concurrent"] = command.max_concurrent
    if command.keep_best is not None:
        terms["keep_best"] = command.keep_best
    terms["families"] = [str(path) for path in families]
    if command.confirm is not None:
        _confirm_resumed(command, command.confirm, search)
    remaining = [trial for trial in search.trials if trial.state in OPEN]
    note = f"{search.name}: resuming with {len(remaining)} of {len(search.trials)} trials"
    return PreparedSearch(kind, where, terms, config, search, [*remarks, note])


def _confirm_resumed(command: SearchRequest, points: int, search: Search) -> None:
    """Have a resumed search confirmed. Raises TroupeError (exit code 2) if it cannot be, or confirms other points."""
    terms, asked = search.terms, search.terms.get("confirmation")
    problems = _cannot_confirm(points, terms["scheduler"], terms["points"])
    if asked is not None and asked["chosen"] and points != asked["points"]:
        reason, hint = f"{search.name} confirms {asked['points']} points", f"use --confirm {asked['points']}"
        problems.append(Problem("settings-conflict", "--confirm", reason, hint, points))
    if asked is not None and command.confirm_seeds is not None and command.confirm_seeds < asked["most_seeds"]:
        reason, hint = f"{search.name} takes up to {asked['most_seeds']}", "use as many, or more"
        problems.append(Problem("settings-conflict", "--confirm-seeds", reason, hint, command.confirm_seeds))
    ended = len(search.points()) >= terms["points"] and all(trial.state not in OPEN for trial in search.trials)
    complete = len(confirmation.complete_points(search))
    if ended and not command.retry_failed and complete < 2:
        reason = f"{search.name} completed {complete} point{'s' * (complete != 1)} with a value"
        problems.append(Problem("too-few-points", "--confirm", reason, "at least 2 are compared", points))
    if problems:
        raise TroupeError(problems, USAGE)
    most = command.confirm_seeds or (asked["most_seeds"] if asked is not None else MOST_SEEDS)
    chosen = asked["chosen"] if asked is not None else []
    terms["confirmation"] = {"points": points, "most_seeds": most, "chosen": chosen}


def _cannot_confirm(points: int, scheduler: str, tried: int) -> list[Problem]:
    if scheduler in POPULATION:
        reason = f"trials of --scheduler {scheduler} take over weights and settings, so no point can be repeated"
        return [Problem("settings-conflict", "--confirm", reason, "leave it out", points)]
    if tried < points:
        reason = f"the search tries {tried} point{'s' * (tried != 1)}"
        return [Problem("too-few-points", "--confirm", reason, "use fewer, or search more", points)]
    return []


def _with_own_names(search: Search, kind: type[Config]) -> None:
    """Give settings and metric of a search back the names by which a custom family declares them."""
    terms, fields = search.terms, kind.model_fields
    terms["fixed"], terms["space"] = (
        old_names.own_names(terms["fixed"], fields),
        old_names.own_names(terms["space"], fields),
    )
    for trial in search.trials:
        trial.settings = old_names.own_names(trial.settings, fields)
    declared = {old_names.metric(f"eval_{name}"): f"eval_{name}" for name in kind.metrics}
    terms["metric"] = declared.get(terms["metric"], terms["metric"])


def _find_resumed(command: SearchRequest) -> Search:
    """The search to resume. Raises TroupeError (exit code 2) if there is none or the command asks for another."""
    options = ("recipe", "name", "space", "metric", "mode", "scheduler", "algorithm", "trials")
    given = [*command.settings, *(f"--{name}" for name in options if getattr(command, name) is not None)]
    reason = "--resume continues a search as it is"
    problems: list[Problem] = []
    problems += [Problem("settings-conflict", about, reason, "leave it out") for about in given]
    try:
        search = leaderboard.find_search(command.runs, str(command.resume))
    except TroupeError as error:
        if error.code != USAGE:
            raise
        raise TroupeError([*problems, *attributed(error.problems, "--resume")], USAGE) from None
    family = search.terms["family"]
    if command.family is not None and command.family != family:
        problems.append(Problem("settings-conflict", command.family, f"{search.name} searches {family}"))
    if problems:
        raise TroupeError(problems, USAGE)
    return search


def _fit_machine(first: Config, command: SearchRequest) -> tuple[Config, list[str]]:
    """A config resolved for the machine, and remarks on it. Raises TroupeError (exit code 3) for what this machine or
    the folder lacks."""
    config = first.model_copy(update=requirements.resolve(first, own_machine=not command.address))
    remarks = [] if command.address else requirements.remarks(first, config)
    missing = [] if command.address else requirements.room(config, False)
    if problem := requirements.writable(command.runs):
        missing += attributed([problem], "--runs-dir")
    if command.trials_per_gpu > 1 and config.device != "cuda":
        reason = f"device={config.device} has no GPU"
        missing.append(Problem("settings-conflict", "--trials-per-gpu", reason, "leave it out", command.trials_per_gpu))
    if missing:
        raise TroupeError(missing, ENVIRONMENT)
    return config, remarks


def _read_metric(request: SearchInputs, problems: list[Problem]) -> str:
    """The metric by which trials are compared."""
    kind, family, given = request.kind, request.family, request.command.metric
    evaluates = str(request.settings.get("evaluate_every", "auto")) != "0"
    known = [f"eval_{name}" for name in kind.metrics] if evaluates else []
    if given is None:
        if known:
            return known[0]
        why = "evaluates nothing" if evaluates else "with evaluate_every=0 evaluates nothing"
        reason, hint = f"{family} {why} by which trials could be compared", "set one, e.g. --metric loss"
        problems.append(Problem(NOTHING, reason=reason, hint=hint))
        return ""
    if not evaluates and given.startswith("eval_"):
        reason = "nothing is evaluated with evaluate_every=0"
        problems.append(Problem("settings-conflict", "--metric", reason, "omit that setting", given))
        return given
    if f"eval_{given}" in known:
        return f"eval_{given}"
    near = [name for name in known if given in name or old_names.metric(given) in (name, name.removeprefix("eval_"))]
    hint = f"did you mean {near[0]}?" if near else did_you_mean(given, [*known, *kind.metrics] if evaluates else ())
    if given not in known and (hint or given.startswith("eval_")):  # else a training metric, known with its first row
        hint = hint or f"available: {', '.join(known)}"
        problems.append(Problem("unknown-metric", "--metric", f"is not a metric of {family}", hint, given))
    return given


def compare_by(terms: Terms, command: SearchRequest, config: Config, facts: Mapping[str, Any]) -> str:
    """Check that evaluations on the data give the metric of a search. A default metric that they do not give is
    replaced by the first one that they give; returns a line that says so, else an empty text.

    Raises TroupeError (exit code 2) if they give none, or not the requested one.
    """
    given, metric = config.metrics_of(facts), terms["metric"]
    name = metric.removeprefix("eval_")
    if name == metric or name in given or name not in config.metrics:
        return ""
    if not given:
        hint = "use more samples, or set --metric to a training metric"
        raise TroupeError(Problem(NOTHING_HELD_OUT, reason=config.no_held_out_reason(facts), hint=hint), USAGE)
    notice = f"evaluations on {config.num_held_out(facts)} samples give no {metric}"
    if command.metric is not None or name != next(iter(config.metrics)):
        hint = f"available: {', '.join(f'eval_{one}' for one in given)}"
        raise TroupeError(Problem("unknown-metric", "--metric", notice, hint, metric), USAGE)
    first = next(iter(given))
    terms["metric"], terms["mode"] = f"eval_{first}", command.mode or given[first]
    return f"{notice}: comparing by {terms['metric']} ({terms['mode']}) instead"


def _conflicts(where: Space, strategy: Strategy, command: SearchRequest) -> list[Problem]:
    """Conflicts between options."""
    scheduler, algorithm, trials = strategy.scheduler, strategy.algorithm, strategy.trials
    problems: list[Problem] = []

    def wrong(option: str, value: Any, reason: str, hint: str = "") -> None:
        problems.append(Problem("settings-conflict", option, reason, hint, value))

    ranges = [name for name, domain in where.domains.items() if isinstance(domain, Range)]
    choices = [name for name in where.domains if name not in ranges]
    if algorithm == "grid" and ranges:
        hint = f"list values for a grid, as {ranges[0]}=a,b,c"
        wrong("--algorithm", "grid", f"{ranges[0]} is a range", hint)
    elif algorithm == "grid" and command.trials is not None and where.points is not None and trials < where.points:
        wrong("--trials", trials, f"the grid has {where.points} points", "omit one of them")
    if algorithm == "optuna" and not where.domains:
        wrong("--algorithm", "optuna", "there is one point, repeated with several seeds", "omit it")
    if scheduler in POPULATION:
        if where.seeds:
            wrong("--scheduler", scheduler, "its trials clone each other, regardless of seed", "set one seed")
        if algorithm != "random":
            wrong("--scheduler", scheduler, "chooses its points itself", f"omit --algorithm {algorithm}")
        if command.max_concurrent is not None:
            wrong("--max-concurrent", None, f"with --scheduler {scheduler} all trials are alive at once and take turns")
        if scheduler == "pb2" and choices:
            wrong("--scheduler", scheduler, "moves ranges only", f"{choices[0]} has choices")
    return problems


def _possible(
    kind: type[Config], family: str, where: Space, chance: random.Random
) -> tuple[Config | None, list[Problem]]:
    """The config of a valid point, or the problems of the first one drawn."""
    wrong: list[Problem] = []
    for _ in range(TRIES):
        config, problems = kind.from_words({**where.fixed, **where.draw(chance)}, family)
        if config is not None:
            return config, []
        wrong = wrong or problems
    return None, wrong


def _notes(request: SearchInputs, where: Space, terms: Terms) -> list[str]:
    """Notes for the user before the search starts."""
    searched = ", ".join(f"{name}={domain}" for name, domain in where.domains.items()) or "nothing but the seed"
    of_file = [name for name in where.domains if name not in request.given]
    notes = [
        f"searching {searched}" + (f" ({', '.join(of_file)} by {where.source})" if of_file and where.source else "")
    ]
    why = "" if request.command.metric else f", the first metric of {terms['family']}"
    part = where.fixed.get("evaluate_on")
    on = " on the validation part, not the test part (evaluate_on=validation)" if part == "validation" else ""
    notes.append(f"comparing by {terms['metric']} ({terms['mode']}){why}{on}")
    if terms["scheduler"] in POPULATION and "checkpoint_every" in request.given:
        setting = f"checkpoint_every={request.given['checkpoint_every']}"
        why = f"has no effect with --scheduler {terms['scheduler']}, whose trials save with each report"
        notes.append(f"{setting}: {why}")
    if terms["seeds"] and terms["scheduler"] == "asha":
        notes.append(UNEQUAL)
    return notes
