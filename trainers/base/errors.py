"""Errors shown to the user, and the exit code for each kind."""

from __future__ import annotations

import difflib
import errno
import os
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from trainers.base.problems import Problem, sentences

FAILED = 1  # the run failed, or `verify` found a difference
USAGE = 2  # the arguments are wrong: all errors are reported at once, before anything starts
ENVIRONMENT = 3  # something is missing: cluster, space, CPUs, GPUs, a data set
CONFLICT = 4  # a name in use, a locked run, different settings
STOPPED = 130  # stopped on request, after saving


class TroupeError(Exception):
    """One or more problems, with the exit code of the command that they end.

    Raised where the problem is found; `cluster.cli.main` prints a line for each after `troupe: ` and exits with `code`.
    """

    def __init__(self, problems: Problem | Iterable[Problem], code: int = FAILED) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        self.code = code
        super().__init__()

    @property
    def mistakes(self) -> list[str]:
        """The problems for users, one line each."""
        return sentences(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.mistakes)

    def __reduce__(self) -> tuple[type[TroupeError], tuple[list[Problem], int]]:
        return type(self), (self.problems, self.code)  # keeps the code when pickled


class Stopped(TroupeError):
    """A stop was requested; the run has saved and can be resumed."""

    def __init__(self, problems: Problem | Iterable[Problem], code: int = STOPPED) -> None:
        super().__init__(problems, code)


class NotStarted(Stopped):
    """A stop was requested before the first step of the run."""

    def __init__(self, problems: Problem | Iterable[Problem] | None = None, code: int = STOPPED) -> None:
        super().__init__(problems or Problem("stopped", reason="stopped before it started"), code)


class Transient(TroupeError):
    """A transient error outside the run, such as a full disk or an unreachable bucket; resuming can succeed."""


class PeerLost(TroupeError):
    """Another worker no longer answers. Never shown: the error of the failed worker is shown instead."""


class Abandoned(BaseException):
    """The caller no longer waits for the computation. Not an Exception, so that no handler treats it as a failure."""


ENDS = (KeyboardInterrupt, GeneratorExit, Abandoned)  # requests for an end; any other exception is a failure


def with_run_name(error: TroupeError, name: str, kept: bool) -> TroupeError:
    """The same error with the name of the run or search to resume; if not `kept`, it never started and nothing is
    saved."""
    error.problems = [replace(one, run=name, kept=kept) if one.resumes else one for one in error.problems]
    return error


def of_worker(rank: int, error: Exception, log: object) -> TroupeError:
    """An unexpected error in one line; its traceback is in the worker's log."""
    message = (message_of(error).strip().splitlines() or ["no reason given"])[0]
    where = "".join(f"{file}:{line}: " for file, line in lines_of_others(error)[-1:])
    reason = f"{where}{type(error).__name__}: {message} (traceback in {log})"
    return TroupeError(Problem("worker-error", f"worker {rank}", reason), FAILED)


def describe_error(error: BaseException) -> str:
    """An error in custom code, in one line: its type and message, and the line and file."""
    where = "".join(f" (line {line} of {file.name})" for file, line in lines_of_others(error)[-1:])
    if isinstance(error, SystemExit):
        return f"sys.exit({message_of(error, lambda: repr(error.code))}) was called{where}"
    return ": ".join(filter(None, [type(error).__name__, " ".join(message_of(error).split())])) + where


def message_of(error: BaseException, tell: Callable[[], object] | None = None) -> str:
    """What `tell` returns about an error, by default its message; empty if that fails: errors of others can raise when
    they are shown."""
    try:
        return str((tell or error.__str__)())
    except ENDS:
        raise
    except BaseException:
        return ""


class Shortage(NamedTuple):
    """A shortage of this machine, or a limit of this process, and the errors that it causes."""

    code: str
    numbers: tuple[int, ...]  # of an OSError
    texts: tuple[str, ...]  # in other errors of libraries, in lower case
    reason: str
    hint: str

    def causes(self, error: BaseException) -> bool:
        number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
        text = str(error).lower() if isinstance(error, (ImportError, RuntimeError)) else ""
        return number in self.numbers or any(part in text for part in self.texts)


SHORTAGES = (
    Shortage("no-memory", (errno.ENOMEM,), ("allocate memory", "failed to map segment", "out of memory", "bad_alloc"),
             "not enough memory", "end other processes, or raise the limit (`ulimit -v`, or that of the container)"),
    Shortage("limit-reached", (errno.EMFILE, errno.ENFILE), ("too many open files",), "too many open files",
             "raise the limit (`ulimit -n`)"),
    Shortage("limit-reached", (errno.EAGAIN,), ("can't start new thread", "resource temporarily unavailable"),
             "no more processes or threads can be started",
             "end other processes, or raise the limit (`ulimit -u`, or that of the container)"),
    Shortage("limit-reached", (errno.EFBIG,), (), "a file is larger than allowed", "raise the limit (`ulimit -f`)"),
    Shortage("no-space", (errno.ENOSPC, errno.EDQUOT), (), "the disk or its quota is full", "free some space"),
)  # fmt: skip


def shortage_of(error: BaseException) -> Problem | None:
    """The problem if an error, or one that led to it, was caused by a shortage; or None."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    for one in seen:
        for shortage in SHORTAGES:
            if shortage.causes(one):
                return Problem(shortage.code, reason=shortage.reason, hint=shortage.hint)
    return None


def lines_of_others(error: BaseException) -> list[tuple[Path, int]]:
    """The frames of a traceback that belong neither to troupe nor to an installed package, outermost first: those of
    a custom family or data source."""
    root, frames = Path(__file__).parents[2], list[tuple[Path, int]]()
    known = {root / "trainers", root / "cluster", Path(os.__file__).parent}
    raised = error.__cause__ if isinstance(error.__cause__, SystemExit) else error
    for frame, line in traceback.walk_tb(raised.__traceback__):
        file = Path(frame.f_code.co_filename)
        if file.is_absolute() and "site-packages" not in file.parts and not known & {*file.parents}:
            frames.append((file, line))
    return frames


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean X?` for the known word closest to `word`, or an empty text."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""
