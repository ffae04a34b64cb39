"""The command `troupe`. Imports neither torch nor Ray until the words are right."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from cluster import typed
from cluster import words as grammar
from cluster.environment import start_anew
from cluster.help import help_text
from cluster.show import ROWS, Progress, from_here, lines_of, paragraphs, table, tell, width_of
from cluster.typed import Answer
from cluster.words import Words
from trainers.engine import bucket
from trainers.engine.errors import FAILED, STOPPED, SURROUNDINGS, WORDS, TroupeError
from trainers.engine.paths import DATA_DIR, expanded
from trainers.version import __version__


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["train"] and arguments is None and "--help" not in given and "--dry-run" not in given:
        start_anew()  # before anything heavy is imported
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, also before there is anything to save
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):  # there may be none
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    code = command(given)
    for stream in (sys.stdout, sys.stderr):  # what a reader who has gone did not take would else change the exit code
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if "ray" in sys.modules:  # taking apart what it leaves in this process takes a second
        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)


def command(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    if list(arguments) == ["--version"]:
        tell(f"troupe {__version__}")
        return 0
    said = grammar.parse(arguments)
    try:
        if said.help:
            return written(help_text(said), 0)
        answer = HANDLERS[said.verb](said) if said.verb in HANDLERS else None
        if said.mistakes:
            raise TroupeError(said.mistakes, WORDS)
        if answer is None:
            return 0
        result, text, code = answer
        return written(json.dumps(result, indent=1) if said.has("json") else text, code)
    except TroupeError as error:
        if said.has("debug"):
            traceback.print_exc()
        for line in error.mistakes:
            tell(f"troupe: {line}", sys.stderr)
        return error.code
    except KeyboardInterrupt:
        tell("troupe: stopped at once; what was saved before is good", sys.stderr)
        return STOPPED
    except Exception as error:
        if said.has("debug"):
            raise
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        tell(f"troupe: {line} (a bug of ours: --debug shows where; please report it with `troupe env`)", sys.stderr)
        return FAILED


def written(text: str, code: int) -> int:
    """Print a command's answer; its exit code. A reader that has gone wanted no more, a full disk loses it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        return code
    except OSError as error:
        raise TroupeError(f"the output could not be written ({error.strerror})", SURROUNDINGS) from None
    return code


def train(said: Words) -> Answer | None:
    from cluster import launch, prepare

    needed = [said.options.get("resume"), said.options.get("from")]
    wanted = typed.train_command(said, typed.runs_of(said, needed, checkpoints=True))
    if said.mistakes:  # words that the parser found wrong, with those that only the family can
        typed.add_mistakes(said, lambda: prepare.prepare(wanted))
        return None
    if said.has("dry-run"):
        return dry_run(prepare.dry_run(wanted))
    result = launch.launch(wanted, Progress(sys.stderr if said.has("json") else sys.stdout), own_process=True)
    return result, paragraphs("\n".join(lines_of(result, launch.SHOWN)), ROWS), 0


def search(said: Words) -> Answer | None:
    from cluster import prepare_search, searching

    wanted = typed.search_command(said, typed.runs_of(said, [said.options.get("resume")]))
    if said.mistakes:
        typed.add_mistakes(said, lambda: prepare_search.prepare(wanted))
        return None
    if said.has("dry-run"):
        expected = searching.dry_run(wanted)
        return expected, paragraphs("\n".join(searching.text_of_dry_run(expected)), ROWS), 0
    result = searching.carry_out(wanted, Progress(sys.stderr if said.has("json") else sys.stdout))
    return result, searching.text(result), 0


def verify(said: Words) -> Answer | None:
    from cluster import verify as proof

    wanted = proof.VerifyCommand(
        said.names[0] if said.names else "", said.settings, said.path("data-dir", DATA_DIR), said.families
    )
    if said.mistakes:
        if wanted.family:
            typed.add_mistakes(said, lambda: proof.prepare(wanted))
        return None
    if said.has("dry-run"):
        return dry_run(proof.dry_run(wanted))
    stream = sys.stderr if said.has("json") else sys.stdout
    result = proof.verify(wanted, Progress(stream).line)
    return result, proof.text(result), 0 if result["passed"] else FAILED


def evaluate(said: Words) -> Answer | None:
    from cluster import evaluate as verdict

    wanted = verdict.EvaluateCommand(
        said.names[0] if said.names else "", said.settings, said.path("weights", "") if said.has("weights") else None,
        typed.runs_of(said, said.names, checkpoints=True), said.path("data-dir", DATA_DIR), said.families,
        said.path("out", "") if said.has("out") else None,
    )  # fmt: skip
    if said.mistakes:
        if wanted.name:
            typed.add_mistakes(said, lambda: verdict.prepare(wanted))
        return None
    progress = Progress(sys.stderr)
    result = verdict.evaluate(wanted, progress.doing)
    progress.end()
    return result, verdict.text(result), 0


def sample(said: Words) -> Answer | None:
    from cluster import use

    count, seed, top = said.number("count", 64, 1), said.number("seed", 0, 0), said.number("top", 1, 1)
    runs = typed.runs_of(said, said.names, checkpoints=True)
    if said.mistakes:
        if said.names and said.settings:
            typed.add_mistakes(said, lambda: use.asked_of(said.names[0], runs, said.families, said.settings, count))
        return None
    out = said.path("out", "") if said.has("out") else None
    if said.has("top"):
        from cluster import best

        result = best.sample_top(said.names[0], runs, said.families, said.settings, top, count, seed, out,
                                 said.path("data-dir", DATA_DIR))  # fmt: skip
        return result, f"{result['file']}: {result['count']} samples each of {', '.join(result['trials'])}", 0
    result = use.sample(said.names[0], runs, said.families, said.settings, count, seed, out,
                        said.path("data-dir", DATA_DIR))  # fmt: skip
    lines = [f"{result['file']}: {result['count']} samples of step {result['step']}"]
    return result, "\n".join([*lines, *(f"  note: {note}" for note in result["notes"])]), 0


def export(said: Words) -> Answer | None:
    from cluster import use

    if said.mistakes:
        return None
    out = said.path("out", f"{said.names[0].rstrip('/').split('/')[-1]}-export")
    there = typed.runs_of(said, said.names, checkpoints=True)
    if said.has("best"):
        from cluster import best

        result = best.export_best(said.names[0], there, said.families, out)
    else:
        result = use.export(said.names[0], there, said.families, out)
    of = f" of {result['trial']}" if "trial" in result else ""
    return result, f"{result['folder']}: {', '.join(result['files'])}{of}, of step {result['step']}", 0


def predict(said: Words) -> Answer | None:
    from cluster import predicting

    top = said.number("top", 2, 1) if said.has("top") else None
    if said.mistakes:
        return None
    name, *files = said.names
    runs = typed.runs_of(said, [name], checkpoints=True)
    wanted = predicting.PredictCommand(name, tuple(map(expanded, files)), runs, said.families, top, said.has("best"))
    progress = Progress(sys.stderr)
    result = predicting.carry_out(wanted, progress.doing)
    progress.end()
    for line in predicting.broken(result):
        tell(f"troupe: {line}", sys.stderr)
    return result, predicting.text(result, top), FAILED if result["unreadable"] else 0


def report(said: Words) -> Answer | None:
    from cluster.page import make

    if said.mistakes:
        return None
    wanted = make.ReportCommand(
        tuple(said.names), said.path("out", "") if said.has("out") else None, said.has("single-file"),
        said.has("watch"), typed.runs_of(said, said.names or None),
    )  # fmt: skip
    result = make.carry_out(wanted, Progress(sys.stderr).say)
    return result, "\n".join(make.text({**result, "page": from_here(result["page"])})), 0


def runs(said: Words) -> Answer | None:
    from cluster import use

    if said.has("remove") and not said.names:
        said.mistakes.append("--remove: name the runs to remove, as in `troupe runs --remove dcgan-1`")
    if said.mistakes:
        return None
    folder = typed.runs_of(said, said.names or None)
    if said.has("remove"):
        removed = use.remove_runs(folder, said.names)
        return removed, "\n".join(f"{row['name']}: removed, {row['size']} freed" for row in removed), 0
    rows = use.list_runs(folder, said.names)
    return rows, table(rows, f"no runs in {bucket.shown(folder)}; `troupe train dcgan data=digits` makes one"), 0


def stop(said: Words) -> Answer | None:
    from cluster import follow

    if said.mistakes:
        return None
    say = Progress(sys.stderr).say
    if said.has("address"):
        from cluster import dashboard

        job = dashboard.reach(said.options["address"]).stop(said.names[0], say)
        ended = job["saved"] or job["state"] == "SUCCEEDED"
        return (
            job,
            dashboard.why(job) + (f"; go on with `{job['resume']}`" if job["saved"] else ""),
            0 if ended else FAILED,
        )
    result = follow.stop(typed.runs_of(said, said.names), said.names[0], say)
    return result, follow.text(result), 0


def logs(said: Words) -> Answer | None:
    from cluster import follow, remote

    rank = said.number("rank", 0, 0) if said.has("rank") else None
    if rank is not None and said.has("address"):
        said.mistakes.append("--rank: a worker's log lies in the run's folder; leave --address out where you see that")
    if said.mistakes:
        return None
    if said.has("address"):
        return remote.followed(said.options["address"], said.names[0], said.has("follow"))
    follow.show(follow.logs(typed.runs_of(said, said.names), said.names[0], rank, said.has("follow")))
    return None


def submit(said: Words) -> Answer | None:
    from cluster import remote

    return remote.submit(said)


def jobs(said: Words) -> Answer | None:
    from cluster import remote

    return remote.jobs(said)


def check(said: Words) -> Answer | None:
    from cluster import check as look

    if said.mistakes:
        return None
    address = said.options.get("address", "")
    wanted = look.CheckCommand(
        address or None, said.names[0] if said.names else None, said.settings, typed.runs_of(said, []),
        said.path("data-dir", DATA_DIR), said.families,
    )  # fmt: skip
    if address.startswith(("http://", "https://")):
        there = said.options.get("runs-dir", "")
        if not os.path.isabs(there) and not bucket.is_address(there):
            raise TroupeError("--runs-dir: say where the runs lie, a whole path as the cluster sees it", WORDS)
        from cluster.jobs import check as look_there

        words = said.again("address", "families", "json", "debug")
        found = look_there(address, wanted, words, Progress(sys.stderr).say)
    else:
        found = look.check(wanted)
    again = f"troupe check {shlex.join(said.again('json', 'debug'))}".strip()
    return [one._asdict() for one in found], look.text(found, again), look.code_of(found)


def families(said: Words) -> Answer | None:
    from cluster import use

    if said.mistakes:
        return None
    rows = use.list_families(said.families)
    return rows, f"{table(rows, 'none')}\n\n`troupe train FAMILY --help` shows the settings of one", 0


def datasets(said: Words) -> Answer | None:
    from cluster import use

    if said.mistakes:
        return None
    folder = said.path("data-dir", DATA_DIR)
    if said.has("remove"):
        freed = use.remove_packed(folder, said.options["remove"])
        return freed, f"{freed['source']}: its packed copy is removed, {freed['size']} freed", 0
    known, packed = use.list_datasets(said.families), use.list_packed(folder)
    text = table(known, "none") + (f"\n\npacked folders in {folder}:\n{table(packed, '')}" if packed else "")
    return {"datasets": known, "packed": packed}, text, 0


def env(said: Words) -> Answer | None:
    from cluster import use

    if said.mistakes:
        return None
    facts = use.environment_facts()
    width = max(map(len, facts))
    block = "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())
    return facts, f"Paste this into the bug report:\n\n```\n{block}\n```", 0


HANDLERS: dict[str, Callable[[Words], Answer | None]] = {
    "train": train, "search": search, "verify": verify, "evaluate": evaluate, "sample": sample, "export": export,
    "predict": predict, "report": report, "runs": runs, "stop": stop, "logs": logs, "submit": submit,
    "jobs": jobs, "check": check, "families": families, "datasets": datasets, "env": env,
}  # fmt: skip


def dry_run(resolved: dict[str, Any]) -> Answer:
    from trainers.engine.settings import show_value

    parts = [f"{key}: {value}" for key, value in resolved.items() if isinstance(value, str)]
    parts += [f"{key} = {show_value(value)}" for key, value in resolved["settings"].items()]
    for course, title in (("schedule", "learning rate over the run, as a part of its peak"),
                          ("momentum", "momentum over the run")):  # fmt: skip
        if course in resolved:
            from trainers.engine.plots import sparkline

            parts += ["", f"{title}:", sparkline(resolved[course], min(60, width_of(sys.stdout) - 10))]
    parts += ["", *resolved["remarks"]] if "remarks" in resolved else []
    return resolved, paragraphs("\n".join(parts), ROWS), 0


if __name__ == "__main__":
    main()
