"""The command `troupe`. Imports neither torch nor Ray until the words are right."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import signal
import stat
import sys
import traceback
from collections.abc import Callable, Sequence

from cluster import verbs
from cluster import words as grammar
from cluster.answers import Answer, as_json
from cluster.columns import ROWS, paragraphs
from cluster.environment import start_anew
from cluster.help import help_text
from cluster.show import Progress
from cluster.signals import take_signals
from cluster.streams import never_refuse, open_streams
from trainers.engine.errors import FAILED, STOPPED, SURROUNDINGS, TroupeError
from trainers.version import __version__

SHOWING = ("train", "search", "verify")  # verbs whose progress is part of what they show


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code."""
    try:
        open_streams()
        given = sys.argv[1:] if arguments is None else list(arguments)
        if given[:1] == ["train"] and arguments is None and "--help" not in given and "--dry-run" not in given:
            start_anew()  # before anything heavy is imported
        take_signals()
        for stream in (sys.stdout, sys.stderr):
            never_refuse(stream)
    except KeyboardInterrupt:
        os._exit(STOPPED)
    code = command(given)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said; what is left would be a traceback
    for stream in (sys.stdout, sys.stderr):  # what a reader who has gone did not take would else change the exit code
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if "ray" in sys.modules:  # taking apart what it leaves in this process takes a second
        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)


def command(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. With `--json` stdout gets one object, however it ends."""
    json_too = any(word.partition("=")[0] == "--json" for word in arguments)
    elsewhere = contextlib.redirect_stdout(sys.stderr) if json_too else contextlib.nullcontext()
    with elsewhere:  # what anybody prints meanwhile
        answer = caught(arguments, lambda: carried_out(arguments))
    verb = arguments[0] if arguments and arguments[0] in grammar.VERBS else None
    return caught(arguments, lambda: written(as_json(verb, answer) if json_too else shown(answer), answer)).code


def carried_out(arguments: Sequence[str]) -> Answer:
    """What a command comes to. Raises whatever ends it early."""
    said = grammar.parse(arguments)
    if "--version" in arguments and set(arguments) <= {"--version", "--json"}:
        return Answer({"version": __version__}, f"troupe {__version__}")
    if said.help:
        text = help_text(said)
        return Answer({"help": text}, text)
    return verbs.carry_out(said, Progress(sys.stdout if said.verb in SHOWING else sys.stderr))


def caught(arguments: Sequence[str], do: Callable[[], Answer]) -> Answer:
    """The answer; where there is none, its mistakes, told on stderr."""
    try:
        return do()
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        code, lines = told_of(error)
    for line in lines:
        Progress(sys.stderr).say(line)
    return Answer(None, None, code, lines)


def told_of(error: BaseException) -> tuple[int, list[str]]:
    """The exit code and the lines for what ended a command."""
    if isinstance(error, TroupeError):
        return error.code, error.mistakes
    if isinstance(error, KeyboardInterrupt):
        return STOPPED, ["stopped at once; nothing that was saved is lost"]
    line = f"{type(error).__name__}: {error}".splitlines()[0]
    return FAILED, [f"{line} (a bug of ours: --debug shows where; please report it with `troupe env`)"]


def shown(answer: Answer) -> str | None:
    """What people read of an answer, within the columns of their terminal."""
    return paragraphs(answer.text, ROWS) if answer.text else None


def written(text: str | None, answer: Answer) -> Answer:
    """Print a command's answer. A reader that has gone, as a terminal that was closed, wanted no more; a full disk
    loses it."""
    if text is None:
        return answer
    try:
        print(text, flush=True)
    except BrokenPipeError:
        return answer
    except OSError as error:
        if error.errno == errno.EIO and stat.S_ISCHR(os.fstat(sys.stdout.fileno()).st_mode):
            return answer
        raise TroupeError(f"the output could not be written ({error.strerror})", SURROUNDINGS) from None
    return answer


if __name__ == "__main__":
    main()
