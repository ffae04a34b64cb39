"""Runs and searches that others carry out: what their workers print, and how they are stopped. Whoever works on one is
known by its lock, and told by a file in its folder: on this machine, or on any that sees the folder."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cluster.searching import leaderboard
from cluster.terminal.answers import Answer
from cluster.terminal.progress import duration
from cluster.terminal.streams import flush
from trainers.base.errors import CONFLICT, FAILED, STOPPED, SURROUNDINGS, WORDS, TroupeError
from trainers.base.paths import TRIALS
from trainers.base.problems import Problem, sentence
from trainers.base.timeouts import WAITS
from trainers.run_folders import run_folder, run_locks
from trainers.run_folders.run_folder import SAVED, SEARCH, STOP_FILE, RunFolder
from trainers.storage import checkpoint

PIECE = 1 << 16  # bytes that are read at once
Piece = tuple[int | None, str]  # of a log: the rank that printed it, None for a job


def stop(runs: Path, name: str, say: Callable[[str], None]) -> Answer:
    """Let a run or a search save and end, and wait until it has.

    Raises TroupeError: exit code 2 for no such name or a trial, 3 where its folder cannot be written, 4 where nobody
    works on it, 130 where Ctrl-C ends the waiting.
    """
    whole = leaderboard.is_search(runs, name)
    path = leaderboard.find(runs, name).path if whole else run_folder.find(runs, name).path
    if path.parent.name == TRIALS and os.path.exists(path.parent.parent / SEARCH):
        hint = f"stop its search, `troupe stop {path.parent.parent.name}`"
        raise TroupeError(Problem("not-a-run", name, "is a trial", hint), WORDS)

    def under_way() -> bool:
        return run_locks.is_held(path) if whole else RunFolder(path).working

    if not under_way():
        reason = f"nobody works on it, it {'has finished' if _finished(path, whole) else 'stands still'}"
        raise TroupeError(Problem("not-working", name, reason, "`troupe runs` shows what is under way"), CONFLICT)
    with checkpoint.writing(path):
        (path / STOP_FILE).touch()
    begun, next_line = time.monotonic(), 0.0
    try:
        while under_way():
            time.sleep(WAITS.look_at_log)
            if under_way() and not (path / STOP_FILE).exists():  # a run that begins clears away what is old
                with checkpoint.writing(path):
                    (path / STOP_FILE).touch()
            waited = time.monotonic() - begun
            if waited > next_line:
                next_line = max(5.0, 2 * next_line)
                say(f"{name}: saving" + (f", since {duration(waited)}" if waited > 1 else ""))
    except KeyboardInterrupt:
        raise TroupeError(
            Problem("interrupted", name, "will still save and stop; nobody waits for it now"), STOPPED
        ) from None
    saved = False
    with contextlib.suppress(OSError):  # it stays, for others who asked too; whoever goes on clears it away
        saved = (path / STOP_FILE).read_text(encoding="utf-8") == SAVED  # its owner says so
    newest = checkpoint.newest_whole(RunFolder(path).checkpoints) if not whole else None
    return _answer(
        {
            "name": name,
            "job": None,
            "finished": _finished(path, whole),
            "saved": saved,
            "step": checkpoint.place_of(newest.name)[0] if newest is not None else None,
            "resume": f"troupe {'search' if whole else 'train'} --resume {name}",
        },
        whole,
    )


def _finished(path: Path, whole: bool) -> bool:
    """Whether a run, or every trial of a search, has come to its end."""
    if whole:
        return all(trial.state not in leaderboard.OPEN for trial in leaderboard.read(path).trials)
    return RunFolder(path).read_result() is not None


def _answer(stopped: dict[str, Any], whole: bool) -> Answer:
    """What `stop` answers of a run, or of a `whole` search; a problem where it neither finished nor saved."""
    name, saved, hint = stopped["name"], stopped["saved"], f"go on with `{stopped['resume']}`"
    if stopped["finished"]:
        return Answer(stopped, f"{name}: finished before it could be stopped")
    where = f" at step {stopped['step']}" if stopped["step"] is not None else ""
    if saved:
        return Answer(stopped, f"{name}: stopped and saved{where}; {hint}")
    problem = Problem("not-saved", name, f"ended without saving, its newest checkpoint{where}", hint)
    if stopped["step"] is None and not whole:
        problem = Problem("not-saved", name, "ended before its first checkpoint")
    return Answer(stopped, sentence(problem), FAILED, [problem])


def logs(runs: Path, name: str, rank: int | None, follow: bool) -> Iterator[Piece]:
    """What the workers of a run print, piece by piece, each with its rank: of one rank, or of all one after another.

    `follow`: of one rank (the first where none is named), until nobody works on the run any more. Raises TroupeError
    (exit code 2) where there is no such run or rank.
    """
    folder = run_folder.find(runs, name)
    there = sorted(folder.logs.glob("rank_*.log"), key=run_folder.natural)
    if rank is not None and folder.log(rank) not in there:
        known = ", ".join(path.stem.removeprefix("rank_") for path in there) or "none"
        reason, hint = f"{folder.name} has no log of it", f"ranks that have one: {known}"
        raise TroupeError(Problem("bad-value", "--rank", reason, hint, rank), WORDS)
    if follow:
        return _followed(folder, rank or 0)
    wanted = there if rank is None else [folder.log(rank)]
    return (
        (int(path.stem.removeprefix("rank_")), path.read_text(encoding="utf-8", errors="replace")) for path in wanted
    )


def _followed(folder: RunFolder, rank: int) -> Iterator[Piece]:
    path, place, decoder = folder.log(rank), 0, codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        working = folder.working
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:  # its worker may not have begun
            file.seek(place)
            while piece := file.read(PIECE):
                place += len(piece)
                yield rank, decoder.decode(piece)
        if not working:
            return
        time.sleep(WAITS.look_at_log)


def headed(pieces: Iterable[Piece], follow: bool) -> Iterator[str]:
    """The texts of pieces; where they are of several ranks, each under its heading."""
    whole = pieces if follow else list(pieces)
    several = isinstance(whole, list) and len(whole) > 1
    for rank, piece in whole:
        yield f"==> rank_{rank}.log <==\n{piece}" if several else piece


def shown(pieces: Iterable[Piece], follow: bool, keep: bool) -> list[dict[str, Any]]:
    """Print pieces as they come. `keep`: return them, the text of each rank, and print only what is followed."""
    kept: dict[int | None, list[str]] = {}

    def passing() -> Iterator[Piece]:
        for rank, piece in pieces:
            if keep:
                kept.setdefault(rank, []).append(piece)
            yield rank, piece

    texts = headed(passing(), follow)
    if keep and not follow:
        for _ in texts:
            pass
    else:
        show(texts)
    return [{"rank": rank, "text": "".join(parts)} for rank, parts in kept.items()]


def show(pieces: Iterable[str]) -> None:
    """Print pieces as they come. A reader that has gone wanted no more, and Ctrl-C is how one stops looking."""
    try:
        for piece in pieces:
            try:
                sys.stdout.write(piece)
                flush(sys.stdout)
            except BrokenPipeError:
                return
            except OSError as error:
                reason = f"the output could not be written ({error.strerror})"
                raise TroupeError(Problem("not-written", reason=reason), SURROUNDINGS) from None
    except KeyboardInterrupt:
        return
