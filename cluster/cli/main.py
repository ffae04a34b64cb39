"""The command `troupe`. Imports neither torch nor Ray until the arguments are valid."""

from __future__ import annotations

import atexit
import contextlib
import errno
import faulthandler
import os
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence

from cluster.cli import parser as grammar
from cluster.cli import verbs
from cluster.cli.help import arguments_of, help_text
from cluster.host.environment import restart_process
from cluster.host.signals import ignore_signals, take_signals
from cluster.requests.models import REQUESTS
from cluster.terminal.answers import JOB, Answer, as_json, as_record
from cluster.terminal.progress import Progress
from cluster.terminal.streams import descriptor, flush, never_refuse, open_streams
from cluster.terminal.tables import ROWS, paragraphs
from trainers.base.errors import (
    ENVIRONMENT,
    FAILED,
    STOPPED,
    NotStarted,
    Stopped,
    TroupeError,
    message_of,
    shortage_of,
)
from trainers.base.problems import Problem, sentence
from trainers.base.timeouts import WAITS
from trainers.base.version import __version__

SHOWING = ("train", "search", "verify")  # verbs whose progress is part of their output, on stdout


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code."""
    try:
        open_streams()
        given = sys.argv[1:] if arguments is None else list(arguments)
        if given[:1] == ["train"] and arguments is None and "--help" not in given and "--dry-run" not in given:
            restart_process()  # before anything heavy is imported
        take_signals()
        for stream in (sys.stdout, sys.stderr):
            never_refuse(stream)
    except KeyboardInterrupt:
        os._exit(STOPPED)
    try:
        code = command(given)
        ignore_signals()  # the output is complete; a signal would only add a traceback
    except KeyboardInterrupt:  # between the handlers that would have reported it
        ignore_signals()
        code = STOPPED
    for stream in (sys.stdout, sys.stderr):  # output that a closed pipe did not take would change the exit code
        try:
            flush(stream)
        except (OSError, ValueError):
            if (file := descriptor(stream)) is not None:
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), file)
    end(code)


def end(code: int) -> None:
    """End the process with its exit code, after at most `WAITS.clean_up` seconds: our work is done, and the exit
    handlers of libraries can hang."""

    def give_up() -> None:
        time.sleep(WAITS.clean_up)
        os._exit(code)

    try:
        threading.Thread(target=give_up, daemon=True).start()
        with contextlib.suppress(OSError):  # exits with code 1 if no Python thread gets to run
            nowhere = os.open(os.devnull, os.O_WRONLY)
            faulthandler.dump_traceback_later(WAITS.clean_up + 2, exit=True, file=nowhere)
    except RuntimeError:  # no process id is left for a thread to use
        os._exit(code)
    if (ray := sys.modules.get("ray")) is not None:
        atexit.unregister(ray.shutdown)  # if it had started, it has been disconnected; if not, this can hang
    if ray is not None or "torch" in sys.modules:  # their destructors take a second, and can hang
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)


def command(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. With `--json` it prints one object to stdout, whatever the outcome; as a
    job, it prints a record at the end."""
    json_too = any(word.partition("=")[0] == "--json" for word in arguments)
    redirected = contextlib.redirect_stdout(sys.stderr) if json_too else contextlib.nullcontext()
    with redirected:  # whatever libraries print meanwhile
        answer = caught(arguments, lambda: carried_out(arguments))
    verb = arguments[0] if arguments and arguments[0] in REQUESTS else None
    answer = caught(arguments, lambda: written(as_json(verb, answer) if json_too else wrapped_text(answer), answer))
    if os.environ.get(JOB) == "1":
        answer = caught(arguments, lambda: written(as_record(answer), answer))
    return answer.code


def carried_out(arguments: Sequence[str]) -> Answer:
    """The answer of a command. Raises the error that ends it early."""
    parsed = grammar.parse(arguments)
    if "--version" in arguments and set(arguments) <= {"--version", "--json"}:
        return Answer({"version": __version__}, f"troupe {__version__}")
    if parsed.help:
        text = help_text(parsed)
        return Answer({"help": text, **arguments_of(parsed)}, text)
    more = {"with_text": True} if parsed.verb == "logs" and parsed.has("json") else {}
    progress = Progress(sys.stdout if parsed.verb in SHOWING else sys.stderr)
    return verbs.carry_out(parsed.request, progress, parsed.problems, **more)


def caught(arguments: Sequence[str], do: Callable[[], Answer]) -> Answer:
    """The answer of `do`; if it fails, an answer with its problems, printed to stderr."""
    try:
        return do()
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        answer = answer_of(error)
    for problem in answer.problems:
        Progress(sys.stderr).notify(sentence(problem))
    return answer


def answer_of(error: BaseException) -> Answer:
    """The exit code and the problems for the error that ended a command, and whether it was a stop after saving."""
    if isinstance(error, TroupeError):
        saved = isinstance(error, Stopped) and not isinstance(error, NotStarted)
        return Answer(None, None, error.code, error.problems, saved if error.code == STOPPED else None)
    if isinstance(error, KeyboardInterrupt):
        problem = Problem("interrupted", reason="interrupted; saved checkpoints are kept")
        return Answer(None, None, STOPPED, [problem], False)
    if (shortage := shortage_of(error)) is not None:
        return Answer(None, None, ENVIRONMENT, [shortage])
    line = (message_of(error).splitlines() or [""])[0]
    reason = f"{line} (internal error: --debug shows where; please report it with `troupe env`)"
    return Answer(None, None, FAILED, [Problem("internal", type(error).__name__, reason)])


def wrapped_text(answer: Answer) -> str | None:
    """The text of an answer, wrapped to the terminal."""
    return paragraphs(answer.text, ROWS) if answer.text else None


def written(text: str | None, answer: Answer) -> Answer:
    """Print a command's answer. A closed pipe or terminal is no error. Raises TroupeError (exit code 3) if it cannot be
    written, as on a full disk."""
    if text is None:
        return answer
    try:
        print(text)
        flush(sys.stdout)
    except BrokenPipeError:
        return answer
    except OSError as error:
        file = descriptor(sys.stdout)
        if error.errno == errno.EIO and file is not None and stat.S_ISCHR(os.fstat(file).st_mode):
            return answer
        reason = f"the output could not be written ({error.strerror})"
        raise TroupeError(Problem("not-written", reason=reason), ENVIRONMENT) from None
    return answer
