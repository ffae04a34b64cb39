"""What can go wrong for the person at the keyboard, and the exit code that says which kind it was."""

from __future__ import annotations

import difflib
import os
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

FAILED = 1  # the run failed, or `verify` found a difference
WORDS = 2  # the words are wrong: all mistakes are told at once, before anything starts
SURROUNDINGS = 3  # something is missing: cluster, space, CPUs, GPUs, a data set
CONFLICT = 4  # a name in use, a locked run, another recipe
STOPPED = 130  # stopped on request, after saving


class TroupeError(Exception):
    """One or more mistakes, a line each, with the exit code of the command that made them.

    Raised where the mistake is known; `cluster.cli` prints each line after `troupe: ` and exits with `code`.
    """

    def __init__(self, mistakes: str | Iterable[str], code: int = FAILED) -> None:
        self.mistakes = [mistakes] if isinstance(mistakes, str) else list(mistakes)
        self.code = code
        super().__init__("\n".join(self.mistakes))

    def __reduce__(self) -> tuple[type[TroupeError], tuple[list[str], int]]:
        return type(self), (self.mistakes, self.code)  # keeps the code on its way between processes


class Stopped(TroupeError):
    """The run was asked to stop, has saved, and can go on with `--resume`."""

    def __init__(self, mistakes: str | Iterable[str], code: int = STOPPED) -> None:
        super().__init__(mistakes, code)


class NotBegun(Stopped):
    """The run was asked to stop before its first step."""

    def __init__(self, mistakes: str | Iterable[str] = "stopped before it began", code: int = STOPPED) -> None:
        super().__init__(mistakes, code)


class Passing(TroupeError):
    """No fault of the run, and it may have passed when it goes on: a disk that is full, a bucket out of reach."""


class PeerLost(TroupeError):
    """This worker is fine, but another one no longer answers. Never shown: the guilty worker's own error is."""


ADVICE = re.compile(r"(;|, then|,) go on with --resume(?! \w)")


def naming(error: TroupeError, name: str, kept: bool) -> TroupeError:
    """The same error, whose advice to go on names the run; or says that nothing of it is `kept`, as it never began."""
    advice = rf"\1 go on with --resume {name}" if kept else "; nothing of the run is kept, as it had not begun"
    error.mistakes = [ADVICE.sub(advice, line) for line in error.mistakes]
    error.args = ("\n".join(error.mistakes),)
    return error


def without_advice(line: str) -> str:
    """The same line of a run that is not gone on with by itself, but with its search."""
    return ADVICE.sub("", line)


def of_worker(rank: int, error: Exception, log: object) -> TroupeError:
    """An error that nobody foresaw, in one line; its traceback is in the worker's log."""
    said = (str(error).strip().splitlines() or ["no reason is given"])[0]
    where = "".join(f"{file}:{line}: " for file, line in lines_of_others(error)[-1:])
    return TroupeError(f"worker {rank}: {where}{type(error).__name__}: {said} (traceback in {log})", FAILED)


def told_of(error: BaseException) -> str:
    """An error in somebody's own code, in a line: which, and in which line of which file."""
    where = "".join(f" (line {line} of {file.name})" for file, line in lines_of_others(error)[-1:])
    if isinstance(error, SystemExit):
        return f"sys.exit({error.code!r}) was called{where}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def lines_of_others(error: BaseException) -> list[tuple[Path, int]]:
    """The lines of files through which an error came that are neither ours nor of an installed package, outermost
    first: those of a family or a data source of one's own."""
    root, found = Path(__file__).parents[2], list[tuple[Path, int]]()
    known = {root / "trainers", root / "cluster", Path(os.__file__).parent}
    whose = error.__cause__ if isinstance(error.__cause__, SystemExit) else error
    for frame, line in traceback.walk_tb(whose.__traceback__):
        file = Path(frame.f_code.co_filename)
        if file.is_absolute() and "site-packages" not in file.parts and not known & {*file.parents}:
            found.append((file, line))
    return found


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known word nearest to `word`, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
