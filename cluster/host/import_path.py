"""Removes the current folder from the module search path.

Else a user's `trainers.py`, `torch.py` or `numpy.py` there would replace our packages or our dependencies. `python -m`
puts the current folder first, or PYTHONPATH contains it as an empty name or `.`, mostly by mistake
(`PYTHONPATH=$PYTHONPATH:/mine`). A folder that is given as an absolute path is intended, and stays.
"""

from __future__ import annotations

import os
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), os.pardir, os.pardir))  # the folder of our packages
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
