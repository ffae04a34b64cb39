"""Logs and stops of runs and searches of other processes. The lock of a run shows whether a process works on it; a
file in its folder requests a stop. Both work on this machine and on any that sees the folder."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cluster.ranking import leaderboard
from cluster.terminal.answers import Answer
from cluster.terminal.progress import duration
from cluster.terminal.streams import flush
from trainers.base.errors import CONFLICT, ENVIRONMENT, FAILED, STOPPED, USAGE, TroupeError
from trainers.base.paths import TRIALS
from trainers.base.problems import Problem, sentence
from trainers.base.timeouts import WAITS
from trainers.run_folders import run_folder, run_locks
from trainers.run_folders.run_folder import SAVED, SEARCH, STOP_FILE, RunFolder
from trainers.storage import checkpoint

PIECE = 1 << 16  # bytes that are read at once
Piece = tuple[int | None, str]  # of a log: the rank that printed it, None for a job


def stop(runs: Path, name: str, notify: Callable[[str], None]) -> Answer:
    """Let a run or a search save and end, and wait until it has.

    Raises TroupeError: exit code 2 for an unknown name or a trial, 3 if its folder cannot be written, 4 if it is not
    running, 130 if Ctrl-C ends the waiting.
    """
    is_search = leaderboard.is_search(runs, name)
    path = leaderboard.find_search(runs, name).path if is_search else run_folder.find_run(runs, name).path
    if path.parent.name == TRIALS and os.path.exists(path.parent.parent / SEARCH):
        hint = f"stop its search, `troupe stop {path.parent.parent.name}`"
        raise TroupeError(Problem("not-a-run", name, "is a trial", hint), USAGE)

    def under_way() -> bool:
        return run_locks.is_held(path) if is_search else RunFolder(path).working

    if not under_way():
        reason = "already finished" if _finished(path, is_search) else "not running"
        raise TroupeError(Problem("not-working", name, reason, "`troupe runs` shows what is running"), CONFLICT)
    with checkpoint.writing_checkpoint(path):
        (path / STOP_FILE).touch()
    started, next_line = time.monotonic(), 0.0
    try:
        while under_way():
            time.sleep(WAITS.poll_log)
            if under_way() and not (path / STOP_FILE).exists():  # a starting run removes old requests
                with checkpoint.writing_checkpoint(path):
                    (path / STOP_FILE).touch()
            waited = time.monotonic() - started
            if waited > next_line:
                next_line = max(5.0, 2 * next_line)
                notify(f"{name}: saving" + (f", for {duration(waited)}" if waited > 1 else ""))
    except KeyboardInterrupt:
        raise TroupeError(
            Problem("interrupted", name, "will still save and stop; no longer waiting for it"), STOPPED
        ) from None
    saved = False
    with contextlib.suppress(OSError):  # kept for other waiting processes; a resume removes it
        saved = (path / STOP_FILE).read_text(encoding="utf-8") == SAVED  # written by its owner
    newest = checkpoint.newest_intact(RunFolder(path).checkpoints) if not is_search else None
    return _answer(
        {
            "name": name,
            "job": None,
            "finished": _finished(path, is_search),
            "saved": saved,
            "step": checkpoint.position_of(newest.name)[0] if newest is not None else None,
            "resume": f"troupe {'search' if is_search else 'train'} --resume {name}",
        },
        is_search,
    )


def _finished(path: Path, is_search: bool) -> bool:
    """Whether a run, or every trial of a search, has finished."""
    if is_search:
        return all(trial.state not in leaderboard.OPEN for trial in leaderboard.read_search(path).trials)
    return RunFolder(path).read_result() is not None


def _answer(stopped: dict[str, Any], is_search: bool) -> Answer:
    """The answer of `stop` for a run or a search; a problem if it neither finished nor saved."""
    name, saved, hint = stopped["name"], stopped["saved"], f"resume with `{stopped['resume']}`"
    if stopped["finished"]:
        return Answer(stopped, f"{name}: finished before it could be stopped")
    where = f" at step {stopped['step']}" if stopped["step"] is not None else ""
    if saved:
        return Answer(stopped, f"{name}: stopped and saved{where}; {hint}")
    problem = Problem("not-saved", name, f"ended without saving, its newest checkpoint{where}", hint)
    if stopped["step"] is None and not is_search:
        problem = Problem("not-saved", name, "ended before its first checkpoint")
    return Answer(stopped, sentence(problem), FAILED, [problem])


def logs(runs: Path, name: str, rank: int | None, follow: bool) -> Iterator[Piece]:
    """The output of a run's workers, piece by piece, each with its rank: of one rank, or of all in turn.

    `follow`: of one rank (the first if none is named), until the run ends. Raises TroupeError (exit code 2) if there
    is no such run or rank.
    """
    folder = run_folder.find_run(runs, name)
    existing = sorted(folder.logs.glob("rank_*.log"), key=run_folder.natural_path)
    if rank is not None and folder.log(rank) not in existing:
        ranks = ", ".join(path.stem.removeprefix("rank_") for path in existing) or "none"
        reason, hint = f"{folder.name} has no log of it", f"ranks that have one: {ranks}"
        raise TroupeError(Problem("bad-value", "--rank", reason, hint, rank), USAGE)
    if follow:
        return _followed(folder, rank or 0)
    chosen = existing if rank is None else [folder.log(rank)]
    return (
        (int(path.stem.removeprefix("rank_")), path.read_text(encoding="utf-8", errors="replace")) for path in chosen
    )


def _followed(folder: RunFolder, rank: int) -> Iterator[Piece]:
    path, offset, decoder = folder.log(rank), 0, codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        working = folder.working
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:  # its worker may not have started
            file.seek(offset)
            while piece := file.read(PIECE):
                offset += len(piece)
                yield rank, decoder.decode(piece)
        if not working:
            return
        time.sleep(WAITS.poll_log)


def headed(pieces: Iterable[Piece], follow: bool) -> Iterator[str]:
    """The texts of pieces; if they are of several ranks, each under a heading."""
    collected = pieces if follow else list(pieces)
    several = isinstance(collected, list) and len(collected) > 1
    for rank, piece in collected:
        yield f"==> rank_{rank}.log <==\n{piece}" if several else piece


def print_pieces(pieces: Iterable[Piece], follow: bool, keep: bool) -> list[dict[str, Any]]:
    """Print pieces as they arrive. `keep`: return the text of each rank, and print only with `follow`."""
    texts_of: dict[int | None, list[str]] = {}

    def recorded() -> Iterator[Piece]:
        for rank, piece in pieces:
            if keep:
                texts_of.setdefault(rank, []).append(piece)
            yield rank, piece

    texts = headed(recorded(), follow)
    if keep and not follow:
        for _ in texts:
            pass
    else:
        show(texts)
    return [{"rank": rank, "text": "".join(parts)} for rank, parts in texts_of.items()]


def show(pieces: Iterable[str]) -> None:
    """Print pieces as they arrive, until the reader closes the pipe or the user presses Ctrl-C."""
    try:
        for piece in pieces:
            try:
                sys.stdout.write(piece)
                flush(sys.stdout)
            except BrokenPipeError:
                return
            except OSError as error:
                reason = f"the output could not be written ({error.strerror})"
                raise TroupeError(Problem("not-written", reason=reason), ENVIRONMENT) from None
    except KeyboardInterrupt:
        return
