"""The implementation of each verb, shared by the command line and the Python API."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from typing import Any

from cluster.cli import commands
from cluster.cli.parser import Words
from cluster.terminal.answers import Answer
from cluster.terminal.progress import Progress, from_here, lines_of, rows_of_packed, rows_of_runs, size
from cluster.terminal.tables import table, width_of
from trainers.base.errors import FAILED, SURROUNDINGS, WORDS, TroupeError
from trainers.base.paths import DATA_DIR, expanded
from trainers.base.problems import Problem, sentence, show_value
from trainers.run_folders import bucket
from trainers.settings.fields import GROUPS


def carry_out(said: Words, progress: Progress, **more: Any) -> Answer:
    """Run a command; `more` are arguments of its verb. Raises TroupeError; for wrong arguments, with all problems."""
    try:
        os.getcwd()
    except FileNotFoundError:  # libraries end the process in this case
        reason, hint = "the current folder has been removed", "change to another one"
        raise TroupeError(Problem("missing-folder", reason=reason, hint=hint), SURROUNDINGS) from None
    answer = VERBS[said.verb](said, progress, **more) if said.verb in VERBS else None
    if said.problems:
        raise TroupeError(said.problems, WORDS)
    assert answer is not None
    return answer


def train(said: Words, progress: Progress, own_process: bool = True, **more: Any) -> Answer | None:
    from cluster.training import launch_run, prepare_run

    needed = [said.options.get("resume"), said.options.get("from")]
    wanted = commands.train_command(said, commands.runs_of(said, needed, checkpoints=True))
    if said.problems:  # errors of the parser, with those that only the family can find
        commands.add_problems(said, lambda: prepare_run.prepare(wanted))
        return None
    if said.has("dry-run"):
        return dry_run(prepare_run.dry_run(wanted), said)
    result = launch_run.launch(wanted, progress, own_process, **more)
    return Answer(result, "\n".join(lines_of(result, launch_run.SHOWN)))


def search(said: Words, progress: Progress) -> Answer | None:
    from cluster.searching import launch_search, prepare_search

    wanted = commands.search_command(said, commands.runs_of(said, [said.options.get("resume")]))
    if said.problems:
        commands.add_problems(said, lambda: prepare_search.prepare(wanted))
        return None
    if said.has("dry-run"):
        expected = launch_search.dry_run(wanted)
        return Answer(expected, "\n".join(launch_search.text_of_dry_run(expected)))
    result = launch_search.carry_out(wanted, progress)
    return Answer(result, launch_search.text(result))


def verify(said: Words, progress: Progress) -> Answer | None:
    from cluster.inspection import verify

    wanted = verify.VerifyCommand(
        said.names[0] if said.names else "", said.settings, said.path("data-dir", DATA_DIR), said.families
    )
    if said.problems:
        if wanted.family:
            commands.add_problems(said, lambda: verify.prepare(wanted))
        return None
    if said.has("dry-run"):
        return dry_run(verify.dry_run(wanted), said)
    result = verify.verify(wanted, progress.line)
    text = verify.text(result)
    if result["passed"]:
        return Answer(result, text)
    return Answer(result, text, FAILED, [Problem("not-proven", reason=text)])


def evaluate(said: Words, progress: Progress) -> Answer | None:
    from cluster.inspection import evaluate

    wanted = evaluate.EvaluateCommand(
        said.names[0] if said.names else "",
        said.settings,
        said.path("weights", "") if said.has("weights") else None,
        commands.runs_of(said, said.names, checkpoints=True),
        said.path("data-dir", DATA_DIR),
        said.families,
        said.path("out", "") if said.has("out") else None,
    )
    if said.problems:
        if wanted.name:
            commands.add_problems(said, lambda: evaluate.prepare(wanted))
        return None
    result = evaluate.evaluate(wanted, progress.doing)
    progress.end()
    return Answer(result, evaluate.text(result))


def sample(said: Words, progress: Progress) -> Answer | None:
    from cluster.inspection import manage_runs

    count, seed, top = (
        said.number("count", 64, 1, 100_000),
        said.number("seed", 0, 0, 2**63 - 1),
        said.number("top", 1, 1, 1000),
    )
    runs = commands.runs_of(said, said.names, checkpoints=True)
    if said.problems:
        if said.names and said.settings:
            commands.add_problems(
                said, lambda: manage_runs.asked_of(said.names[0], runs, said.families, said.settings, count)
            )
        return None
    out = said.path("out", "") if said.has("out") else None
    if said.has("top"):
        from cluster.inspection import best_trials

        result = best_trials.sample_top(
            said.names[0], runs, said.families, said.settings, top, count, seed, out, said.path("data-dir", DATA_DIR)
        )
        of = f"samples each of {', '.join(trial['name'] for trial in result['trials'])}"
    else:
        result = manage_runs.sample(
            said.names[0], runs, said.families, said.settings, count, seed, out, said.path("data-dir", DATA_DIR)
        )
        of = f"samples of step {result['step']}"
    lines = [f"{result['file']}: {result['count']} {of}", *(f"  note: {note}" for note in result["notes"])]
    return Answer(result, "\n".join(lines))


def export(said: Words, progress: Progress) -> Answer | None:
    from cluster.inspection import export

    if said.problems:
        return None
    out = said.path("out", f"{said.names[0].rstrip('/').split('/')[-1]}-export")
    there = commands.runs_of(said, said.names, checkpoints=True)
    if said.has("best"):
        from cluster.inspection import best_trials

        result = best_trials.export_best(said.names[0], there, said.families, out)
    else:
        result = export.export(said.names[0], there, said.families, out)
    of = f" of {result['trial']}" if "trial" in result else ""
    return Answer(result, f"{result['folder']}: {', '.join(result['files'])}{of}, of step {result['step']}")


def predict(said: Words, progress: Progress) -> Answer | None:
    from cluster.inspection import predict

    top = said.number("top", 2, 1) if said.has("top") else None
    if said.problems:
        return None
    name, *files = said.names
    runs = commands.runs_of(said, [name], checkpoints=True)
    wanted = predict.PredictCommand(name, tuple(map(expanded, files)), runs, said.families, top, said.has("best"))
    result = predict.carry_out(wanted, progress.doing)
    progress.end()
    broken = predict.broken(result)
    for problem in broken:
        progress.say(sentence(problem))
    return Answer(result, predict.text(result, top), FAILED if broken else 0, broken)


def report(said: Words, progress: Progress) -> Answer | None:
    from cluster.reporting import make_report

    if said.problems:
        return None
    wanted = make_report.ReportCommand(
        tuple(said.names),
        said.path("out", "") if said.has("out") else None,
        said.has("single-file"),
        said.has("watch"),
        commands.runs_of(said, said.names or None),
    )
    result = make_report.carry_out(wanted, progress.say)
    return Answer(result, "\n".join(make_report.text({**result, "page": from_here(result["page"])})))


def runs(said: Words, progress: Progress) -> Answer | None:
    from cluster.inspection import manage_runs

    if said.has("remove") and not said.names:
        reason = "name the runs to remove, as in `troupe runs --remove dcgan-1`"
        said.problems.append(Problem("missing", "--remove", reason))
    if said.has("dry-run") and not said.has("remove"):
        said.problems.append(Problem("missing", "--dry-run", "shows what --remove would remove", "add --remove"))
    if said.problems:
        return None
    folder = commands.runs_of(said, said.names or None)
    if said.has("remove"):
        dry = said.has("dry-run")
        removed = manage_runs.remove_runs(folder, said.names, dry)
        words = ("would be removed,", "would be freed") if dry else ("removed,", "freed")
        lines = [f"{row['name']}: {words[0]} {size(row['bytes'])} {words[1]}" for row in removed]
        return Answer({"removed": removed, **({"dry_run": True} if dry else {})}, "\n".join(lines))
    rows = manage_runs.list_runs(folder, said.names)
    nothing = f"no runs in {bucket.shown(folder)}; `troupe train dcgan data=digits` starts one"
    return Answer({"runs": rows}, table(rows_of_runs(rows), nothing))


def stop(said: Words, progress: Progress) -> Answer | None:
    from cluster.cli import remote_verbs
    from cluster.inspection import follow

    if said.problems:
        return None
    if said.has("address"):
        return remote_verbs.stop(said.options["address"], said.names[0], progress.say)
    return follow.stop(commands.runs_of(said, said.names), said.names[0], progress.say)


def rank_of(said: Words) -> int | None:
    """The worker whose log to print; None for all."""
    rank = said.number("rank", 0, 0) if said.has("rank") else None
    if rank is not None and said.has("address"):
        reason, hint = "a worker's log is in the run's folder", "omit --address if it is visible here"
        said.problems.append(Problem("bad-value", "--rank", reason, hint))
    return rank


def logs(said: Words, progress: Progress) -> Answer | None:
    from cluster.cli import remote_verbs
    from cluster.inspection import follow

    rank = rank_of(said)
    if said.problems:
        return None
    name, to_the_end = said.names[0], said.has("follow")
    if said.has("address"):
        return remote_verbs.followed(said.options["address"], name, to_the_end, said.has("json"), progress.say)
    pieces = follow.logs(commands.runs_of(said, said.names), name, rank, to_the_end)
    return Answer({"name": name, "job": None, "logs": follow.shown(pieces, to_the_end, said.has("json"))}, None)


def submit(said: Words, progress: Progress) -> Answer | None:
    from cluster.cli import remote_verbs

    return remote_verbs.submit(said, progress)


def jobs(said: Words, progress: Progress) -> Answer | None:
    from cluster.cli import remote_verbs

    return remote_verbs.jobs(said)


def check(said: Words, progress: Progress) -> Answer | None:
    from cluster.inspection import preflight

    if said.problems:
        return None
    address = said.options.get("address", "")
    wanted = preflight.CheckCommand(
        address or None,
        said.names[0] if said.names else None,
        said.settings,
        commands.runs_of(said, []),
        said.path("data-dir", DATA_DIR),
        said.families,
    )
    if address.startswith(("http://", "https://")):
        there = said.options.get("runs-dir", "")
        if not os.path.isabs(there) and not bucket.is_address(there):
            reason = "specify the folder of the runs, an absolute path on the cluster"
            raise TroupeError(Problem("missing", "--runs-dir", reason), WORDS)
        from cluster.ray_jobs.submission import check as look_there

        words = said.again("address", "families", "json", "debug")
        found = look_there(address, wanted, words, progress.say)
    else:
        found = preflight.check(wanted)
    again = f"troupe check {shlex.join(said.again('json', 'debug'))}".strip()
    wrong = [one.problem for one in found if one.state == preflight.WRONG]
    result = {"wrong": len(wrong), "findings": [one._asdict() for one in found]}
    return Answer(result, preflight.text(found, again), SURROUNDINGS if wrong else 0, wrong)


def families(said: Words, progress: Progress) -> Answer | None:
    from cluster.inspection import manage_runs

    if said.problems:
        return None
    rows = manage_runs.list_families(said.families)
    return Answer({"families": rows}, f"{table(rows)}\n\n`troupe train FAMILY --help` shows the settings of one")


def datasets(said: Words, progress: Progress) -> Answer | None:
    from cluster.inspection import manage_runs

    if said.problems:
        return None
    folder = said.path("data-dir", DATA_DIR)
    if said.has("remove"):
        freed = manage_runs.remove_packed(folder, said.options["remove"])
        text = f"{freed['source']}: packed copy removed, {size(freed['bytes'])} freed"
        return Answer({"removed": [freed]}, text)
    known, packed = manage_runs.list_datasets(said.families), manage_runs.list_packed(folder)
    there = f"\n\npacked folders in {folder}:\n{table(rows_of_packed(packed))}" if packed else ""
    return Answer({"datasets": known, "packed": packed}, table(known) + there)


def env(said: Words, progress: Progress) -> Answer | None:
    from cluster.inspection import environment_report

    if said.problems:
        return None
    facts = environment_report.facts()
    return Answer(facts, environment_report.text(facts))


VERBS: dict[str, Callable[..., Answer | None]] = {
    "train": train, "search": search, "verify": verify, "evaluate": evaluate, "sample": sample, "export": export,
    "predict": predict, "report": report, "runs": runs, "stop": stop, "logs": logs, "submit": submit,
    "jobs": jobs, "check": check, "families": families, "datasets": datasets, "env": env,
}  # fmt: skip


def dry_run(resolved: dict[str, Any], said: Words) -> Answer:
    """Every setting by group, with the origin of its value if that is not the default."""
    from trainers.families import registry

    kind = registry.config_class(resolved["family"], said.families)
    parts = [f"{key}: {value}" for key, value in resolved.items() if isinstance(value, str)]
    parts += [f"memory: {resolved['memory']['told']}"] if "memory" in resolved else []
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
    parts += ["", *resolved["remarks"]] if "remarks" in resolved else []
    return Answer(resolved, "\n".join(parts))
