"""The names of all files that runs and searches write to their folders. Any other file belongs to the user."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainers.base.paths import TRIALS
from trainers.storage.ownership import MARK

HIDDEN = rf"\..*\.making|\.(lock|driver|writing|fetching|stop|mirror\.json|bucket)|{re.escape(MARK)}"
CHECKPOINT = r"step_\d+(_pending|_phase_\d+)?"
IN_CHECKPOINT = rf"state\.pt|manifest\.json|{HIDDEN}"
FILES = re.compile(
    rf"""
      settings\.json(\.before)? | (metrics|starts|restarts)\.jsonl | (result|verdict|search)\.json | leaderboard\.csv
    | events\.out\.tfevents\..* | from\.(pt|pth|safetensors) | driver\.log | [^./][^/]*\.png | timelapse\.gif
    | checkpoints/({HIDDEN}) | checkpoints/(\.making_)?{CHECKPOINT}(-[0-9a-f]+|\.damaged(-\d+)?)?/({IN_CHECKPOINT})
    | grids/(step_\d+\.(png|txt)|{HIDDEN}) | logs/(rank_\d+\.log|driver\.log|{HIDDEN})
    | report/(index\.html|report\.json|trials\.csv|pictures/.*|{HIDDEN}) | \.tune-[0-9a-f]+/.* | {TRIALS}/({HIDDEN})
    | {HIDDEN}
    """,
    re.VERBOSE,
)
FOLDERS = re.compile(
    rf"checkpoints|grids|logs|{TRIALS}|report|checkpoints/(\.making_)?{CHECKPOINT}[^/]*|"
    r"report/pictures(/.*)?|\.tune-[0-9a-f]+(/.*)?"
)
TRIAL = re.compile(rf"{TRIALS}/\d+(/|$)")


def foreign(names: Iterable[str]) -> list[str]:
    """The given names in the folder of a run or search that troupe does not write; folders end in `/`."""
    return [name for name in names if not _is_own(name)]


def _is_own(name: str) -> bool:
    inside = TRIAL.sub("", name, count=1)
    if name.endswith("/"):
        return inside in ("", "/") or FOLDERS.fullmatch(inside.rstrip("/")) is not None
    return FILES.fullmatch(inside) is not None


def is_of_checkpoint(name: str) -> bool:
    """Whether a name in the folder of a run is a file of a checkpoint."""
    return name.startswith("checkpoints/") and _is_own(name)


def names_in(folder: Path) -> Iterator[str]:
    """All files and folders in a folder, by name within it; folders end in `/`, and links are files."""
    for path, inside, files in os.walk(folder):
        relative = os.path.relpath(path, folder).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        for name in (*files, *inside):
            is_folder = name in inside and not os.path.islink(os.path.join(path, name))
            yield f"{prefix}{name}" + ("/" if is_folder else "")
