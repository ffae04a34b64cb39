"""The request of each verb: all that it takes, with types, bounds, defaults and help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import Signature
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from cluster.requests.request import (
    Amount,
    Count,
    Name,
    Names,
    UserPath,
    UserPaths,
    VerbRequest,
    flag,
    internal,
    option,
    positional,
    python,
    settings_field,
)
from trainers.base.errors import USAGE, TroupeError
from trainers.base.paths import DATA_DIR
from trainers.base.problems import Problem
from trainers.engine.control import Report
from trainers.settings.fields import LARGEST

SENT = ("train", "search")  # verbs that `submit` can send
Seed32 = Annotated[int, Field(ge=0, le=2**32 - 1)]  # numpy accepts no larger ones
Seed64 = Annotated[int, Field(ge=0, le=2**63 - 1)]
Rank = Annotated[int, Field(ge=0, le=LARGEST)]
Points = Annotated[int, Field(ge=1, le=100_000)]
SeveralPoints = Annotated[int, Field(ge=2, le=1000)]
SeveralSeeds = Annotated[int, Field(ge=3, le=10_000)]
Thousand = Annotated[int, Field(ge=1, le=1000)]
Trials = Annotated[int, Field(ge=1, le=10_000)]
ReportRows = Annotated[SkipJsonSchema[Report], "Report"]

# Options of several verbs
RUNS: Any = option("folder of the runs, or a bucket as s3://BUCKET/PATH (default: runs)", "DIR", "runs")
DATA: Any = option(f"folder of data sets and packed image folders (default: {DATA_DIR})", "DIR", Path(DATA_DIR))
FAMILIES: Any = option("a folder with custom families, and custom data sources in its folder data/", "PATH", ())
ADDRESS: Any = option("join the Ray cluster at this address", "ADDRESS")
DASHBOARD: Any = option("the dashboard of a Ray cluster, http://HEAD:8265", "URL")
CONFIG: Any = option("read settings from a YAML or JSON file, `key: value`; the command line overrides it", "FILE")
RECIPE: Any = option("the settings of a recipe; --config and the command line override them", "NAME")
DRY_RUN: Any = flag("print every setting and the learning rate over the run, and exit")
PROGRESS: Any = python(False)


class TrainRequest(VerbRequest):
    verb: ClassVar[str] = "train"
    summary: ClassVar[str] = "train a family, or resume a run"
    example: ClassVar[str] = "troupe train dcgan data=digits workers=2"
    reads_checkpoints: ClassVar[bool] = True

    family: str | None = positional("FAMILY", None)
    settings: dict[str, Any] = settings_field()
    recipe: str | None = RECIPE
    name: str | None = option("name of the new run (default: dcgan-1, dcgan-2, ...)", "NAME")
    resume: Name | None = option("resume this run, on any number of workers; also takes the path of a run", "NAME")
    init_from: Name | None = option("start with the weights of another run, or of a file of weights", "NAME|PATH")
    allow_changes: bool = flag("resume even if settings or data changed")
    address: str | None = ADDRESS
    oversubscribe: bool = flag("let workers share cores")
    config: UserPath | None = CONFIG
    dry_run: bool = DRY_RUN
    runs_dir: Name = RUNS
    data_dir: UserPath = DATA
    families: UserPaths = FAMILIES
    progress: bool = PROGRESS
    report: ReportRows | None = python(None)
    runs_remotely: bool = internal(False)  # runs on other machines: data folders need not exist here

    def reads(self) -> Sequence[str]:
        return [one for one in (self.resume, self.init_from) if one is not None]


class SearchRequest(VerbRequest):
    verb: ClassVar[str] = "search"
    summary: ClassVar[str] = "search hyperparameters of a family, or resume a search"
    example: ClassVar[str] = "troupe search wgan_gp n_critic=1,2,5 learning_rate=1e-5..1e-3 --scheduler asha"

    family: str | None = positional("FAMILY", None)
    settings: dict[str, Any] = settings_field()
    recipe: str | None = RECIPE
    name: str | None = option("name of the new search (default: dcgan-search-1, ...)", "NAME")
    resume: Name | None = option("resume this search: its trials that have not ended", "NAME")
    retry_failed: bool = flag("with --resume: retry failed trials too")
    space: Name | None = option("file of the search space, or none (default: searchspaces/FAMILY.py)", "FILE")
    trials: Points | None = option("number of points to try (default: that of the space, else 20)", "N")
    metric: str | None = option("metric to compare trials by (default: the family's first)", "NAME")
    mode: str | None = option("whether a higher or a lower metric is better (default: the family's)", "max|min")
    scheduler: str | None = option(
        "fifo; asha stops trials that fall behind; pbt and pb2 clone the best instead", "NAME"
    )
    algorithm: str | None = option(
        "grid, random or optuna (default: grid, or random if it has too many points)", "NAME"
    )
    search_seed: Seed32 = option("seed of the search itself (default: 0)", "N", 0, typed="seed")
    max_concurrent: Trials | None = option("most trials at once", "N")
    trials_per_gpu: Thousand = option("trials of one worker that share a GPU (default: 1)", "N", 1)
    time_budget: Amount | None = option("save and stop after this time", "MINUTES")
    disk_budget: Amount | None = option(
        "most disk space of the search; checkpoints of the worst trials are removed", "GB"
    )
    keep_best: Points | None = option("keep the checkpoints of the best N trials only", "N")
    confirm: SeveralPoints | None = option(
        "train the best K points again with fresh seeds, until one of them is significantly better", "K"
    )
    confirm_seeds: SeveralSeeds | None = option("most fresh seeds of each point (default: 6)", "N")
    retrain_best: bool = flag("retrain the best point on the whole training split, and report its test metric")
    address: str | None = ADDRESS
    config: UserPath | None = CONFIG
    dry_run: bool = DRY_RUN
    runs_dir: Name = RUNS
    data_dir: UserPath = DATA
    families: UserPaths = FAMILIES
    progress: bool = PROGRESS
    runs_remotely: bool = internal(False)  # as in TrainRequest

    def reads(self) -> Sequence[str]:
        return [self.resume] if self.resume is not None else []

    def conflicts(self) -> list[Problem]:
        if self.confirm_seeds is None or self.confirm is not None:
            return []
        return [Problem("missing", "--confirm-seeds", "limits the seeds of --confirm", "add --confirm K")]


class VerifyRequest(VerbRequest):
    verb: ClassVar[str] = "verify"
    summary: ClassVar[str] = "check that results do not depend on the number of workers"
    example: ClassVar[str] = "troupe verify dcgan workers=4"

    family: str = positional("FAMILY")
    settings: dict[str, Any] = settings_field()
    dry_run: bool = DRY_RUN
    data_dir: UserPath = DATA
    families: UserPaths = FAMILIES
    progress: bool = PROGRESS
    setup: str = internal("")  # breaks something on purpose, for tests


class _OfOneRun(VerbRequest):
    """A verb that reads the checkpoints of one run."""

    reads_checkpoints: ClassVar[bool] = True
    name: Name = positional("NAME")

    def reads(self) -> Sequence[str]:
        return [self.name]


class EvaluateRequest(_OfOneRun):
    verb: ClassVar[str] = "evaluate"
    summary: ClassVar[str] = "evaluate a run, or weights of a file"
    example: ClassVar[str] = "troupe evaluate --weights resnet20.th classifier model=resnet20 data=cifar10"

    name: Name = positional("NAME|FAMILY")
    settings: dict[str, Any] = settings_field()
    weights: UserPath | None = option("evaluate these weights of a family, instead of a run", "PATH")
    out: UserPath | None = option("write pictures to this folder: confusion.png, mistakes.png", "DIR")
    runs_dir: Name = RUNS
    data_dir: UserPath = DATA
    families: UserPaths = FAMILIES
    progress: bool = PROGRESS


class SampleRequest(_OfOneRun):
    verb: ClassVar[str] = "sample"
    summary: ClassVar[str] = "draw samples from a run's newest checkpoint"
    example: ClassVar[str] = "troupe sample dcgan-1 --count 100"

    settings: dict[str, Any] = settings_field()
    count: Points = option("number of samples (default: 64)", "N", 64)
    top: Thousand | None = option("of a search: sample its N best trials, one below another", "N")
    seed: Seed64 = option("seed of the noise (default: 0)", "N", 0)
    out: UserPath | None = option("file to write (default: NAME-samples.png or .txt, if that is free)", "FILE")
    runs_dir: Name = RUNS
    data_dir: UserPath = DATA
    families: UserPaths = FAMILIES


class ExportRequest(_OfOneRun):
    verb: ClassVar[str] = "export"
    summary: ClassVar[str] = "write weights (safetensors) and a config that rebuilds the networks"
    example: ClassVar[str] = "troupe export dcgan-1 --out dcgan-digits"

    out: UserPath | None = option("folder to write (default: NAME-export)", "DIR")
    best: bool = flag("of a search: export its best trial")
    runs_dir: Name = RUNS
    families: UserPaths = FAMILIES


class PredictRequest(_OfOneRun):
    verb: ClassVar[str] = "predict"
    summary: ClassVar[str] = "classify images"
    example: ClassVar[str] = "troupe predict classifier-1 pictures/cat.jpg holidays"

    files: UserPaths = positional("FILE|FOLDER")
    top: Count | None = option("classes to print for each image, most probable first (default: 2; in JSON all)", "N")
    best: bool = flag("of a search: use its best trial")
    runs_dir: Name = RUNS
    families: UserPaths = FAMILIES
    progress: bool = PROGRESS


class ReportRequest(VerbRequest):
    verb: ClassVar[str] = "report"
    summary: ClassVar[str] = "write an offline page about searches or runs"
    example: ClassVar[str] = "troupe report dcgan-search-1"

    names: Names = positional("NAME")
    out: UserPath | None = option("folder to write (default: in the search or run; report for several)", "DIR")
    single_file: bool = flag("write a single file, pictures included")
    watch: bool = flag("update the page while the run or search is running, until Ctrl-C")
    runs_dir: Name = RUNS
    progress: bool = PROGRESS

    def reads(self) -> Sequence[str] | None:
        return self.names or None


class RunsRequest(VerbRequest):
    verb: ClassVar[str] = "runs"
    summary: ClassVar[str] = "list runs with their sizes, or remove some"
    example: ClassVar[str] = "troupe runs --remove dcgan-1"

    names: Names = positional("NAME", ())
    remove: bool = flag("remove the named runs")
    dry_run: bool = flag("with --remove: only print what would be removed")
    runs_dir: Name = RUNS

    def reads(self) -> Sequence[str] | None:
        return self.names or None

    def conflicts(self) -> list[Problem]:
        problems = []
        if self.remove and not self.names:
            reason = "name the runs to remove, as in `troupe runs --remove dcgan-1`"
            problems.append(Problem("missing", "--remove", reason))
        if self.dry_run and not self.remove:
            problems.append(Problem("missing", "--dry-run", "shows what --remove would remove", "add --remove"))
        return problems


class SubmitRequest(VerbRequest):
    verb: ClassVar[str] = "submit"
    summary: ClassVar[str] = "run train or search as a job on a Ray cluster"
    example: ClassVar[str] = (
        "troupe submit train dcgan data=digits workers=4 --runs-dir /shared/runs --address http://HEAD:8265"
    )

    sent: str = positional("train|search")
    family: str | None = positional("FAMILY", None)
    settings: dict[str, Any] = settings_field()
    address: str | None = DASHBOARD
    install: bool = flag("let the cluster install missing packages, in the versions of this machine")
    follow: bool = flag("print the output of the job until it ends, and exit with its exit code")
    skip_checks: bool = flag("skip the preflight check of the cluster")
    progress: bool = PROGRESS
    inner: TrainRequest | SearchRequest | None = internal(None)

    @classmethod
    def from_call(cls, names: Sequence[Any], arguments: Mapping[str, Any]) -> Self:
        """As all requests, with `verb` for `sent`; the other arguments are those of the inner request."""
        own = {name: value for name, value in arguments.items() if name in cls.fields("option", "python")}
        given = {name: value for name, value in arguments.items() if name not in own}
        verb, *others = names or [given.pop("verb", "")]
        if verb not in SENT:
            raise TroupeError(Problem("unknown-verb", str(verb), f"submit runs {' or '.join(SENT)}"), USAGE)
        problems, inner = list[Problem](), None
        try:
            inner = REQUESTS[verb].from_call(others, given)
        except TroupeError as error:
            problems = error.problems
        try:
            request = super().from_call([verb], own)
        except TroupeError as error:
            problems += error.problems
        if problems:
            raise TroupeError(problems, USAGE)
        return request.replaced(inner=inner)

    @classmethod
    def signature(cls) -> Signature:
        inherited = super().signature()
        return inherited.replace(
            parameters=[
                one.replace(name={"sent": "verb", "settings": "arguments"}.get(one.name, one.name))
                for one in inherited.parameters.values()
            ]
        )


class JobsRequest(VerbRequest):
    verb: ClassVar[str] = "jobs"
    summary: ClassVar[str] = "list the jobs on a Ray cluster"
    example: ClassVar[str] = "troupe jobs --address http://HEAD:8265"

    address: str | None = DASHBOARD


class CheckRequest(VerbRequest):
    verb: ClassVar[str] = "check"
    summary: ClassVar[str] = "preflight check of this machine or a Ray cluster"
    example: ClassVar[str] = "troupe check dcgan data=mnist workers=4 --address HEAD:6379 --runs-dir /shared/runs"

    family: str | None = positional("FAMILY", None)
    settings: dict[str, Any] = settings_field()
    address: str | None = option("check the Ray cluster at this address, HEAD:6379 or http://HEAD:8265", "ADDRESS")
    runs_dir: Name = RUNS
    data_dir: UserPath = DATA
    families: UserPaths = FAMILIES
    progress: bool = PROGRESS


class _OfRunOrJob(_OfOneRun):
    """A verb about a run, or with an address about a job, whose run is on the cluster."""

    reads_checkpoints: ClassVar[bool] = False

    def runs_given(self) -> str | None:
        return super().runs_given() if getattr(self, "address", None) is None else None


class StopRequest(_OfRunOrJob):
    verb: ClassVar[str] = "stop"
    summary: ClassVar[str] = "stop a run, search or job after saving a checkpoint"
    example: ClassVar[str] = "troupe stop dcgan-1"

    address: str | None = DASHBOARD
    runs_dir: Name = RUNS
    progress: bool = PROGRESS


class LogsRequest(_OfRunOrJob):
    verb: ClassVar[str] = "logs"
    summary: ClassVar[str] = "print the logs of a run or job"
    example: ClassVar[str] = "troupe logs dcgan-1 --follow"

    rank: Rank | None = option("of this worker only", "N")
    follow: bool = flag("follow the log until the run ends; of worker 0, if no other is given")
    address: str | None = DASHBOARD
    runs_dir: Name = RUNS

    def conflicts(self) -> list[Problem]:
        if self.rank is None or self.address is None:
            return []
        reason, hint = "a worker's log is in the run's folder", "omit --address if it is visible here"
        return [Problem("bad-value", "--rank", reason, hint)]


class FamiliesRequest(VerbRequest):
    verb: ClassVar[str] = "families"
    summary: ClassVar[str] = "list the model families"
    example: ClassVar[str] = "troupe families"

    families: UserPaths = FAMILIES


class RecipesRequest(VerbRequest):
    verb: ClassVar[str] = "recipes"
    summary: ClassVar[str] = "list the recipes: published results, and what troupe reaches"
    example: ClassVar[str] = "troupe recipes mnist_mlp_bn"

    name: str | None = positional("NAME", None)
    families: UserPaths = FAMILIES


class DatasetsRequest(VerbRequest):
    verb: ClassVar[str] = "datasets"
    summary: ClassVar[str] = "list the data sets and packed image folders"
    example: ClassVar[str] = "troupe datasets"

    remove: Name | None = option("remove the packed copy of this folder", "PATH")
    data_dir: UserPath = DATA
    families: UserPaths = FAMILIES


class EnvRequest(VerbRequest):
    verb: ClassVar[str] = "env"
    summary: ClassVar[str] = "print versions and hardware for a bug report"
    example: ClassVar[str] = "troupe env"


class LoadExportedRequest(VerbRequest):
    """Of a call that is no verb."""

    verb: ClassVar[str] = "load_exported"

    folder: Name = positional("FOLDER")
    families: UserPaths = FAMILIES


REQUESTS: dict[str, type[VerbRequest]] = {
    one.verb: one
    for one in (
        TrainRequest,
        SearchRequest,
        VerifyRequest,
        EvaluateRequest,
        SampleRequest,
        ExportRequest,
        PredictRequest,
        ReportRequest,
        RunsRequest,
        SubmitRequest,
        JobsRequest,
        CheckRequest,
        StopRequest,
        LogsRequest,
        FamiliesRequest,
        RecipesRequest,
        DatasetsRequest,
        EnvRequest,
    )
}
