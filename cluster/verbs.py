"""What each verb does with its words: the same for the command line and for calls from Python."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from typing import Any

from cluster import typed
from cluster.answers import Answer
from cluster.columns import table, width_of
from cluster.show import Progress, from_here, lines_of, rows_of_packed, rows_of_runs, size
from cluster.words import Words
from trainers.engine import bucket
from trainers.engine.errors import FAILED, SURROUNDINGS, WORDS, TroupeError
from trainers.engine.paths import DATA_DIR, expanded
from trainers.engine.problems import Problem, sentence, show_value


def carry_out(said: Words, progress: Progress, **more: Any) -> Answer:
    """Carry out a command; `more` is for its verb alone. Raises TroupeError, for wrong words with all that is wrong."""
    try:
        os.getcwd()
    except FileNotFoundError:  # libraries end the process there
        reason, hint = "the folder in which this was said has been removed", "go to another one"
        raise TroupeError(Problem("missing-folder", reason=reason, hint=hint), SURROUNDINGS) from None
    answer = VERBS[said.verb](said, progress, **more) if said.verb in VERBS else None
    if said.problems:
        raise TroupeError(said.problems, WORDS)
    assert answer is not None
    return answer


def train(said: Words, progress: Progress, own_process: bool = True, **more: Any) -> Answer | None:
    from cluster import launch, prepare

    needed = [said.options.get("resume"), said.options.get("from")]
    wanted = typed.train_command(said, typed.runs_of(said, needed, checkpoints=True))
    if said.problems:  # words that the parser found wrong, with those that only the family can
        typed.add_problems(said, lambda: prepare.prepare(wanted))
        return None
    if said.has("dry-run"):
        return dry_run(prepare.dry_run(wanted))
    result = launch.launch(wanted, progress, own_process, **more)
    return Answer(result, "\n".join(lines_of(result, launch.SHOWN)))


def search(said: Words, progress: Progress) -> Answer | None:
    from cluster import prepare_search, searching

    wanted = typed.search_command(said, typed.runs_of(said, [said.options.get("resume")]))
    if said.problems:
        typed.add_problems(said, lambda: prepare_search.prepare(wanted))
        return None
    if said.has("dry-run"):
        expected = searching.dry_run(wanted)
        return Answer(expected, "\n".join(searching.text_of_dry_run(expected)))
    result = searching.carry_out(wanted, progress)
    return Answer(result, searching.text(result))


def verify(said: Words, progress: Progress) -> Answer | None:
    from cluster import verifying

    wanted = verifying.VerifyCommand(
        said.names[0] if said.names else "", said.settings, said.path("data-dir", DATA_DIR), said.families
    )
    if said.problems:
        if wanted.family:
            typed.add_problems(said, lambda: verifying.prepare(wanted))
        return None
    if said.has("dry-run"):
        return dry_run(verifying.dry_run(wanted))
    result = verifying.verify(wanted, progress.line)
    text = verifying.text(result)
    if result["passed"]:
        return Answer(result, text)
    return Answer(result, text, FAILED, [Problem("not-proven", reason=text)])


def evaluate(said: Words, progress: Progress) -> Answer | None:
    from cluster import evaluating

    wanted = evaluating.EvaluateCommand(
        said.names[0] if said.names else "", said.settings, said.path("weights", "") if said.has("weights") else None,
        typed.runs_of(said, said.names, checkpoints=True), said.path("data-dir", DATA_DIR), said.families,
        said.path("out", "") if said.has("out") else None,
    )  # fmt: skip
    if said.problems:
        if wanted.name:
            typed.add_problems(said, lambda: evaluating.prepare(wanted))
        return None
    result = evaluating.evaluate(wanted, progress.doing)
    progress.end()
    return Answer(result, evaluating.text(result))


def sample(said: Words, progress: Progress) -> Answer | None:
    from cluster import use

    count, seed, top = (
        said.number("count", 64, 1, 100_000), said.number("seed", 0, 0, 2**63 - 1), said.number("top", 1, 1, 1000)
    )  # fmt: skip
    runs = typed.runs_of(said, said.names, checkpoints=True)
    if said.problems:
        if said.names and said.settings:
            typed.add_problems(said, lambda: use.asked_of(said.names[0], runs, said.families, said.settings, count))
        return None
    out = said.path("out", "") if said.has("out") else None
    if said.has("top"):
        from cluster import best

        result = best.sample_top(said.names[0], runs, said.families, said.settings, top, count, seed, out,
                                 said.path("data-dir", DATA_DIR))  # fmt: skip
        of = f"samples each of {', '.join(trial['name'] for trial in result['trials'])}"
    else:
        result = use.sample(said.names[0], runs, said.families, said.settings, count, seed, out,
                            said.path("data-dir", DATA_DIR))  # fmt: skip
        of = f"samples of step {result['step']}"
    lines = [f"{result['file']}: {result['count']} {of}", *(f"  note: {note}" for note in result["notes"])]
    return Answer(result, "\n".join(lines))


def export(said: Words, progress: Progress) -> Answer | None:
    from cluster import exporting

    if said.problems:
        return None
    out = said.path("out", f"{said.names[0].rstrip('/').split('/')[-1]}-export")
    there = typed.runs_of(said, said.names, checkpoints=True)
    if said.has("best"):
        from cluster import best

        result = best.export_best(said.names[0], there, said.families, out)
    else:
        result = exporting.export(said.names[0], there, said.families, out)
    of = f" of {result['trial']}" if "trial" in result else ""
    return Answer(result, f"{result['folder']}: {', '.join(result['files'])}{of}, of step {result['step']}")


def predict(said: Words, progress: Progress) -> Answer | None:
    from cluster import predicting

    top = said.number("top", 2, 1) if said.has("top") else None
    if said.problems:
        return None
    name, *files = said.names
    runs = typed.runs_of(said, [name], checkpoints=True)
    wanted = predicting.PredictCommand(name, tuple(map(expanded, files)), runs, said.families, top, said.has("best"))
    result = predicting.carry_out(wanted, progress.doing)
    progress.end()
    broken = predicting.broken(result)
    for problem in broken:
        progress.say(sentence(problem))
    return Answer(result, predicting.text(result, top), FAILED if broken else 0, broken)


def report(said: Words, progress: Progress) -> Answer | None:
    from cluster.page import make

    if said.problems:
        return None
    wanted = make.ReportCommand(
        tuple(said.names), said.path("out", "") if said.has("out") else None, said.has("single-file"),
        said.has("watch"), typed.runs_of(said, said.names or None),
    )  # fmt: skip
    result = make.carry_out(wanted, progress.say)
    return Answer(result, "\n".join(make.text({**result, "page": from_here(result["page"])})))


def runs(said: Words, progress: Progress) -> Answer | None:
    from cluster import use

    if said.has("remove") and not said.names:
        reason = "name the runs to remove, as in `troupe runs --remove dcgan-1`"
        said.problems.append(Problem("missing", "--remove", reason))
    if said.has("dry-run") and not said.has("remove"):
        said.problems.append(Problem("missing", "--dry-run", "says what --remove would remove", "say that too"))
    if said.problems:
        return None
    folder = typed.runs_of(said, said.names or None)
    if said.has("remove"):
        dry = said.has("dry-run")
        removed = use.remove_runs(folder, said.names, dry)
        words = ("would be removed,", "would be freed") if dry else ("removed,", "freed")
        lines = [f"{row['name']}: {words[0]} {size(row['bytes'])} {words[1]}" for row in removed]
        return Answer({"removed": removed, **({"dry_run": True} if dry else {})}, "\n".join(lines))
    rows = use.list_runs(folder, said.names)
    nothing = f"no runs in {bucket.shown(folder)}; `troupe train dcgan data=digits` makes one"
    return Answer({"runs": rows}, table(rows_of_runs(rows), nothing))


def stop(said: Words, progress: Progress) -> Answer | None:
    from cluster import follow, remote

    if said.problems:
        return None
    if said.has("address"):
        return remote.stop(said.options["address"], said.names[0], progress.say)
    return follow.stop(typed.runs_of(said, said.names), said.names[0], progress.say)


def rank_of(said: Words) -> int | None:
    """The worker whose log is wanted, if not all."""
    rank = said.number("rank", 0, 0) if said.has("rank") else None
    if rank is not None and said.has("address"):
        reason, hint = "a worker's log lies in the run's folder", "leave --address out where you see that"
        said.problems.append(Problem("bad-value", "--rank", reason, hint))
    return rank


def logs(said: Words, progress: Progress) -> Answer | None:
    from cluster import follow, remote

    rank = rank_of(said)
    if said.problems:
        return None
    name, to_the_end = said.names[0], said.has("follow")
    if said.has("address"):
        return remote.followed(said.options["address"], name, to_the_end, said.has("json"), progress.say)
    pieces = follow.logs(typed.runs_of(said, said.names), name, rank, to_the_end)
    return Answer({"name": name, "job": None, "logs": follow.shown(pieces, to_the_end, said.has("json"))}, None)


def submit(said: Words, progress: Progress) -> Answer | None:
    from cluster import remote

    return remote.submit(said, progress)


def jobs(said: Words, progress: Progress) -> Answer | None:
    from cluster import remote

    return remote.jobs(said)


def check(said: Words, progress: Progress) -> Answer | None:
    from cluster import checking

    if said.problems:
        return None
    address = said.options.get("address", "")
    wanted = checking.CheckCommand(
        address or None, said.names[0] if said.names else None, said.settings, typed.runs_of(said, []),
        said.path("data-dir", DATA_DIR), said.families,
    )  # fmt: skip
    if address.startswith(("http://", "https://")):
        there = said.options.get("runs-dir", "")
        if not os.path.isabs(there) and not bucket.is_address(there):
            reason = "say where the runs lie, a whole path as the cluster sees it"
            raise TroupeError(Problem("missing", "--runs-dir", reason), WORDS)
        from cluster.submitting import check as look_there

        words = said.again("address", "families", "json", "debug")
        found = look_there(address, wanted, words, progress.say)
    else:
        found = checking.check(wanted)
    again = f"troupe check {shlex.join(said.again('json', 'debug'))}".strip()
    wrong = [one.problem for one in found if one.state == checking.WRONG]
    result = {"wrong": len(wrong), "findings": [one._asdict() for one in found]}
    return Answer(result, checking.text(found, again), SURROUNDINGS if wrong else 0, wrong)


def families(said: Words, progress: Progress) -> Answer | None:
    from cluster import use

    if said.problems:
        return None
    rows = use.list_families(said.families)
    return Answer({"families": rows}, f"{table(rows)}\n\n`troupe train FAMILY --help` shows the settings of one")


def datasets(said: Words, progress: Progress) -> Answer | None:
    from cluster import use

    if said.problems:
        return None
    folder = said.path("data-dir", DATA_DIR)
    if said.has("remove"):
        freed = use.remove_packed(folder, said.options["remove"])
        text = f"{freed['source']}: its packed copy is removed, {size(freed['bytes'])} freed"
        return Answer({"removed": [freed]}, text)
    known, packed = use.list_datasets(said.families), use.list_packed(folder)
    there = f"\n\npacked folders in {folder}:\n{table(rows_of_packed(packed))}" if packed else ""
    return Answer({"datasets": known, "packed": packed}, table(known) + there)


def env(said: Words, progress: Progress) -> Answer | None:
    from cluster import machine

    if said.problems:
        return None
    facts = machine.facts()
    return Answer(facts, machine.text(facts))


VERBS: dict[str, Callable[..., Answer | None]] = {
    "train": train, "search": search, "verify": verify, "evaluate": evaluate, "sample": sample, "export": export,
    "predict": predict, "report": report, "runs": runs, "stop": stop, "logs": logs, "submit": submit,
    "jobs": jobs, "check": check, "families": families, "datasets": datasets, "env": env,
}  # fmt: skip


def dry_run(resolved: dict[str, Any]) -> Answer:
    parts = [f"{key}: {value}" for key, value in resolved.items() if isinstance(value, str)]
    parts += [f"memory: {resolved['memory']['told']}"] if "memory" in resolved else []
    parts += [f"{key} = {show_value(value)}" for key, value in resolved["settings"].items()]
    for course, title in (("schedule", "learning rate over the run, as a part of its peak"),
                          ("momentum", "momentum over the run")):  # fmt: skip
        if course in resolved:
            from trainers.engine.plots import sparkline

            parts += ["", f"{title}:", sparkline(resolved[course], min(60, width_of(sys.stdout) - 10))]
    parts += ["", *resolved["remarks"]] if "remarks" in resolved else []
    return Answer(resolved, "\n".join(parts))
