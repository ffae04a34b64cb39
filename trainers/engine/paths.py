"""Paths as people type them."""

from __future__ import annotations

import os
from pathlib import Path

DATA_DIR = "~/.cache/troupe"  # data sets and packed folders, where nobody says otherwise
TRIALS = "trials"  # in the folder of a search: those of its trials


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~user` replaced; as it is where there is no such user, and then nothing is found there."""
    return Path(os.path.expanduser(path))
