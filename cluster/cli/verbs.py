"""The implementation of each verb, shared by the command line and the Python API."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster.cli import remote_verbs
from cluster.requests.models import (
    CheckRequest,
    DatasetsRequest,
    EnvRequest,
    EvaluateRequest,
    ExportRequest,
    FamiliesRequest,
    LogsRequest,
    PredictRequest,
    RecipesRequest,
    ReportRequest,
    RunsRequest,
    SampleRequest,
    SearchRequest,
    StopRequest,
    TrainRequest,
    VerifyRequest,
)
from cluster.requests.request import RequestType, VerbRequest
from cluster.terminal.answers import Answer
from cluster.terminal.progress import Progress, from_here, lines_of, rows_of_packed, rows_of_runs, size
from cluster.terminal.tables import table, width_of
from trainers.base.errors import ENVIRONMENT, FAILED, USAGE, TroupeError
from trainers.base.paths import expanded
from trainers.base.problems import Problem, sentence, show_value
from trainers.run_folders import bucket
from trainers.settings.fields import GROUPS


class Verb(NamedTuple):
    """How a verb is executed."""

    run: Callable[..., Answer]
    check: Callable[[Any], Any] | None = None  # raises TroupeError with the problems that only this verb can find


def carry_out(request: VerbRequest | None, progress: Progress, problems: Iterable[Problem] = (), **more: Any) -> Answer:
    """Execute a request; `more` are arguments of its verb. Raises TroupeError; if there are `problems` already, with
    those that the verb finds in the rest of the request too."""
    try:
        os.getcwd()
    except FileNotFoundError:  # libraries end the process in this case
        reason, hint = "the current folder has been removed", "change to another one"
        raise TroupeError(Problem("missing-folder", reason=reason, hint=hint), ENVIRONMENT) from None
    all_problems = list(problems)
    if request is None:
        raise TroupeError(all_problems, USAGE)
    try:
        request = on_this_machine(request, fetch=not all_problems)
    except TroupeError as error:
        if error.code != USAGE:
            raise
        all_problems += error.problems
    verb = VERBS[request.verb]
    if not all_problems:
        return verb.run(request, progress, **more)
    try:
        if verb.check is not None:
            verb.check(request)
    except TroupeError as error:
        all_problems += [one for one in error.problems if error.code == USAGE and one not in all_problems]
    raise TroupeError(all_problems, USAGE)


def on_this_machine(request: RequestType, fetch: bool = True) -> RequestType:
    """The request with paths of this machine; for a bucket, after the files that it reads have been copied here.
    Raises TroupeError if its address is wrong, or the bucket cannot be reached."""
    local, text = request.with_local_paths(), request.runs_given()
    if text is None:
        return local
    if "://" not in text:
        return local.replaced(runs=expanded(text))
    runs = bucket.folder_for(text)
    if fetch:
        bucket.fetch_runs(runs, request.reads(), request.reads_checkpoints)
    return local.replaced(runs=runs)


def train(request: TrainRequest, progress: Progress, own_process: bool = True) -> Answer:
    from cluster.training import launch_run, prepare_run

    if request.dry_run:
        return dry_run(prepare_run.dry_run_of_train(request), request.families)
    result = launch_run.launch(request, progress, own_process)
    return Answer(result, "\n".join(lines_of(result, launch_run.SHOWN)))


def check_train(request: TrainRequest) -> None:
    from cluster.training import prepare_run

    prepare_run.prepare_run(request)


def search(request: SearchRequest, progress: Progress) -> Answer:
    from cluster.searching import launch_search

    if request.dry_run:
        expected = launch_search.dry_run_of_search(request)
        return Answer(expected, "\n".join(launch_search.text_of_dry_run(expected)))
    result = launch_search.launch_search(request, progress)
    return Answer(result, launch_search.text_of_search(result))


def check_search(request: SearchRequest) -> None:
    from cluster.searching import prepare_search

    prepare_search.prepare_search(request)


def verify(request: VerifyRequest, progress: Progress) -> Answer:
    from cluster.inspection import verify

    if request.dry_run:
        return dry_run(verify.dry_run_of_verify(request), request.families)
    result = verify.verify(request, progress.line)
    text = verify.text_of_verify(result)
    if result["passed"]:
        return Answer(result, text)
    return Answer(result, text, FAILED, [Problem("not-proven", reason=text)])


def check_verify(request: VerifyRequest) -> None:
    from cluster.inspection import verify

    verify.prepare_verify(request)


def evaluate(request: EvaluateRequest, progress: Progress) -> Answer:
    from cluster.inspection import evaluate

    result = evaluate.evaluate(request, progress.doing)
    progress.end()
    return Answer(result, evaluate.text_of_evaluation(result))


def check_evaluate(request: EvaluateRequest) -> None:
    from cluster.inspection import evaluate

    evaluate.prepare_evaluate(request)


def sample(request: SampleRequest, progress: Progress) -> Answer:
    if request.top is not None:
        from cluster.inspection import best_trials

        result = best_trials.sample_top(request)
        of = f"samples each of {', '.join(trial['name'] for trial in result['trials'])}"
    else:
        from cluster.inspection import manage_runs

        result = manage_runs.sample(request)
        of = f"samples of step {result['step']}"
    lines = [f"{result['file']}: {result['count']} {of}", *(f"  note: {note}" for note in result["notes"])]
    return Answer(result, "\n".join(lines))


def check_sample(request: SampleRequest) -> None:
    from cluster.inspection import manage_runs

    if request.settings:
        manage_runs.sample_settings_of(request, request.name, request.runs)


def export(request: ExportRequest, progress: Progress) -> Answer:
    out = request.out or Path(f"{request.name.rstrip('/').split('/')[-1]}-export")
    if request.best:
        from cluster.inspection import best_trials

        result = best_trials.export_best(request.name, request.runs, request.families, out)
    else:
        from cluster.inspection import export

        result = export.export(request.name, request.runs, request.families, out)
    of = f" of {result['trial']}" if "trial" in result else ""
    return Answer(result, f"{result['folder']}: {', '.join(result['files'])}{of}, of step {result['step']}")


def predict(request: PredictRequest, progress: Progress) -> Answer:
    from cluster.inspection import predict

    result = predict.predict(request, progress.doing)
    progress.end()
    broken = predict.broken(result)
    for problem in broken:
        progress.notify(sentence(problem))
    return Answer(result, predict.text_of_predictions(result, request.top), FAILED if broken else 0, broken)


def report(request: ReportRequest, progress: Progress) -> Answer:
    from cluster.reporting import report_command

    result = report_command.make_report(request, progress.notify)
    return Answer(result, "\n".join(report_command.text_of_report({**result, "page": from_here(result["page"])})))


def runs(request: RunsRequest, progress: Progress) -> Answer:
    from cluster.inspection import manage_runs

    if request.remove:
        removed = manage_runs.remove_runs(request.runs, request.names, request.dry_run)
        verbs = ("would be removed,", "would be freed") if request.dry_run else ("removed,", "freed")
        lines = [f"{row['name']}: {verbs[0]} {size(row['bytes'])} {verbs[1]}" for row in removed]
        return Answer({"removed": removed, **({"dry_run": True} if request.dry_run else {})}, "\n".join(lines))
    rows = manage_runs.list_runs(request.runs, request.names)
    nothing = f"no runs in {bucket.display_name(request.runs)}; `troupe train dcgan data=digits` starts one"
    return Answer({"runs": rows}, table(rows_of_runs(rows), nothing))


def stop(request: StopRequest, progress: Progress) -> Answer:
    from cluster.inspection import follow

    if request.address is not None:
        return remote_verbs.stop(request.address, request.name, progress.notify)
    return follow.stop(request.runs, request.name, progress.notify)


def logs(request: LogsRequest, progress: Progress, with_text: bool = False) -> Answer:
    from cluster.inspection import follow

    if request.address is not None:
        return remote_verbs.followed(request.address, request.name, request.follow, with_text, progress.notify)
    pieces = follow.logs(request.runs, request.name, request.rank, request.follow)
    return Answer(
        {"name": request.name, "job": None, "logs": follow.print_pieces(pieces, request.follow, with_text)}, None
    )


def check(request: CheckRequest, progress: Progress) -> Answer:
    from cluster.inspection import preflight

    if request.address is not None and request.address.startswith(("http://", "https://")):
        if not os.path.isabs(request.runs_dir) and not bucket.is_address(request.runs_dir):
            reason = "specify the folder of the runs, an absolute path on the cluster"
            raise TroupeError(Problem("missing", "--runs-dir", reason), USAGE)
        from cluster.ray_jobs.submission import check_through_dashboard as check_cluster

        findings = check_cluster(request, progress.notify)
    else:
        findings = preflight.check_from_here(request)
    again = f"troupe check {shlex.join(request.arguments())}".strip()
    wrong = [one.problem for one in findings if one.state == preflight.WRONG]
    result = {"failed": len(wrong), "findings": [one._asdict() for one in findings]}
    return Answer(result, preflight.text_of_findings(findings, again), ENVIRONMENT if wrong else 0, wrong)


def families(request: FamiliesRequest, progress: Progress) -> Answer:
    from cluster.inspection import manage_runs

    rows = manage_runs.list_families(request.families)
    return Answer({"families": rows}, f"{table(rows)}\n\n`troupe train FAMILY --help` shows the settings of one")


def recipes(request: RecipesRequest, progress: Progress) -> Answer:
    from cluster.inspection import recipe_list

    found = recipe_list.requested_recipes(request)
    return Answer({"recipes": [one.as_json() for one in found]}, recipe_list.text_of_recipes(request, found))


def datasets(request: DatasetsRequest, progress: Progress) -> Answer:
    from cluster.inspection import manage_runs

    folder = request.data_dir
    if request.remove is not None:
        freed = manage_runs.remove_packed(folder, request.remove)
        text = f"{freed['source']}: packed copy removed, {size(freed['bytes'])} freed"
        return Answer({"removed": [freed]}, text)
    sources, packed = manage_runs.list_datasets(request.families), manage_runs.list_packed(folder)
    packed_text = f"\n\npacked folders in {folder}:\n{table(rows_of_packed(packed))}" if packed else ""
    return Answer({"datasets": sources, "packed": packed}, table(sources) + packed_text)


def env(request: EnvRequest, progress: Progress) -> Answer:
    from cluster.inspection import environment_report

    facts = environment_report.facts()
    return Answer(facts, environment_report.text_of_environment(facts))


VERBS = {
    "train": Verb(train, check_train), "search": Verb(search, check_search), "verify": Verb(verify, check_verify),
    "evaluate": Verb(evaluate, check_evaluate), "sample": Verb(sample, check_sample), "export": Verb(export),
    "predict": Verb(predict), "report": Verb(report), "runs": Verb(runs), "stop": Verb(stop), "logs": Verb(logs),
    "submit": Verb(remote_verbs.submit, remote_verbs.check_submit), "jobs": Verb(remote_verbs.jobs),
    "check": Verb(check), "families": Verb(families), "recipes": Verb(recipes), "datasets": Verb(datasets),
    "env": Verb(env),
}  # fmt: skip


def dry_run(resolved: dict[str, Any], families: Sequence[Path]) -> Answer:
    """Every setting by group, with the origin of its value if that is not the default."""
    from trainers.families import registry

    kind = registry.config_class(resolved["family"], families)
    parts = [f"{key}: {value}" for key, value in resolved.items() if isinstance(value, str)]
    parts += [f"memory: {resolved['memory']['message']}"] if "memory" in resolved else []
    described, origins = [*kind.described()], resolved.get("origins", {})
    for group in GROUPS:
        own = [row.name for row in described if row.group == group]
        parts += ["", f"{group.capitalize()}:"] if own else []
        lines = {name: f"{name} = {show_value(resolved['settings'][name])}" for name in own}
        widest = max(map(len, lines.values()), default=0)
        for name, line in lines.items():
            parts.append(f"{line:{widest}}  ({origins[name]})" if name in origins else line)
    for course, title in (
        ("schedule", "learning rate over the run, as a fraction of its peak"),
        ("momentum", "momentum over the run"),
    ):
        if course in resolved:
            from trainers.drawing.plots import sparkline

            parts += ["", f"{title}:", sparkline(resolved[course], min(60, width_of(sys.stdout) - 10))]
    parts += ["", *resolved["warnings"]] if "warnings" in resolved else []
    return Answer(resolved, "\n".join(parts))
