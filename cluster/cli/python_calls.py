"""Every verb as a call from Python: `from troupe import train, search, ...`; docs/python.md shows each.

A call is the command of the same name: arguments are its options (`runs_dir=` is `--runs-dir`), settings are keyword
arguments, and the return value is `result` of `--json`. Raises TroupeError with the exit code (`.code`) and all errors
(`.problems`), also for arguments of a wrong type. Prints nothing, except with `progress=True`, and the output of a
followed job. The signatures are those of the requests (`cluster/requests/models.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from cluster.cli import verbs
from cluster.requests.models import (
    CheckRequest,
    DatasetsRequest,
    EnvRequest,
    EvaluateRequest,
    ExportRequest,
    FamiliesRequest,
    JobsRequest,
    LoadExportedRequest,
    LogsRequest,
    PredictRequest,
    RecipesRequest,
    ReportRequest,
    RunsRequest,
    SampleRequest,
    SearchRequest,
    StopRequest,
    SubmitRequest,
    TrainRequest,
    VerifyRequest,
)
from cluster.requests.request import RequestType, VerbRequest
from cluster.terminal.progress import Progress, Silence

R = TypeVar("R")
Result = dict[str, Any]


def call_of(model: type[RequestType]) -> Callable[[Callable[[RequestType], R]], Callable[..., R]]:
    """Makes a function of a request a call with its arguments and signature."""

    def decorate(function: Callable[[RequestType], R]) -> Callable[..., R]:
        @functools.wraps(function)
        def call(*names: Any, **arguments: Any) -> R:
            return function(model.from_call(names, arguments))

        del call.__wrapped__
        returns = function.__annotations__["return"]
        call.__signature__ = model.signature().replace(return_annotation=returns)  # type: ignore[attr-defined]
        return call

    return decorate


def _result(request: VerbRequest, **more: Any) -> Result:
    shows_progress = getattr(request, "progress", False)
    answer = verbs.carry_out(request, Progress() if shows_progress else Progress(Silence()), **more)
    assert answer.result is not None
    return answer.result


@call_of(TrainRequest)
def train(request: TrainRequest) -> Result:
    """Train a family, or resume a run (`resume=NAME`); settings as in `troupe train FAMILY key=value`.

    `report(step, row)` is called with every row of metrics as it is written, in order; after the loss of a worker, the
    rows of repeated steps are reported again.

    Returns the result: name, steps, seconds, metrics, and the paths of grid, timelapse and checkpoint. Exit code 4
    while another run trains in this process, since both would use torch's global generator. Never restarts or ends the
    caller's process, and does not touch its streams; restores threads, random state and signal handlers.
    """
    return _result(request, own_process=False)


@call_of(SearchRequest)
def search(request: SearchRequest) -> Result:
    """Search a family's settings: each is a value, or a string as in `troupe search FAMILY key=a,b,c key=lo..hi`.

    `time_budget` is in minutes, `disk_budget` in GB; `search_seed` is `--seed`, as `seed` is a setting. Returns name,
    folder, metric, mode, and the points, the best first. Exit code 1: every trial failed; 130: the search was stopped.
    """
    return _result(request)


@call_of(VerifyRequest)
def verify(request: VerifyRequest) -> Result:
    """Check that results do not depend on the number of workers: a few steps with 1 process and with several.

    Returns whether it `passed`, and a row for each of the `checks`; a failed proof raises nothing.
    """
    return _result(request)


@call_of(EvaluateRequest)
def evaluate(request: EvaluateRequest) -> Result:
    """Evaluate a run, or the file of `weights` for the family `name`; settings override those of the run.

    Returns `metrics` over `samples`, whether these were `held_out` from training, and a `verdict` if the family
    generates images. Exit code 4 for different classes, for samples that the run trained on, and for weights that do
    not fit.
    """
    return _result(request)


@call_of(SampleRequest)
def sample(request: SampleRequest) -> Result:
    """Draw samples from a run's newest checkpoint into one file; `top=N`: from a search's best N trials.

    `asked` are the sampling settings of the family, as `columns=8`. Returns the path of the `file`, and the step.
    """
    return _result(request)


@call_of(ExportRequest)
def export(request: ExportRequest) -> Result:
    """Write the weights of a run's newest checkpoint (`best`: of a search's best trial) as safetensors, and a config.

    Returns the `folder` that `load_exported` takes, and the step.
    """
    return _result(request)


@call_of(PredictRequest)
def predict(request: PredictRequest) -> Result:
    """Classify images: files, and all images in folders, in natural order.

    `name` is a run, a trial as `SEARCH/0007`, with `best` a search, or a folder that `export` wrote. Returns `classes`,
    all names in order; `predictions`, for each image its `file`, `class`, `probability` in [0, 1] and `probabilities`
    by class (of the `top` classes, most probable first, if given); `unreadable`, the `file` and `why` of each damaged
    image, which raises nothing; `skipped`, the number of other files in the folders, by kind; and `notes`. Exit
    code 2 if the run or file does not exist or is not a classifier, 3 if a folder has no images, 4 while a run trains
    in this process.
    """
    return _result(request)


@call_of(LoadExportedRequest)
def load_exported(request: LoadExportedRequest) -> dict[str, Any]:
    """The networks that `export` wrote, by name: each a torch.nn.Module in eval mode on the CPU.

    `input` in the folder's config.json documents the input of a classifier's `network`: float32 (rows, channels,
    image_size, image_size), `(x - 255 * mean) / (255 * deviation)` of images from 0 to 255; `steps` is the
    preprocessing of an image file, and `classes` the order of the output logits. `predict` does all of this.

    Exit code 2 if the folder is not an export, 4 if it is damaged.
    """
    from cluster.inspection import export

    return export.load_exported(request.folder, request.with_local_paths().families)


@call_of(ReportRequest)
def report(request: ReportRequest) -> Result:
    """Write one page about searches or runs. `watch` returns when none of them is running.

    Returns its path (`page`) and size (`bytes`), the files with its data, and what was omitted.
    """
    return _result(request)


@call_of(RunsRequest)
def runs(request: RunsRequest) -> Result:
    """List all runs and searches, the named ones, or the trials of a search; `remove` removes the named ones, or with
    `dry_run` only returns which.

    Returns `runs`, a row for each with steps, seconds and bytes; or `removed`, with the bytes freed.
    """
    return _result(request)


@call_of(StopRequest)
def stop(request: StopRequest) -> Result:
    """Stop a run or a search of another process after saving, or a job on the cluster with its dashboard at `address`.

    Returns whether it had `finished`, whether it `saved`, and the command that resumes it. Exit code 4 if it is not
    running.
    """
    return _result(request)


@call_of(LogsRequest)
def logs(request: LogsRequest) -> Iterator[str]:
    """The output of a run's workers, or of a job on the cluster with its dashboard at `address`, in pieces.

    `follow` continues until the run or the job has ended.
    """
    from cluster.inspection import follow
    from cluster.ray_jobs import dashboard

    if request.address is not None:
        client = dashboard.reach(request.address)
        return client.logs(client.job(request.name)["job"], request.follow, lambda line: None)
    runs = verbs.on_this_machine(request).runs
    return follow.headed(follow.logs(runs, request.name, request.rank, request.follow), request.follow)


@call_of(SubmitRequest)
def submit(request: SubmitRequest) -> Result:
    """Run "train" or "search" as a job on a Ray cluster; all other arguments are those of `train` or `search`.

    Returns the name of the job. `follow` prints the output of the job, and also returns how it `ended`.
    """
    return _result(request)


@call_of(JobsRequest)
def jobs(request: JobsRequest) -> Result:
    """The `jobs` that troupe has submitted to the Ray cluster with its dashboard at `address`, oldest first."""
    return _result(request)


@call_of(CheckRequest)
def check(request: CheckRequest) -> Result:
    """Check that this machine, or the Ray cluster at `address`, has what a run needs.

    Returns the `findings`, and how many of them `failed`; these raise nothing.
    """
    return _result(request)


@call_of(FamiliesRequest)
def families(request: FamiliesRequest) -> Result:
    """List `families`, each with name and summary; the argument `families` adds folders with custom families."""
    return _result(request)


@call_of(RecipesRequest)
def recipes(request: RecipesRequest) -> Result:
    """List `recipes`, or the one of this `name`: published results, each with the `settings` that `train(recipe=NAME)`
    runs, its `source`, what was `published`, what troupe reaches (`ours`: by seed, with mean and standard deviation),
    what explains the difference (`differs`), and its `time` in minutes. Exit code 2 if there is no such recipe, or if
    the file of a custom family is wrong.
    """
    return _result(request)


@call_of(DatasetsRequest)
def datasets(request: DatasetsRequest) -> Result:
    """List `datasets` and `packed` folders; `remove` removes the packed copy of a folder."""
    return _result(request)


@call_of(EnvRequest)
def env(request: EnvRequest) -> Result:
    """Versions and hardware of this machine."""
    return _result(request)
