"""The folder in which a command is typed is no place for modules.

A user's `trainers.py`, `torch.py` or `numpy.py` there would else be taken for ours, or for what we stand on. Such an
entry is put first by `python -m`, or stands in PYTHONPATH as an empty name or `.`, mostly by mistake
(`PYTHONPATH=$PYTHONPATH:/mine`). A folder that is named in full was meant.
"""

from __future__ import annotations

import os
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), os.pardir, os.pardir))  # where our packages lie
HERE = ("", os.curdir, os.curdir + os.sep)


def leave_folder() -> None:
    """Look for no modules in the folder of now, neither here nor in what is started; in our own one, as before."""
    said = os.environ.get("PYTHONPATH", "")
    kept = without_folder(said)
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it was removed, and holds none
        return
    if here != ROOT and here not in kept.split(os.pathsep):
        sys.path[:] = [entry for entry in sys.path if entry not in (*HERE, here)]
        if kept != said:
            os.environ["PYTHONPATH"] = kept


def without_folder(said: str) -> str:
    """What PYTHONPATH says, without the folder of now."""
    return os.pathsep.join(entry for entry in said.split(os.pathsep) if entry not in HERE)
