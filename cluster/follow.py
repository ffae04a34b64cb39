"""Runs and searches that others carry out: what their workers print, and how they are stopped. Whoever works on one is
known by its lock, and told by a file in its folder: on this machine, or on any that sees the folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cluster import leaderboard
from cluster.show import duration
from trainers.engine import checkpoint, runfolder
from trainers.engine.errors import CONFLICT, SURROUNDINGS, WORDS, TroupeError
from trainers.engine.runfolder import STOP, TRIALS, RunFolder

LOOK = 0.2  # seconds between looks
PIECE = 1 << 16  # bytes that are read at once


def stop(runs: Path, name: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Let a run or a search save and end, and wait until it has.

    Raises TroupeError: exit code 2 for no such name or a trial, 4 where nobody works on it.
    """
    path = leaderboard.find(runs, name).path if leaderboard.is_search(runs, name) else runfolder.find(runs, name).path
    if path.parent.name == TRIALS and leaderboard.is_search(path.parents[2], path.parents[1].name):
        search = path.parents[1].name
        raise TroupeError(f"{name}: is a trial; stop its search, `troupe stop {search}`", WORDS)
    if not runfolder.is_held(path):
        ended = "has finished" if RunFolder(path).read_result() else "stands still"
        raise TroupeError(f"{name}: nobody works on it, it {ended}; `troupe runs` shows what is under way", CONFLICT)
    (path / STOP).touch()
    begun, told = time.monotonic(), 0.0
    while runfolder.is_held(path):
        time.sleep(LOOK)
        waited = time.monotonic() - begun
        if waited > told:
            told = max(5.0, 2 * told)
            say(f"{name}: saving" + (f", since {duration(waited)}" if waited > 1 else ""))
    (path / STOP).unlink(missing_ok=True)
    if leaderboard.is_search(path.parent, path.name):
        return {"name": name, "finished": False, "resume": f"troupe search --resume {name}"}
    folder = RunFolder(path)
    newest = checkpoint.newest_whole(folder.checkpoints)
    step = checkpoint.place_of(newest.name)[0] if newest is not None else 0
    return {"name": name, "finished": folder.read_result() is not None, "step": step,
            "resume": f"troupe train --resume {name}"}  # fmt: skip


def text(stopped: dict[str, Any]) -> str:
    """How it ended, in a line."""
    if stopped["finished"]:
        return f"{stopped['name']}: finished before it could be stopped"
    where = f" at step {stopped['step']}" if "step" in stopped else ""
    return f"{stopped['name']}: stopped and saved{where}; go on with `{stopped['resume']}`"


def logs(runs: Path, name: str, rank: int | None, follow: bool) -> Iterator[str]:
    """What the workers of a run print, piece by piece: of one rank, or of all, a heading for each.

    `follow`: of one rank (the first where none is named), until nobody works on the run any more. Raises TroupeError
    (exit code 2) where there is no such run or rank.
    """
    folder = runfolder.find(runs, name)
    there = sorted(folder.logs.glob("rank_*.log"), key=runfolder.natural)
    if rank is not None and folder.log(rank) not in there:
        known = ", ".join(path.stem.removeprefix("rank_") for path in there) or "none"
        raise TroupeError(f"--rank {rank}: {folder.name} has no log of it; there are {known}", WORDS)
    if not follow:
        for path in there if rank is None else [folder.log(rank)]:
            yield f"==> {path.name} <==\n" if rank is None and len(there) > 1 else ""
            yield path.read_text(errors="replace")
        return
    path, place = folder.log(rank or 0), 0
    while True:
        working = folder.working
        with open(path, "rb") as file:
            file.seek(place)
            while piece := file.read(PIECE):
                place += len(piece)
                yield piece.decode(errors="replace")
        if not working:
            return
        time.sleep(LOOK)


def show(pieces: Iterator[str]) -> None:
    """Print pieces as they come. A reader that has gone wanted no more."""
    try:
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        raise TroupeError(f"the output could not be written ({error.strerror})", SURROUNDINGS) from None
