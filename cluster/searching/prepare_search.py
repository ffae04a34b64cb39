"""A `search` command, checked: every word of it, before anything is made or started."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.host import requirements
from cluster.searching import leaderboard, space
from cluster.searching.leaderboard import OPEN, POPULATION, Search
from cluster.training.prepare_run import read_config
from trainers.base.errors import CONFLICT, SURROUNDINGS, WORDS, TroupeError, meant
from trainers.base.paths import DATA_DIR
from trainers.base.problems import Problem, of, show_value
from trainers.data import sources
from trainers.families import registry
from trainers.run_folders import creation, run_folder
from trainers.settings.config import NOTHING, NOTHING_HELD_OUT, Config
from trainers.settings.fields import LARGEST

TRIES = 100  # draws of a point before it is said that none is possible
TRIALS_AT_MOST = 20  # points, where nobody says
SCHEDULERS = ("fifo", "asha", "pbt", "pb2")
ALGORITHMS = ("random", "grid", "optuna")
BOUNDS = {  # of the whole numbers of a search; numpy takes no larger seeds
    "trials": (1, 100_000), "seed": (0, 2**32 - 1), "max_concurrent": (1, 10_000), "trials_per_gpu": (1, 1000),
    "keep_best": (1, 100_000),
}  # fmt: skip

UNEQUAL = (
    "asha compares trials, and may stop a point with one seed and not with another; its mean is then of unequal steps "
    "(--scheduler fifo lets all go to their end)"
)


@dataclass(frozen=True)
class SearchCommand:
    """A `search` command as it was given."""

    family: str | None = None
    settings: Mapping[str, Any] | None = None
    name: str | None = None
    resume: str | None = None
    retry_failed: bool = False
    space: str | None = None
    trials: int | None = None
    metric: str | None = None
    mode: str | None = None
    scheduler: str | None = None
    algorithm: str | None = None
    seed: int = 0
    max_concurrent: int | None = None
    trials_per_gpu: int = 1
    time_budget: float | None = None  # seconds
    disk_budget: float | None = None  # bytes
    keep_best: int | None = None
    final: bool = False
    address: str | None = None
    config: Path | None = None
    runs_dir: Path = Path("runs")
    data_dir: Path = Path(DATA_DIR)
    families: tuple[Path, ...] = ()
    elsewhere: bool = False  # as in TrainCommand


@dataclass
class Prepared:
    """A search that can start."""

    kind: type[Config]
    space: space.Space
    told: dict[str, Any]  # goes into search.json
    config: Config  # of its first point, for what is the same in all of them
    found: Search | None  # one that goes on
    notes: list[str]


def prepare(command: SearchCommand) -> Prepared:
    """Check every word. Raises TroupeError: exit code 2 with all that is wrong first, then 3, then 4."""
    if command.resume is not None:
        return _prepare_again(command)
    problems = _wrong_numbers(command)
    notes: list[str] = []
    from_file = read_config(command.config, problems, notes)
    family = command.family if command.family is not None else from_file.pop("family", None)
    from_file.pop("family", None)
    if family is None:
        if not problems:  # else it may stand in what cannot be read
            reason = "needs a family, as in `troupe search wgan_gp n_critic=1,2,5`, or --resume NAME"
            problems.append(Problem("missing", "search", reason))
        raise TroupeError(problems, WORDS)
    for option, value, known in (
        ("--scheduler", command.scheduler, SCHEDULERS),
        ("--algorithm", command.algorithm, ALGORITHMS),
        ("--mode", command.mode, ("max", "min")),
    ):
        if value is not None and value not in known:
            reason = f"is none of {', '.join(known)}"
            problems.append(Problem("bad-value", option, reason, meant(value, known), value))
    if command.name is not None and (problem := run_folder.check_name(command.name)):
        problems.append(problem)
    try:
        kind = registry.config_class(family, command.families)
    except TroupeError as error:
        raise TroupeError([*problems, *error.problems], WORDS) from None
    budget: dict[str, Any] = {}
    said: dict[str, str] = {}
    source = ""
    try:
        said, budget, source = space.module_of(family, command.space, command.families)
    except TroupeError as error:
        problems += error.problems
    words = {**from_file, **(command.settings or {})}
    options = {key: budget.pop(key) for key in ("trials", "scheduler") if key in budget}
    defaults: dict[str, Any] = {"evaluate_on": "validation", "keep": "1", **budget}
    if "steps" in words or "epochs" in words:
        defaults.pop("steps", None), defaults.pop("epochs", None)
    lost = bool(problems)  # of the words, or of the file: what there is to search may stand there
    where, wrong = space.read(kind, family, {**defaults, **words}, said, source)
    problems += [one for one in wrong if not (lost and one.code == space.NOTHING)]
    data = str(words.get("data", kind.model_fields["data"].get_default()))
    try:
        problems += filter(None, [sources.check_name(data, command.families, kind.learns_from, not command.elsewhere)])
    except TroupeError as error:
        problems += error.problems
    evaluates = str({**defaults, **words}.get("evaluate_every", "auto")) != "0"
    metric, wrong_metric = _metric(kind, family, command.metric, evaluates)
    problems += [wrong_metric] if wrong_metric is not None else []
    scheduler = command.scheduler or str(options.get("scheduler", "fifo"))
    if scheduler not in SCHEDULERS and command.scheduler is None:
        reason = f"{scheduler} in {source}; is none of {', '.join(SCHEDULERS)}"
        problems.append(Problem("bad-value", "scheduler", reason, meant(scheduler, SCHEDULERS)))
    most = options.get("trials", TRIALS_AT_MOST)
    if type(most) is not int:
        reason = f"{most!r:.60} in {source}; must be a whole number"
        problems.append(Problem("bad-value", "trials", reason))
        most = TRIALS_AT_MOST
    trials = command.trials or most
    if not 1 <= trials <= BOUNDS["trials"][1]:
        reason = f"{trials} in {source}; must be at least 1, at most {BOUNDS['trials'][1]}"
        problems.append(Problem("bad-value", "trials", reason))
    algorithm = command.algorithm
    if where is not None:
        if algorithm is None:
            few = where.points is not None and where.points <= trials and scheduler not in POPULATION
            algorithm = "grid" if few else "random"
        problems += _together(where, scheduler, algorithm, trials, command)
    if problems or where is None:
        raise TroupeError(problems, WORDS)
    first, wrong = _possible(kind, family, where, random.Random(command.seed))
    if first is None:
        none = Problem("settings-conflict", reason="no point of the space is possible:")
        raise TroupeError([none, *wrong], WORDS)
    if where.points is not None and algorithm != "optuna" and scheduler not in POPULATION:
        trials = where.points if algorithm == "grid" else min(trials, where.points)
    config = first.model_copy(update=requirements.resolve(first, own_machine=not command.address))
    here = [] if command.address else requirements.remarks(first, config)
    _check_room(config, command)
    told = {
        "family": family,
        "metric": metric,
        "mode": command.mode or _mode(kind, metric),
        "scheduler": scheduler,
        "algorithm": algorithm,
        "seed": command.seed,
        "points": trials,
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
    if command.name is not None and creation.is_taken(command.runs_dir / command.name):
        raise run_folder.in_use(command.runs_dir, command.name)
    return Prepared(kind, where, told, config, None, [*notes, *here, *_notes(kind, where, told, words, command)])


def _prepare_again(command: SearchCommand) -> Prepared:
    """A search that goes on as it was begun."""
    options = ("name", "space", "metric", "mode", "scheduler", "algorithm", "trials")
    said = [*(command.settings or {}), *(f"--{name}" for name in options if getattr(command, name) is not None)]
    reason = "--resume goes on with a search as it is"
    problems = _wrong_numbers(command)
    problems += [Problem("settings-conflict", word, reason, "leave it out") for word in said]
    try:
        found = leaderboard.find(command.runs_dir, str(command.resume))
    except TroupeError as error:
        if error.code != WORDS:
            raise
        raise TroupeError([*problems, *of(error.problems, "--resume")], WORDS) from None
    told = found.told
    if command.family is not None and command.family != told["family"]:
        problems.append(Problem("settings-conflict", command.family, f"{found.name} searches {told['family']}"))
    if problems:
        raise TroupeError(problems, WORDS)
    families = command.families or tuple(map(Path, told["families"]))
    kind = registry.config_class(told["family"], families)
    seeds = {"seed": ",".join(map(str, told["seeds"]))} if told["seeds"] else {}
    where, wrong = space.read(kind, told["family"], {**told["fixed"], **told["space"], **seeds}, {}, "")
    if where is None:
        raise TroupeError(wrong, CONFLICT)
    first, wrong = _possible(kind, told["family"], where, random.Random(told["seed"]))
    if first is None:
        raise TroupeError(wrong, CONFLICT)
    config = first.model_copy(update=requirements.resolve(first, own_machine=not command.address))
    here = [] if command.address else requirements.remarks(first, config)
    _check_room(config, command)
    changes = {"max_concurrent": command.max_concurrent, "keep_best": command.keep_best}
    told.update({key: value for key, value in changes.items() if value is not None})
    told["families"] = [str(path) for path in families]
    left = [trial for trial in found.trials if trial.state in OPEN]
    note = f"{found.name}: going on with {len(left)} of {len(found.trials)} trials"
    return Prepared(kind, where, told, config, found, [*here, note])


def _wrong_numbers(command: SearchCommand) -> list[Problem]:
    """What is wrong with the numbers of a search, as Python may say them."""
    problems = []
    for name, (least, most) in BOUNDS.items():
        number = getattr(command, name)
        if number is not None and not (isinstance(number, int) and least <= number <= most):
            reason = f"must be a whole number, at least {least}, at most {most}"
            problems.append(Problem("bad-value", name, reason, value=str(number)))
    for name, highest in (("time_budget", LARGEST * 60.0), ("disk_budget", LARGEST * 1e9)):
        number = getattr(command, name)
        if number is not None and not 0 < number <= highest:
            reason = f"must be above 0, at most {highest:g}"
            problems.append(Problem("bad-value", name, reason, value=str(number)))
    return problems


def _check_room(config: Config, command: SearchCommand) -> None:
    """Raises TroupeError (exit code 3) for what this machine or the folder lacks."""
    lacking = [] if command.address else requirements.room(config, False)
    if problem := requirements.writable(command.runs_dir):
        lacking += of([problem], "--runs-dir")
    if command.trials_per_gpu > 1 and config.device != "cuda":
        reason = f"device={config.device} has no GPU"
        lacking.append(Problem("settings-conflict", "--trials-per-gpu", reason, "leave it out", command.trials_per_gpu))
    if lacking:
        raise TroupeError(lacking, SURROUNDINGS)


def _metric(kind: type[Config], family: str, said: str | None, evaluates: bool) -> tuple[str, Problem | None]:
    """The metric to compare trials by, and what is wrong with it."""
    known = [f"eval_{name}" for name in kind.metrics] if evaluates else []
    if said is None:
        if not known:
            why = "evaluates nothing" if evaluates else "with evaluate_every=0 evaluates nothing"
            reason, hint = f"{family} {why} that trials could be compared by", "say --metric, as --metric loss"
            return "", Problem(NOTHING, reason=reason, hint=hint)
        return known[0], None
    if not evaluates and said.startswith("eval_"):
        reason = "nothing is evaluated with evaluate_every=0"
        return said, Problem("settings-conflict", "--metric", reason, "leave that out", said)
    if f"eval_{said}" in known:
        return f"eval_{said}", None
    near = [name for name in known if said in name]
    hint = f"did you mean {near[0]}?" if near else meant(said, [*known, *kind.metrics] if evaluates else ())
    if said in known or not (hint or said.startswith("eval_")):
        return said, None  # a metric of training is known when the first row is written
    hint = hint or f"there are {', '.join(known)}"
    return said, Problem("unknown-metric", "--metric", f"names no metric of {family}", hint, said)


def compare_by(told: dict[str, Any], command: SearchCommand, config: Config, facts: Mapping[str, Any]) -> str:
    """See that evaluations on such data give the metric of a search. One that nobody asked for gives way to the first
    that they do give, which is told in a line; nothing is said where all is right.

    Raises TroupeError (exit code 2) where there is none, or not the one that was asked for.
    """
    given, metric = config.metrics_of(facts), str(told["metric"])
    name = metric.removeprefix("eval_")
    if name == metric or name in given or name not in config.metrics:
        return ""
    if not given:
        hint = "take more samples, or say --metric with one of training"
        raise TroupeError(Problem(NOTHING_HELD_OUT, reason=config.nothing_held_out(facts), hint=hint), WORDS)
    lacking = f"evaluations on {config.held_out_places(facts)} samples give no {metric}"
    if command.metric is not None or name != next(iter(config.metrics)):
        hint = f"there are {', '.join(f'eval_{one}' for one in given)}"
        raise TroupeError(Problem("unknown-metric", "--metric", lacking, hint, metric), WORDS)
    first = next(iter(given))
    told["metric"], told["mode"] = f"eval_{first}", command.mode or given[first]
    return f"{lacking}: comparing by {told['metric']} ({told['mode']}) instead"


def _mode(kind: type[Config], metric: str) -> str:
    return kind.metrics.get(metric.removeprefix("eval_"), "max" if "accuracy" in metric else "min")


def _together(where: space.Space, scheduler: str, algorithm: str, trials: int, command: SearchCommand) -> list[Problem]:
    """What is wrong with options beside one another."""
    problems: list[Problem] = []

    def wrong(option: str, value: Any, reason: str, hint: str = "") -> None:
        problems.append(Problem("settings-conflict", option, reason, hint, value))

    ranges = [name for name, domain in where.domains.items() if isinstance(domain, space.Range)]
    choices = [name for name in where.domains if name not in ranges]
    if algorithm == "grid" and ranges:
        hint = f"name values for a grid, as {ranges[0]}=a,b,c"
        wrong("--algorithm", "grid", f"{ranges[0]} is a range", hint)
    elif algorithm == "grid" and command.trials is not None and where.points is not None and trials < where.points:
        wrong("--trials", trials, f"the grid has {where.points} points", "leave one of both out")
    if scheduler in POPULATION:
        if where.seeds:
            wrong("--scheduler", scheduler, "its trials take over from others, whatever their seed", "give one")
        if algorithm != "random":
            wrong("--scheduler", scheduler, "thinks of its points itself", f"leave --algorithm {algorithm} out")
        if command.max_concurrent is not None:
            wrong("--max-concurrent", None, f"with --scheduler {scheduler} all trials live at once and take turns")
        if scheduler == "pb2" and choices:
            wrong("--scheduler", scheduler, "moves ranges only", f"{choices[0]} has choices")
    return problems


def _possible(
    kind: type[Config], family: str, where: space.Space, chance: random.Random
) -> tuple[Config | None, list[Problem]]:
    """The config of a point that is possible; or what is wrong with the first one."""
    wrong: list[Problem] = []
    for _ in range(TRIES):
        config, problems = kind.from_words({**where.fixed, **where.draw(chance)}, family)
        if config is not None:
            return config, []
        wrong = wrong or problems
    return None, wrong


def _notes(
    kind: type[Config], where: space.Space, told: Mapping[str, Any], words: Mapping[str, Any], command: SearchCommand
) -> list[str]:
    """What a person should know before it starts."""
    searched = ", ".join(f"{name}={domain}" for name, domain in where.domains.items())
    of_file = [name for name in where.domains if name not in words]
    notes = [
        f"searching {searched}" + (f" ({', '.join(of_file)} by {where.source})" if of_file and where.source else "")
    ]
    why = "" if command.metric else f", the first metric of {told['family']}"
    part = where.fixed.get("evaluate_on")
    on = " on the validation part, and not on the test part (evaluate_on=validation)" if part == "validation" else ""
    notes.append(f"comparing by {told['metric']} ({told['mode']}){why}{on}")
    if told["scheduler"] in POPULATION and "checkpoint_every" in words:
        notes.append(
            f"checkpoint_every={words['checkpoint_every']}: changes nothing with --scheduler {told['scheduler']}, "
            "whose trials save with each report"
        )
    if told["seeds"] and told["scheduler"] == "asha":
        notes.append(UNEQUAL)
    return notes
