"""Every verb as a call from Python: `from cluster import train, search, ...`; docs/python.md shows each.

A call is the command of the same name: arguments are its options (`runs_dir=` is `--runs-dir`), settings are keyword
arguments, and the return value is `result` of `--json`. Raises TroupeError with the exit code (`.code`) and all errors
(`.problems`), also for arguments of a wrong type. Prints nothing, except with `progress=True`, and the output of a
followed job.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pydantic import ConfigDict, ValidationError, validate_call

from cluster.backend.supervisor import Report
from cluster.cli import commands, verbs
from cluster.cli.parser import SENT, VERBS, Option, Words
from cluster.terminal.progress import Progress, Silence
from trainers.base.errors import WORDS, TroupeError, meant
from trainers.base.paths import DATA_DIR
from trainers.base.problems import Problem, show_value

P = ParamSpec("P")
R = TypeVar("R")
Result = dict[str, Any]


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The same call with validated arguments: all invalid ones are problems of one TroupeError (exit code 2)."""
    carried_out = validate_call(config=ConfigDict(strict=True))(function)  # or True counts as 1, and bytes as text

    @functools.wraps(function)
    def called(*arguments: P.args, **words: P.kwargs) -> R:
        try:
            return carried_out(*arguments, **words)
        except ValidationError as error:
            if error.title != function.__name__:  # not from this call
                raise
            raise TroupeError(_problems(function, error), WORDS) from None

    return called


def _problems(function: Callable[..., Any], error: ValidationError) -> list[Problem]:
    """A problem for each invalid argument."""
    known = inspect.signature(function).parameters
    in_order = [name for name, one in known.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    found: dict[str, Problem] = {}
    for mistake in error.errors():
        place, kind, given = mistake["loc"][0], mistake["type"], f"{mistake['input']!r:.60}"
        name = in_order[place] if isinstance(place, int) and place < len(in_order) else str(place)
        if kind == "missing_argument":
            found[name] = Problem("missing", name, f"is missing, as in {function.__name__}({name}=...)")
        elif kind == "unexpected_keyword_argument":
            reason = f"no such argument of {function.__name__}"
            found[name] = Problem("unknown-option", name, reason, meant(name, known))
        elif kind == "unexpected_positional_argument":
            found[name] = Problem("too-many", given, "unexpected argument; pass it by name")
        elif name in known:
            must = str(known[name].annotation).replace(" | ", " or ")
            found.setdefault(name, Problem("bad-value", name, f"must be {must}", value=given))
        else:  # one of `*names`
            found.setdefault(name, Problem("bad-value", given, "must be a name or a path"))
    return list(found.values())


def _said(verb: str, names: Sequence[str | Path | None], settings: Mapping[str, Any], **options: Any) -> Words:
    """A call as the parsed arguments of its command. Raises TroupeError (exit code 2) for empty values."""
    several = {option.name for option in VERBS[verb].options if option.repeats}
    options = {
        name: [value] if name in several and isinstance(value, (str, Path)) else value
        for name, value in options.items()
    }
    given = {
        "name": [name for name in names[:1] if name is not None],
        **{name: value if name in several else [value] for name, value in options.items()},
    }
    if "" in [str(name).strip() for name in names[1:]]:
        raise TroupeError(Problem("missing", verb, "a name is empty"), WORDS)
    if empty := [name for name, values in given.items() if "" in [str(value).strip() for value in values]]:
        raise TroupeError([Problem("missing", name, "is empty") for name in empty], WORDS)
    words = Words(verb, [str(name) for name in names if name is not None], dict(settings))
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, (list, tuple)):
            if value:
                words.repeated[option] = [str(one) for one in value]
                words.options[option] = words.repeated[option][-1]
        elif value is not None and value is not False:
            words.options[option] = "" if value is True else str(value)
    return words


def _shown(progress: bool) -> Progress:
    return Progress() if progress else Progress(Silence())  # type: ignore[arg-type]


def _result(words: Words, progress: bool = False, **more: Any) -> Result:
    answer = verbs.carry_out(words, _shown(progress), **more)
    assert answer.result is not None
    return answer.result


@checked
def train(
    family: str | None = None,
    *,
    name: str | None = None,
    resume: str | Path | None = None,
    from_run: str | Path | None = None,
    allow_changes: bool = False,
    address: str | None = None,
    oversubscribe: bool = False,
    config: str | Path | None = None,
    dry_run: bool = False,
    runs_dir: str | Path = "runs",
    data_dir: str | Path = DATA_DIR,
    families: Sequence[str | Path] = (),
    progress: bool = False,
    report: Report | None = None,
    **settings: Any,
) -> Result:
    """Train a family, or resume a run (`resume=NAME`); settings as in `troupe train FAMILY key=value`.

    `report(step, row)` is called with every row of metrics as it is written, in order; after the loss of a worker, the
    rows of repeated steps are reported again.

    Returns the result: name, steps, seconds, metrics, and the paths of grid, timelapse and checkpoint. Exit code 4
    while another run trains in this process, since both would use torch's global generator. Never restarts or ends the
    caller's process, and does not touch its streams; restores threads, random state and signal handlers.
    """
    words = _said(
        "train",
        [family],
        settings,
        name=name,
        resume=resume,
        allow_changes=allow_changes,
        address=address,
        oversubscribe=oversubscribe,
        config=config,
        dry_run=dry_run,
        runs_dir=runs_dir,
        data_dir=data_dir,
        families=families,
        **{"from": from_run},
    )
    return _result(words, progress, own_process=False, **({"report": report} if report else {}))


@checked
def search(
    family: str | None = None,
    *,
    name: str | None = None,
    resume: str | Path | None = None,
    retry_failed: bool = False,
    space: str | Path | None = None,
    trials: int | None = None,
    metric: str | None = None,
    mode: str | None = None,
    scheduler: str | None = None,
    algorithm: str | None = None,
    search_seed: int = 0,
    max_concurrent: int | None = None,
    trials_per_gpu: int = 1,
    time_budget: float | None = None,
    disk_budget: float | None = None,
    keep_best: int | None = None,
    final: bool = False,
    address: str | None = None,
    config: str | Path | None = None,
    dry_run: bool = False,
    runs_dir: str | Path = "runs",
    data_dir: str | Path = DATA_DIR,
    families: Sequence[str | Path] = (),
    progress: bool = False,
    **settings: Any,
) -> Result:
    """Search a family's settings: each is a value, or a string as in `troupe search FAMILY key=a,b,c key=lo..hi`.

    `time_budget` is in minutes, `disk_budget` in GB; `search_seed` is `--seed`, as `seed` is a setting. Returns name,
    folder, metric, mode, and the points, the best first. Exit code 1: every trial failed; 130: the search was stopped.
    """
    said = partial(_said, "search", [family], settings)
    words = said(
        name=name,
        resume=resume,
        retry_failed=retry_failed,
        space=space,
        trials=trials,
        metric=metric,
        mode=mode,
        scheduler=scheduler,
        algorithm=algorithm,
        seed=search_seed,
        max_concurrent=max_concurrent,
        trials_per_gpu=trials_per_gpu,
        time_budget=time_budget,
        disk_budget=disk_budget,
        keep_best=keep_best,
        final=final,
        address=address,
        config=config,
        dry_run=dry_run,
        runs_dir=runs_dir,
        data_dir=data_dir,
        families=families,
    )
    return _result(words, progress)


@checked
def verify(
    family: str,
    *,
    dry_run: bool = False,
    data_dir: str | Path = DATA_DIR,
    families: Sequence[str | Path] = (),
    progress: bool = False,
    **settings: Any,
) -> Result:
    """Check that results do not depend on the number of workers: a few steps with 1 process and with several.

    Returns whether it `passed`, and a row for each of the `proofs`; a failed proof raises nothing.
    """
    return _result(_said("verify", [family], settings, dry_run=dry_run, data_dir=data_dir, families=families), progress)


@checked
def evaluate(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    runs_dir: str | Path = "runs",
    data_dir: str | Path = DATA_DIR,
    families: Sequence[str | Path] = (),
    progress: bool = False,
    **settings: Any,
) -> Result:
    """Evaluate a run, or the file of `weights` for the family `name`; settings override those of the run.

    Returns `metrics` over `samples`, whether these were `held_out` from training, and a `verdict` if the family
    generates images. Exit code 4 for different classes, for samples that the run trained on, and for weights that do
    not fit.
    """
    words = _said(
        "evaluate", [name], settings, weights=weights, out=out, runs_dir=runs_dir, data_dir=data_dir, families=families
    )
    return _result(words, progress)


@checked
def sample(
    name: str | Path,
    *,
    count: int = 64,
    top: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    runs_dir: str | Path = "runs",
    data_dir: str | Path = DATA_DIR,
    families: Sequence[str | Path] = (),
    **asked: Any,
) -> Result:
    """Draw samples from a run's newest checkpoint into one file; `top=N`: from a search's best N trials.

    `asked` are the sampling settings of the family, as `columns=8`. Returns the path of the `file`, and the step.
    """
    words = _said(
        "sample",
        [name],
        asked,
        count=count,
        top=top,
        seed=seed,
        out=out,
        runs_dir=runs_dir,
        data_dir=data_dir,
        families=families,
    )
    return _result(words)


@checked
def export(
    name: str | Path,
    *,
    out: str | Path | None = None,
    best: bool = False,
    runs_dir: str | Path = "runs",
    families: Sequence[str | Path] = (),
) -> Result:
    """Write the weights of a run's newest checkpoint (`best`: of a search's best trial) as safetensors, and a config.

    Returns the `folder` that `load_exported` takes, and the step.
    """
    return _result(_said("export", [name], {}, out=out, best=best, runs_dir=runs_dir, families=families))


@checked
def predict(
    name: str | Path,
    *files: str | Path,
    top: int | None = None,
    best: bool = False,
    runs_dir: str | Path = "runs",
    families: Sequence[str | Path] = (),
    progress: bool = False,
) -> Result:
    """Classify images: files, and all images in folders, in natural order.

    `name` is a run, a trial as `SEARCH/0007`, with `best` a search, or a folder that `export` wrote. Returns `classes`,
    all names in order; `predictions`, for each image its `file`, `class`, `probability` in [0, 1] and `probabilities`
    by class (of the `top` classes, most probable first, if given); `unreadable`, the `file` and `why` of each damaged
    image, which raises nothing; `passed_over`, the number of other files in the folders, by kind; and `notes`. Exit
    code 2 if the run or file does not exist or is not a classifier, 3 if a folder has no images, 4 while a run trains
    in this process.
    """
    words = _said("predict", [name, *files], {}, top=top, best=best, runs_dir=runs_dir, families=families)
    return _result(words, progress)


@checked
def load_exported(folder: str | Path, *, families: Sequence[str | Path] = ()) -> dict[str, Any]:
    """The networks that `export` wrote, by name: each a torch.nn.Module in eval mode on the CPU.

    `input` in the folder's config.json documents the input of a classifier's `network`: float32 (rows, channels,
    image_size, image_size), `(x - 255 * mean) / (255 * deviation)` of images from 0 to 255; `steps` is the
    preprocessing of an image file, and `classes` the order of the output logits. `predict` does all of this.

    Exit code 2 if the folder is not an export, 4 if it is damaged.
    """
    from cluster.inspection import export

    return export.load_exported(folder, families)


@checked
def report(
    *names: str | Path,
    out: str | Path | None = None,
    single_file: bool = False,
    watch: bool = False,
    runs_dir: str | Path = "runs",
    progress: bool = False,
) -> Result:
    """Write one page about searches or runs. `watch` returns when none of them is running.

    Returns its path (`page`) and size (`bytes`), the files with its data, and what was omitted.
    """
    if not names:
        raise TroupeError(Problem("missing", "report", "needs a name, as in report('dcgan-search-1')"), WORDS)
    words = _said("report", names, {}, out=out, single_file=single_file, watch=watch, runs_dir=runs_dir)
    return _result(words, progress)


@checked
def runs(*names: str | Path, remove: bool = False, dry_run: bool = False, runs_dir: str | Path = "runs") -> Result:
    """List all runs and searches, the named ones, or the trials of a search; `remove` removes the named ones, or with
    `dry_run` only returns which.

    Returns `runs`, a row for each with steps, seconds and bytes; or `removed`, with the bytes freed.
    """
    return _result(_said("runs", names, {}, remove=remove, dry_run=dry_run, runs_dir=runs_dir))


@checked
def stop(
    name: str | Path, *, address: str | None = None, runs_dir: str | Path = "runs", progress: bool = False
) -> Result:
    """Stop a run or a search of another process after saving, or a job on the cluster with its dashboard at `address`.

    Returns whether it had `finished`, whether it `saved`, and the command that resumes it. Exit code 4 if it is not
    running.
    """
    return _result(_said("stop", [name], {}, address=address, runs_dir=runs_dir), progress)


@checked
def logs(
    name: str | Path,
    *,
    rank: int | None = None,
    follow: bool = False,
    address: str | None = None,
    runs_dir: str | Path = "runs",
) -> Iterator[str]:
    """The output of a run's workers, or of a job on the cluster with its dashboard at `address`, in pieces.

    `follow` continues until the run or the job has ended.
    """
    from cluster.inspection import follow as following
    from cluster.ray_jobs import dashboard

    words = _said("logs", [name], {}, rank=rank, address=address, runs_dir=runs_dir)
    rank = verbs.rank_of(words)
    if words.problems:
        raise TroupeError(words.problems, WORDS)
    if address is not None:
        client = dashboard.reach(address)
        return client.logs(client.job(str(name))["job"], follow, lambda line: None)
    pieces = following.logs(commands.runs_of(words, words.names), str(name), rank, follow)
    return following.headed(pieces, follow)


@checked
def submit(
    verb: str,
    family: str | None = None,
    *,
    address: str | None = None,
    install: bool = False,
    follow: bool = False,
    unchecked: bool = False,
    progress: bool = False,
    **words: Any,
) -> Result:
    """Run "train" or "search" as a job on a Ray cluster; `words` are the arguments of `train` or `search`.

    Returns the name of the job. `follow` prints the output of the job, and also returns how it `ended`.
    """
    if verb not in SENT:
        raise TroupeError(Problem("unknown-verb", verb, f"submit runs {' or '.join(SENT)}"), WORDS)
    known = {
        ("search_seed" if verb == "search" and name == "seed" else name): option
        for name, option in ((_name_of(option), option) for option in VERBS[verb].options)
    }
    options = {name: value for name, value in words.items() if name in known and value is not None}
    if problems := [one for name, value in options.items() if (one := _mistyped(name, known[name], value))]:
        raise TroupeError(problems, WORDS)
    settings = {name: show_value(value) for name, value in words.items() if name not in known}
    said = _said("submit", [verb], {}, address=address, install=install, follow=follow, unchecked=unchecked)
    said.inner = _said(verb, [family], settings, **{known[name].name: value for name, value in options.items()})
    return _result(said, progress)


def _name_of(option: Option) -> str:
    """The name of the argument for an option."""
    return "from_run" if option.name == "from" else option.name.replace("-", "_")


def _mistyped(name: str, option: Option, value: Any) -> Problem | None:
    """The problem if a value has the wrong type for an option, or None."""
    kinds: tuple[type, ...] = {"": (bool,), "N": (int,), "MINUTES": (int, float), "GB": (int, float)}.get(
        option.value, (str, Path)
    )
    several = value if option.repeats and isinstance(value, (list, tuple)) else [value]
    if all(isinstance(one, kinds) and (bool in kinds or not isinstance(one, bool)) for one in several):
        return None
    must = " or ".join(kind.__name__ for kind in kinds)
    return Problem("bad-value", name, f"must be {must}", value=f"{value!r:.60}")


@checked
def jobs(*, address: str | None = None) -> Result:
    """The `jobs` that troupe has submitted to the Ray cluster with its dashboard at `address`, oldest first."""
    return _result(_said("jobs", [], {}, address=address))


@checked
def check(
    family: str | None = None,
    *,
    address: str | None = None,
    runs_dir: str | Path = "runs",
    data_dir: str | Path = DATA_DIR,
    families: Sequence[str | Path] = (),
    progress: bool = False,
    **settings: Any,
) -> Result:
    """Check that this machine, or the Ray cluster at `address`, has what a run needs.

    Returns the `findings`, and how many of them are `wrong`; these raise nothing.
    """
    words = _said(
        "check",
        [family],
        {key: show_value(value) for key, value in settings.items()},
        address=address,
        runs_dir=runs_dir,
        data_dir=data_dir,
        families=families,
    )
    return _result(words, progress)


@checked
def families(*, families: Sequence[str | Path] = ()) -> Result:
    """List `families`, each with name and summary; the argument `families` adds folders with custom families."""
    return _result(_said("families", [], {}, families=families))


@checked
def datasets(
    *, remove: str | Path | None = None, data_dir: str | Path = DATA_DIR, families: Sequence[str | Path] = ()
) -> Result:
    """List `datasets` and `packed` folders; `remove` removes the packed copy of a folder."""
    return _result(_said("datasets", [], {}, remove=remove, data_dir=data_dir, families=families))


@checked
def env() -> Result:
    """Versions and hardware of this machine."""
    return _result(_said("env", [], {}))
