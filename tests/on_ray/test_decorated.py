"""Pictures that fail in a trial of a search and in a run of several workers: told once, and nothing else is lost."""

from __future__ import annotations

import json
import shutil

import pytest
from commands import OWN_FAMILIES, Commands

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

INLINE = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # as a notebook says, which has that library
SMALL = ("steps=4", "log_every=1", "batch_size=8", "microbatch_size=2", "evaluate_every=2", "--families", "mine")
FAILED = "pictures: cannot be made (ZeroDivisionError: of mine (line "


def test_pictures_that_fail_are_told_once_by_a_search_and_by_a_run_of_two_workers(troupe: Commands) -> None:
    root = troupe.folder / "mine"
    shutil.copytree(OWN_FAMILIES / "curve", root / "bent")
    shutil.copytree(OWN_FAMILIES / "data", root / "data")
    file, method = root / "bent" / "training.py", "    def evaluate("
    broken = "    def pictures(self, found, data):\n        raise ZeroDivisionError('of mine')\n\n"
    file.write_text(file.read_text().replace(method, f"{broken}{method}"))
    search = ("search", "bent", "degree=2,3", "workers=1", "--space", "none", "--name", "s")
    run = ("train", "bent", "workers=2", "--name", "run")
    for words, trials in ((search, ("s/trials/0001", "s/trials/0002")), (run, ("run",))):
        done = troupe.run(*words, *SMALL, seconds=120, environment=INLINE)
        assert done.code == 0, done
        assert (done.out + done.err).count(FAILED) == 1, done
        for name in trials:
            folder = troupe.path(name)
            result = json.loads((folder / "result.json").read_text())
            assert (result["steps"], result["pictures"], len(result["not_made"])) == (4, ["curves.png"], 1)
            assert (folder / "curves.png").exists()
