"""Removes the current folder from the module search path, and finds our packages for child processes.

Else a user's `trainers.py`, `torch.py` or `numpy.py` there would replace our packages or our dependencies. `python -m`
puts the current folder first, or PYTHONPATH contains it as an empty name or `.`, mostly by mistake
(`PYTHONPATH=$PYTHONPATH:/mine`). A folder that is given as an absolute path is intended, and stays; but our packages
are ours there too.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), os.pardir, os.pardir))  # the folder of our packages
OURS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ours")  # only names of our packages, and all of them
HERE = ("", os.curdir, os.curdir + os.sep)


def leave_folder() -> None:
    """Remove the current folder from the search path, here and in child processes; unless it is ROOT."""
    before = os.environ.get("PYTHONPATH", "")
    after = without_folder(before)
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # it was removed, and holds no modules
        return
    if folder != ROOT and folder not in after.split(os.pathsep):
        sys.path[:] = [entry for entry in sys.path if entry not in (*HERE, folder)]
        if after != before:
            os.environ["PYTHONPATH"] = after


def without_folder(paths: str) -> str:
    """The value of PYTHONPATH without the current folder."""
    return os.pathsep.join(entry for entry in paths.split(os.pathsep) if entry not in HERE)


def folders() -> list[str]:
    """What child processes search first: our packages, but not others that are installed beside them, which would
    come before the standard library and before what PYTHONPATH replaces."""
    installed = any(name.endswith(".dist-info") for name in os.listdir(ROOT))
    return [OURS] if installed else [ROOT]


@contextlib.contextmanager
def ours_first() -> Iterator[None]:
    """Inside, processes that get this one's search path find our packages first."""
    before = sys.path[:]
    sys.path[:0] = folders()
    try:
        yield
    finally:
        sys.path[:] = before
