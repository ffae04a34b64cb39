"""Paths as users type them, and as they are shown."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.base.problems import Problem

DATA_DIR = "~/.cache/troupe"  # default for data sets and packed folders
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
TRIALS = "trials"  # in the folder of a search: its trials


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~user` replaced; unchanged if there is no such user (it then does not exist).

    A user without a home, such as a bare user id in a container, gets a temporary folder instead. Raises TroupeError
    (exit code 3) if that folder belongs to another user.
    """
    found = os.path.expanduser(path)
    if found == "~" or found.startswith("~/"):
        return _instead_of_home() / found[2:]
    return Path(found)


def _instead_of_home() -> Path:
    folder = Path(tempfile.gettempdir()) / f"troupe-home-{os.geteuid()}"
    if os.path.lexists(folder) and (folder.is_symlink() or folder.stat().st_uid != os.geteuid()):
        reason = f"is not set, and its substitute {folder} belongs to another user"
        raise TroupeError(Problem("not-ours", "HOME", reason, "set it to a folder of yours"), ENVIRONMENT)
    return folder


def printable(name: str | Path) -> str:
    """A name as text that can be printed, drawn and written: bytes that are not UTF-8, control characters and line
    breaks are escaped as `\\xe9`."""
    return CONTROLS.sub(lambda found: repr(found[0])[1:-1], encodable(str(name)))


def in_utf8(name: str) -> str:
    """A file name as the same text in every locale; Python's decoding of its bytes depends on the locale."""
    try:
        return os.fsencode(name).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name


def encodable(text: str) -> str:
    """A text that can be written as UTF-8: other bytes of names are escaped as `\\xe9`."""
    try:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate, which no file name has
        return text.encode("utf-8", "backslashreplace").decode()


def natural(name: str) -> list[str | int]:
    """Sort key for names: 2 comes before 10."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))]
